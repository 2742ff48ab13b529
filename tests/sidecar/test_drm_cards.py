"""Cards of AMD and Intel, read from trees of files as the kernel makes them: sizes, use, processes, what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from checks.worlds import server
from fakes.drm_tree import (
    ARC_B580,
    GIB,
    I915_CLIENT,
    MIB,
    OLD_AMD_CLIENT,
    RADEON_780M,
    RTX_4080,
    RX_570,
    RX_580,
    RX_7900_XTX,
    SERVER_CONSOLE,
    SMALL_APU,
    STRIX_HALO_CARVED,
    UHD,
    XE_CLIENT,
    CardFiles,
    DrmTree,
    amd_client,
)

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import (
    GPU_USE_NOT_TOLD,
    INTEGRATED_INTEL,
    Gpu,
    GpuProcess,
    MemoryReading,
    Unavailable,
)
from aider_guard.core.wire import decode, encode
from aider_guard.launch.server_runtime import cards_of
from aider_guard.sidecar import drm
from aider_guard.sidecar.drm_cards import NO_SYSFS, DrmCard, list_cards, name_of
from aider_guard.sidecar.drm_clients import DrmClient, parse_client
from aider_guard.sidecar.intel_regions import USE_NOT_TOLD

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> DrmTree:
    """A machine without a card."""
    return DrmTree(tmp_path)


def read(tree: DrmTree) -> tuple[tuple[Gpu, ...] | Unavailable, tuple[Unavailable, ...]]:
    """One reading of this machine's cards."""
    return drm.read_gpus(tree.sys, tree.proc)


def only(tree: DrmTree) -> Gpu:
    """The one card that is read, and nothing is left out."""
    gpus, unread = read(tree)
    assert isinstance(gpus, tuple), gpus
    (gpu,) = gpus
    assert unread == ()
    return gpu


def test_reads_a_card_of_amd(tree: DrmTree) -> None:
    """What it has and what is used, by its driver; what each process holds, by the kernel."""
    tree.add(1, RX_7900_XTX)
    tree.open_by(812, 9, amd_client(30, 18 * 1024, 22))
    gpu = only(tree)
    assert (gpu.index, gpu.vram_total_bytes, gpu.vram_used_bytes) == (1, 25753026560, 3 * GIB)
    assert gpu.processes == (GpuProcess(812, "", 18 * GIB, is_ollama=False),)
    assert not gpu.shares_main_memory
    assert gpu.name.startswith("AMD ")


def test_a_client_counts_once(tree: DrmTree) -> None:
    """It shows in each descriptor and in each process that has one; two clients of a process are both its own."""
    tree.add(0, RX_7900_XTX)
    for descriptor in (5, 6, 7):
        tree.open_by(100, descriptor, amd_client(30, 1000))
    tree.open_by(100, 8, amd_client(31, 24))
    tree.open_by(200, 5, amd_client(30, 1000))
    tree.open_by(200, 6, amd_client(32, 1))
    assert only(tree).processes == (
        GpuProcess(100, "", 1024 * MIB, is_ollama=False),
        GpuProcess(200, "", 1 * MIB, is_ollama=False),
    )


def test_two_cards_have_their_own_processes(tree: DrmTree) -> None:
    """A client's number is unique for one card only; other files of a process are not looked at."""
    tree.add(0, RX_7900_XTX)
    tree.add(2, RX_580)
    tree.open_by(100, 5, amd_client(1, 100))
    tree.open_by(100, 6, amd_client(1, 200, pci=RX_580.pci), "renderD130")
    tree.open_by(100, 7, amd_client(9, 999), "/home/user/text")
    gpus, _ = read(tree)
    assert isinstance(gpus, tuple)
    held = [[p.vram_used_bytes for p in gpu.processes] for gpu in gpus if gpu.processes]  # type: ignore[union-attr]  # read
    assert held == [[100 * MIB], [200 * MIB]]


SHARED: list[tuple[CardFiles, bool, int, int]] = [
    (RADEON_780M, True, 32 * GIB, 2 * GIB),
    (SMALL_APU, True, 15 * GIB, 30 * MIB),
    (STRIX_HALO_CARVED, False, 96 * GIB, 20 * GIB),
    (RX_580, False, 8 * GIB, GIB),
    (RX_570, False, 4 * GIB, GIB),
    (RX_7900_XTX, False, 25753026560, 3 * GIB),
]


@pytest.mark.parametrize(("card", "shares", "total", "used"), SHARED)
def test_a_gpu_in_a_processor_has_the_memory_that_the_kernel_gives_it(
    tree: DrmTree, card: CardFiles, shares: bool, total: int, used: int
) -> None:
    """Main memory, unless the firmware set more aside; a card with less memory than the machine stays a card."""
    tree.add(0, card)
    tree.open_by(7, 3, amd_client(1, 10, 500, card.pci))
    gpu = only(tree)
    assert (gpu.shares_main_memory, gpu.vram_total_bytes, gpu.vram_used_bytes) == (
        shares,
        total,
        used,
    )
    expected = GpuProcess(7, "", (500 if shares else 10) * MIB, is_ollama=False)
    assert gpu.processes == (expected,)


