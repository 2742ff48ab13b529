"""Lists the cards of AMD and Intel that Linux knows, from files in /sys that no driver can make wait."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aider_guard.core.readings import Unavailable

SYS: Final = Path("/sys")
NO_SYSFS: Final = Unavailable("there is no /sys/class/drm here")

_MAKERS: Final = {"0x1002": "AMD", "0x8086": "Intel"}
_NVIDIA: Final = "0x10de"
_NUMBERS: Final = {maker: number.removeprefix("0x") for number, maker in _MAKERS.items()}
_DRIVERS: Final = frozenset({"amdgpu", "i915", "xe"})
"""The drivers whose cards Ollama can use; NVIDIA's cards are read by NVIDIA's own library."""
_INTEGRATED_INTEL: Final = "0000:00:02.0"
"""Where Intel's processors have their own GPU (nvtop's extract_gpuinfo_intel.c has the same rule)."""
_CARD: Final = re.compile(r"card(\d{1,4})")  # card0-HDMI-A-1 is a connector
_PCI_IDS: Final = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
_MOST_BYTES: Final = 4096  # sysfs gives at most a page


@dataclass(frozen=True)
class DrmCard:
    """One card of Linux's Direct Rendering Manager: ``/sys/class/drm/cardN``, whose ``device`` is ``folder``."""

    number: int
    folder: Path
    driver: str
    maker: str
    device_id: str

    @property
    def pci_address(self) -> str:
        """Its place on the bus, as ``0000:03:00.0``."""
        return Path(os.path.realpath(self.folder)).name

    @property
    def is_integrated_intel(self) -> bool:
        """Whether it is the GPU inside an Intel processor, which has no memory of its own."""
        return self.maker == "Intel" and self.pci_address == _INTEGRATED_INTEL

    @property
    def place(self) -> str:
        """The card in words, for a sentence about what is wrong with it."""
        return f"the {self.maker} GPU at {self.pci_address}"


def list_cards(sys_root: Path = SYS) -> tuple[DrmCard, ...] | Unavailable:
    """Return the cards of AMD and Intel by number; Unavailable where the list itself cannot be read."""
    folder = sys_root / "class/drm"
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return NO_SYSFS
    except OSError as error:
        return Unavailable(f"/sys/class/drm cannot be read ({error.strerror})")
    numbers = sorted(int(match[1]) for name in names if (match := _CARD.fullmatch(name)))
    cards = (_card(number, folder / f"card{number}/device") for number in numbers)
    return tuple(card for card in cards if card is not None)


def has_nvidia_card(sys_root: Path = SYS) -> bool:
    """Whether Linux knows a card of NVIDIA, which may be in use where its library is not: outside this container."""
    for vendor in sys_root.glob("class/drm/card*/device/vendor"):
        with suppress(OSError):
            if read_word(vendor) == _NVIDIA:
                return True
    return False


def _card(number: int, folder: Path) -> DrmCard | None:
    """One card; None for one of another kind, and for one that went away meanwhile."""
    try:
        maker = _MAKERS.get(read_word(folder / "vendor"))
        driver = Path(os.path.realpath(folder / "driver", strict=True)).name
        device_id = read_word(folder / "device")
    except OSError:
        return None
    if maker is None or driver not in _DRIVERS:
        return None
    return DrmCard(number, folder, driver, maker, device_id.removeprefix("0x"))


def read_word(path: Path) -> str:
    """Return what a small file of the kernel says, without the space around it. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()


def read_bytes_count(card: DrmCard, name: str) -> int | Unavailable:
    """Return a number of bytes from one of a card's files."""
    try:
        text = read_word(card.folder / name)
    except OSError as error:
        return unreadable(card, name, error)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return Unavailable(f"{name} of {card.place} holds no number")
    return int(text)


def unreadable(card: DrmCard, name: str, error: OSError) -> Unavailable:
    """Why a card's file cannot be read, in words."""
    if error.errno in (errno.ENODEV, errno.ENXIO) or not card.folder.exists():
        return Unavailable(f"{card.place} is gone")
    if error.errno == errno.ENOENT:
        return Unavailable(f"the driver of {card.place} does not tell its memory ({name})")
    return Unavailable(f"{name} of {card.place} cannot be read ({error.strerror})")


def name_of(card: DrmCard, root: Path = Path("/")) -> str:
    """Return the name that the system's list of PCI devices has for a card, else its number there."""
    for file in _PCI_IDS:
        try:
            with (root / file).open(encoding="utf-8", errors="replace") as lines:
                listed = _listed_name(card, lines)
        except OSError:
            continue
        if listed:
            known_as = re.search(
                r"\[(.+)\]", listed
            )  # of two names the one that buyers know is in brackets
            return f"{card.maker} {known_as[1] if known_as else listed}"
    return f"{card.maker} GPU {card.device_id}"


def _listed_name(card: DrmCard, lines: Iterable[str]) -> str:
    """Find a card's name in the list: makers begin a line, and their devices follow behind a tab. "" if it has none."""
    maker, device = f"{_NUMBERS[card.maker]}  ", f"\t{card.device_id}  "
    is_maker = False
    for line in lines:
        if is_maker and line.startswith(device):
            return line.removeprefix(device).strip()
        if not line.startswith(("\t", "#", "\n")):
            is_maker = line.startswith(maker)
    return ""
