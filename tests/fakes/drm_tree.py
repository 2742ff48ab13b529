"""Trees of files as Linux shows them for graphics cards: ``/sys/class/drm``, ``/dev/dri`` and ``/proc/PID/fdinfo``.

The shapes are those of the kernel's documentation (gpu/drm-usage-stats.rst, gpu/amdgpu/driver-misc.rst,
gpu/amdgpu/thermal.rst, xe_drm_client.c); the sizes are about those of cards that are sold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class CardFiles:
    """What the folder of one card's device holds; a ``name`` with a slash is in a folder below."""

    pci: str
    driver: str
    vendor: str
    device: str
    files: Mapping[str, str] = field(default_factory=dict)


def amd_memory(vram: int, vram_used: int, gtt: int, gtt_used: int) -> dict[str, str]:
    """The files of amdgpu about memory."""
    sizes = {"vram_total": vram, "vram_used": vram_used, "gtt_total": gtt, "gtt_used": gtt_used}
    return {f"mem_info_{name}": f"{size}\n" for name, size in sizes.items()}


RX_7900_XTX = CardFiles(
    "0000:03:00.0",
    "amdgpu",
    "0x1002",
    "0x744c",
    {
        **amd_memory(25753026560, 3 * GIB, 33500000256, 40 * MIB),
        "mem_info_vram_vendor": "samsung\n",
        "hwmon/hwmon3/name": "amdgpu\n",
        "hwmon/hwmon3/in0_label": "vddgfx\n",
    },
)
RX_580 = CardFiles(  # from before the maker of its memory chips was told
    "0000:05:00.0",
    "amdgpu",
    "0x1002",
    "0x67df",
    {**amd_memory(8 * GIB, GIB, 16 * GIB, 0), "hwmon/hwmon2/in0_label": "vddgfx\n"},
)
RX_570 = CardFiles(  # with little memory, in a machine with much
    "0000:05:00.0",
    "amdgpu",
    "0x1002",
    "0x67df",
    {
        **amd_memory(4 * GIB, GIB, 16 * GIB, 0),
        "hwmon/hwmon2/freq1_label": "sclk\n",
        "hwmon/hwmon2/freq2_label": "mclk\n",
    },
)
RADEON_780M = CardFiles(  # in a processor, with 64 GiB beside it
    "0000:c4:00.0",
    "amdgpu",
    "0x1002",
    "0x15bf",
    {
        **amd_memory(4 * GIB, 300 * MIB, 32 * GIB, 2 * GIB),
        "hwmon/hwmon5/in0_label": "vddgfx\n",
        "hwmon/hwmon5/in1_label": "vddnb\n",
    },
)
SMALL_APU = CardFiles(  # the firmware shows no sensor
    "0000:0d:00.0",
    "amdgpu",
    "0x1002",
    "0x164e",
    {**amd_memory(512 * MIB, 20 * MIB, 15 * GIB, 30 * MIB), "mem_info_vram_vendor": "unknown\n"},
)
STRIX_HALO_CARVED = CardFiles(  # the firmware gives it 96 of 128 GiB
    "0000:c5:00.0",
    "amdgpu",
    "0x1002",
    "0x1586",
    {**amd_memory(96 * GIB, 20 * GIB, 16 * GIB, GIB), "hwmon/hwmon5/in1_label": "vddnb\n"},
)
ARC_B580 = CardFiles("0000:04:00.0", "xe", "0x8086", "0xe20b")
ARC_A770 = CardFiles("0000:03:00.0", "i915", "0x8086", "0x56a0")
UHD = CardFiles("0000:00:02.0", "i915", "0x8086", "0x46a6")
RTX_4080 = CardFiles("0000:01:00.0", "nvidia", "0x10de", "0x2704")
SERVER_CONSOLE = CardFiles("0000:06:00.0", "ast", "0x1a03", "0x2000")

AMD_CLIENT = """\
pos:\t0
flags:\t02100002
mnt_id:\t24
ino:\t1204
drm-driver:\tamdgpu
drm-client-id:\t{client}
drm-pdev:\t{pci}
pasid:\t32785
drm-total-vram:\t{vram} KiB
drm-shared-vram:\t13584 KiB
drm-resident-vram:\t{vram} KiB
drm-total-gtt:\t{gtt} KiB
drm-resident-gtt:\t{gtt} KiB
drm-memory-vram:\t{vram} KiB
drm-memory-gtt: \t{gtt} KiB
drm-memory-cpu: \t0 KiB
amd-evicted-vram:\t0 KiB
drm-engine-gfx:\t39456116802 ns
"""
OLD_AMD_CLIENT = """\
drm-driver:\tamdgpu
drm-pdev:\t0000:03:00.0
drm-client-id:\t9
drm-memory-vram:\t1024 KiB
drm-memory-gtt: \t512 KiB
"""
XE_CLIENT = """\
drm-driver:\txe
drm-client-id:\t3
drm-pdev:\t0000:04:00.0
drm-total-system:\t0
drm-resident-system:\t0
drm-total-gtt:\t192 KiB
drm-resident-gtt:\t192 KiB
drm-total-vram0:\t30 MiB
drm-shared-vram0:\t16 MiB
drm-resident-vram0:\t23992 KiB
drm-resident-stolen:\t0
drm-cycles-rcs:\t28257900
drm-total-cycles-rcs:\t7655183225
"""
I915_CLIENT = """\
drm-driver:\ti915
drm-pdev:\t0000:03:00.0
drm-client-id:\t7
drm-total-local0:\t6 GiB
drm-resident-local0:\t5 GiB
drm-total-system0:\t2048 KiB
drm-resident-system0:\t1048576
drm-engine-render:\t573979900 ns
"""


@dataclass
class DrmTree:
    """The folders that stand in for ``/sys``, ``/proc`` and ``/dev`` of a machine, made below ``root``."""

    root: Path

    def __post_init__(self) -> None:
        self.sys, self.proc, self.dev = (self.root / name for name in ("sys", "proc", "dev"))
        (self.sys / "class/drm").mkdir(parents=True)
        self.proc.mkdir()
        (self.dev / "dri").mkdir(parents=True)

    def add(self, number: int, card: CardFiles) -> Path:
        """Put a card in, with its connector and its device to ask; returns the folder of its device."""
        folder = self.sys / "devices/pci0000:00" / card.pci
        driver = self.sys / "bus/pci/drivers" / card.driver
        render = f"renderD{128 + number}"
        for made in (folder / "drm" / render, driver):
            made.mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(driver)
        names = {"vendor": f"{card.vendor}\n", "device": f"{card.device}\n", **card.files}
        for name, text in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        entry = self.sys / f"class/drm/card{number}"
        entry.mkdir()
        (entry / "device").symlink_to(folder)
        (self.sys / f"class/drm/card{number}-HDMI-A-1").mkdir()
        (self.dev / "dri" / render).touch()
        return folder

    def open_by(self, pid: int, descriptor: int, text: str, target: str = "renderD128") -> None:
        """Have a process hold a card open, or another file; *text* is what its ``fdinfo`` says."""
        folder = self.proc / str(pid)
        for name in ("fd", "fdinfo"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        full = target if target.startswith("/") else f"/dev/dri/{target}"
        (folder / "fd" / str(descriptor)).symlink_to(full)
        (folder / "fdinfo" / str(descriptor)).write_text(text)


def amd_client(client: int, vram_mib: int, gtt_mib: int = 0, pci: str = RX_7900_XTX.pci) -> str:
    """What one client of amdgpu shows."""
    return AMD_CLIENT.format(client=client, pci=pci, vram=vram_mib * 1024, gtt=gtt_mib * 1024)
