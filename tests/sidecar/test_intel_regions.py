"""The question to the drivers of Intel's cards, against a stand-in that answers as the kernel's headers say."""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from fakes.drm_tree import ARC_A770, ARC_B580, GIB, UHD, CardFiles, DrmTree

from aider_guard.core.readings import Unavailable
from aider_guard.sidecar.drm_cards import DrmCard, list_cards
from aider_guard.sidecar.intel_regions import card_total_bytes, sum_of_regions

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM, OF_THE_CARD = 0, 1
XE_QUERY, I915_QUERY = 0xC0286440, 0xC0106479


@dataclass
class FakeDriver:
    """Answers the questions for memory regions, and remembers them."""

    regions: tuple[tuple[int, int], ...]
    requests: list[int] = field(default_factory=list)

    def answer(self, header: int) -> bytes:
        """The regions with their class and size, as ``struct drm_xe_mem_region`` and i915's begin."""
        listed = (struct.pack("<HHIQ72x", kind, 0, 4096, size) for kind, size in self.regions)
        return struct.pack(f"<I{header - 4}x", len(self.regions)) + b"".join(listed)

    def __call__(self, _device: int, request: int, question: bytearray) -> object:
        self.requests.append(request)
        if request == XE_QUERY:
            _, query, size, address, _, _ = struct.unpack("<QIIQQQ", question)
            assert query == 1
            content = self.answer(8)
            if address:
                assert size == len(content)
                ctypes.memmove(address, content, size)
            struct.pack_into("<QII", question, 0, 0, query, len(content))
            return 0
        assert request == I915_QUERY
        count, _, item = struct.unpack("<IIQ", question)
        assert count == 1
        query, size, _, address = struct.unpack("<QiIQ", ctypes.string_at(item, 24))
        assert query == 4
        content = self.answer(16)
        if address:
            assert size == len(content)
            ctypes.memmove(address, content, size)
        ctypes.memmove(item, struct.pack("<Qi", query, len(content)), 12)
        return 0


def card_in(tree: DrmTree, files: CardFiles) -> DrmCard:
    """The one card of a machine."""
    tree.add(0, files)
    cards = list_cards(tree.sys)
    assert isinstance(cards, tuple)
    return cards[0]


@pytest.mark.parametrize("files", [ARC_B580, ARC_A770])
@pytest.mark.parametrize(
    ("regions", "total"),
    [
        (((SYSTEM, 64 * GIB), (OF_THE_CARD, 12 * GIB)), 12 * GIB),
        (((OF_THE_CARD, 8 * GIB), (OF_THE_CARD, 8 * GIB)), 16 * GIB),
        (((SYSTEM, 64 * GIB),), 0),
        ((), 0),
    ],
)
def test_the_memory_of_the_card_itself(
    tmp_path: Path, files: CardFiles, regions: tuple[tuple[int, int], ...], total: int
) -> None:
    """All its tiles, without the main memory that it may use; asked in two steps, by the form of each driver."""
    tree, driver = DrmTree(tmp_path), FakeDriver(regions)
    assert card_total_bytes(card_in(tree, files), tree.dev, driver) == total
    assert driver.requests == [XE_QUERY if files is ARC_B580 else I915_QUERY] * 2


def refuse(number: int) -> object:
    """A driver that refuses every question."""

    def ioctl(_device: int, _request: int, _question: bytearray) -> object:
        raise OSError(number, "Operation not supported")

    return ioctl


def test_what_hinders_the_question_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that refuses, a device that is not there or may not be opened, a card without one."""
    tree = DrmTree(tmp_path)
    card = card_in(tree, ARC_B580)

    def reason(ioctl: object = None) -> str:
        answer = card_total_bytes(card, tree.dev, ioctl)  # type: ignore[arg-type]  # None or a function
        assert isinstance(answer, Unavailable)
        return answer.reason

    assert reason(refuse(errno.EOPNOTSUPP)) == (
        "the driver of the Intel GPU at 0000:04:00.0 does not tell its memory (Operation not supported)"
    )
    assert "does not tell its memory" in reason()  # a file is no device
    with monkeypatch.context() as patched:
        patched.setattr("os.open", _may_not)
        assert reason() == (
            "this user may not open /dev/dri/renderD128: it needs the device's group (render)"
        )
    (tree.dev / "dri/renderD128").unlink()
    assert reason() == "/dev/dri/renderD128 is not here: a container needs --device /dev/dri"
    (card.folder / "drm/renderD128").rmdir()
    assert reason() == "the Intel GPU at 0000:04:00.0 has no device to ask (renderD)"


def _may_not(*_arguments: object) -> int:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("answer", [b"", b"\1\0\0\0", b"\xff" * 8, b"\1\0\0\0\0\0\0\0" + b"x" * 87])
def test_an_answer_in_an_unknown_form_is_no_size(answer: bytes) -> None:
    """A newer kernel may have more to say."""
    assert isinstance(sum_of_regions(answer, 8), Unavailable)


def test_a_wrong_size_is_not_allocated(tmp_path: Path) -> None:
    """As i915 puts the number of an error there."""

    def ioctl(_device: int, _request: int, question: bytearray) -> object:
        (item,) = struct.unpack_from("<Q", question, 8)
        ctypes.memmove(item, struct.pack("<Qi", 4, -errno.EINVAL), 12)
        return 0

    tree = DrmTree(tmp_path)
    answer = card_total_bytes(card_in(tree, UHD), tree.dev, ioctl)
    assert answer == Unavailable("the driver of an Intel GPU answered in an unknown form")