def test_other_devices_are_no_cards_here(tree: DrmTree) -> None:
    """NVIDIA's own library reads NVIDIA's; a server's console computes nothing; a connector is no card."""
    for number, card in enumerate((RTX_4080, SERVER_CONSOLE)):
        tree.add(number, card)
    assert list_cards(tree.sys) == ()
    (tree.sys / "class/drm/card7").mkdir()  # without a device
    (tree.sys / "class/drm/version").write_text("drm 1.1.0 20060810\n")
    assert list_cards(tree.sys) == ()


def test_a_container_without_sysfs_has_a_reason(tmp_path: Path) -> None:
    """It is not taken for a machine without a card where it can be told."""
    assert list_cards(tmp_path) == NO_SYSFS
    assert drm.read_gpus(tmp_path, tmp_path) == (NO_SYSFS, ())


def test_files_that_cannot_be_read_are_said(tree: DrmTree, tmp_path: Path) -> None:
    """One file of a card, and the list itself, with the words of the system."""
    folder = tree.add(0, RX_7900_XTX)
    (folder / "mem_info_vram_total").unlink()
    (folder / "mem_info_vram_total").mkdir()
    gpus, _ = read(tree)
    assert gpus == Unavailable(
        "mem_info_vram_total of the AMD GPU at 0000:03:00.0 cannot be read (Is a directory)"
    )
    (tmp_path / "class").mkdir()
    (tmp_path / "class/drm").touch()
    assert list_cards(tmp_path) == Unavailable("/sys/class/drm cannot be read (Not a directory)")


GARBAGE = ["", "none", "-1", "1e9", "0x10", "9" * 40, "12 34", "\u0661\u0662", "\0"]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_in_a_file_is_no_number(tree: DrmTree, text: str) -> None:
    """Of a total the card is not read; of its use only that is not known."""
    folder = tree.add(0, RX_7900_XTX)
    (folder / "mem_info_vram_used").write_text(text)
    why = Unavailable("mem_info_vram_used of the AMD GPU at 0000:03:00.0 holds no number")
    assert only(tree).vram_used_bytes == why
    (folder / "mem_info_vram_total").write_text(text)
    gpus, _ = read(tree)
    assert isinstance(gpus, Unavailable)
    assert "holds no number" in gpus.reason


def test_a_driver_without_these_files_is_said(tree: DrmTree) -> None:
    """As older ones, and one that tells a size of 0."""
    folder = tree.add(0, RX_7900_XTX)
    (folder / "mem_info_vram_total").write_text("0\n")
    assert read(tree)[0] == Unavailable(
        "the driver of the AMD GPU at 0000:03:00.0 reports no memory"
    )
    (folder / "mem_info_vram_total").unlink()
    assert read(tree)[0] == Unavailable(
        "the driver of the AMD GPU at 0000:03:00.0 does not tell its memory (mem_info_vram_total)"
    )


def test_one_card_that_cannot_be_read_does_not_hide_the_other(tree: DrmTree) -> None:
    """And is told beside it."""
    tree.add(0, RX_580)
    (tree.add(1, RX_7900_XTX) / "mem_info_vram_total").write_text("?")
    gpus, unread = read(tree)
    assert isinstance(gpus, tuple)
    assert [gpu.index for gpu in gpus] == [0]
    assert [why.reason for why in unread] == [
        "mem_info_vram_total of the AMD GPU at 0000:03:00.0 holds no number"
    ]


def test_a_card_that_vanished_is_said(tree: DrmTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unplugged between the list and the reading, and before the list."""
    tree.add(0, RX_7900_XTX)
    (card,) = list_cards(tree.sys)  # type: ignore[misc]  # a tuple here
    assert isinstance(card, DrmCard)
    gone = DrmCard(0, tree.sys / "devices/pci0000:00/0000:03:00.9", "amdgpu", "AMD", "744c")
    assert drm.read_gpu(gone, {}) == Unavailable("the AMD GPU at 0000:03:00.9 is gone")
    monkeypatch.setattr(drm, "list_cards", lambda _root: ())
    assert read(tree)[0] == Unavailable("the GPU of AMD or Intel is gone")


def test_the_gpu_inside_an_intel_processor_is_not_asked(tree: DrmTree) -> None:
    """It has no memory of its own; a card beside it is read."""
    tree.add(0, UHD)
    assert read(tree)[0] == Unavailable("the GPU of AMD or Intel is gone")
    tree.add(1, RX_7900_XTX)
    assert only(tree).index == 1


@pytest.mark.parametrize(
    ("total", "expected"),
    [(12 * GIB, 12 * GIB), (0, INTEGRATED_INTEL), (Unavailable("no"), Unavailable("no"))],
)
def test_reads_a_card_of_intel(
    tree: DrmTree,
    monkeypatch: pytest.MonkeyPatch,
    total: int | Unavailable,
    expected: int | Unavailable,
) -> None:
    """Its size by its driver; what is used is told to administrators only, what our own processes hold to us."""
    tree.add(0, ARC_B580)
    tree.open_by(42, 5, XE_CLIENT)

    class Asked:
        """The answer to the question for the size."""

        cache_clear = staticmethod(lambda: None)

        def __call__(self, _card: DrmCard) -> int | Unavailable:
            return total

    monkeypatch.setattr(drm, "_total_of", Asked())
    gpus, _ = read(tree)
    if isinstance(expected, Unavailable):
        assert gpus == expected
        return
    assert isinstance(gpus, tuple)
    (gpu,) = gpus
    assert (gpu.vram_total_bytes, gpu.vram_used_bytes) == (expected, USE_NOT_TOLD)
    assert gpu.processes == (GpuProcess(42, "", 23992 << 10, is_ollama=False),)
    assert gpu.least_used_bytes == 23992 << 10


def test_a_reading_reaches_the_window(tree: DrmTree) -> None:
    """From the kernel's files over the wire to what is free for Ollama: what a game holds is not."""
    tree.add(0, RX_7900_XTX)
    tree.open_by(4711, 4, amd_client(1, 2048))
    gpus, unread = read(tree)
    sent = MemoryRead(MemoryReading(gpus, Unavailable("not read here"), 1.0, unread))
    received = decode(encode(sent))
    assert received == sent
    assert isinstance(received, MemoryRead)
    cards = cards_of(server(), received.reading)
    assert isinstance(cards, tuple)
    assert [(card.total_bytes, card.free_bytes) for card in cards] == [
        (25753026560, 25753026560 - 3 * GIB)
    ]


CLIENTS: list[tuple[str, DrmClient | None]] = [
    (OLD_AMD_CLIENT, DrmClient("0000:03:00.0", "9", 1 * MIB, 512 << 10)),
    (XE_CLIENT, DrmClient("0000:04:00.0", "3", 23992 << 10, 192 << 10)),
    (I915_CLIENT, DrmClient("0000:03:00.0", "7", 5 * GIB, 1 * MIB)),
    ("drm-pdev:\t0000:03:00.0\n", DrmClient("0000:03:00.0", "process 5", 0, 0)),
    (
        "drm-pdev: 0:0\ndrm-client-id: 1\ndrm-total-vram0:\t1 MiB\ndrm-total-vram1:\t2 MiB\n",
        DrmClient("0:0", "1", 3 * MIB, 0),
    ),
    (
        "drm-pdev: 0:0\ndrm-client-id: 1\ndrm-resident-vram: 7 parsecs\ndrm-memory-vram: 1 KiB\n",
        DrmClient("0:0", "1", 1024, 0),
    ),
    ("drm-pdev: 0:0\ndrm-client-id: 1\ndrm-resident-vram:\ndrm-resident-gtt: -4\n:\n::", None),
    ("pos:\t0\nflags:\t02\n", None),
    ("\ufffd\ufffd", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "client"), CLIENTS)
def test_what_a_process_holds_is_read_from_its_descriptor(
    text: str, client: DrmClient | None
) -> None:
    """By the names of each driver, in its units; what is in memory before what was asked for; garbage is nothing."""
    parsed = parse_client(text, 5)
    if client is None:
        assert parsed is None or parsed == DrmClient("0:0", "1", 0, 0)
    else:
        assert parsed == client


PCI_IDS = """\
# a comment
1000  Someone else
\t744c  Not this one
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t15bf  Phoenix1
# between
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX]
\t\t1002 0e3b  A board
8086  Intel Corporation
\te20b  Battlemage G21 [Arc B580]
"""


def test_a_card_has_the_name_that_buyers_know(tmp_path: Path) -> None:
    """From the system's list of devices; its number where there is no list, or the list is older."""
    file = tmp_path / "usr/share/hwdata/pci.ids"
    file.parent.mkdir(parents=True)
    file.write_text(PCI_IDS)

    def name(maker: str, device_id: str, root: Path = tmp_path) -> str:
        return name_of(DrmCard(0, tmp_path, "", maker, device_id), root)

    assert name("AMD", "744c") == "AMD Radeon RX 7900 XT/7900 XTX"
    assert name("AMD", "15bf") == "AMD Phoenix1"
    assert name("Intel", "e20b") == "Intel Arc B580"
    assert name("AMD", "e20b") == "AMD GPU e20b"
    assert name("AMD", "744c", tmp_path / "none") == "AMD GPU 744c"


@pytest.mark.parametrize(
    ("file", "busy"),
    [
        ({"gpu_busy_percent": "83\n"}, 83),
        ({"gpu_busy_percent": "busy\n"}, GPU_USE_NOT_TOLD),
        ({}, GPU_USE_NOT_TOLD),
    ],
)
def test_amdgpu_tells_how_busy_a_card_is(tree: DrmTree, file: dict[str, str], busy: object) -> None:
    """In a file of its own (docs.kernel.org, gpu/amdgpu/thermal.html); the heat of a card is one of the sensors."""
    tree.add(0, replace(RX_7900_XTX, files={**RX_7900_XTX.files, **file}))
    assert only(tree).busy_percent == busy
