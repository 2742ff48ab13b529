"""The byte pumps, on fake files that take as little as they like."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.loop import READ, WRITE
from aider_guard.session.relay import (
    CHILD_HIGH_WATER_BYTES,
    CHUNK_BYTES,
    TERMINAL_HIGH_WATER_BYTES,
    Relay,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

IN, OUT, CHILD = 1000, 1001, 1002
PIECES = st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=50)), max_size=20)


@dataclass
class FakeFiles:
    """What descriptors give and take: a step of ``takes`` is a number of bytes, 0 for later."""

    gives: dict[int, list[bytes | None]] = field(default_factory=dict)
    takes: Iterator[int] = field(default_factory=lambda: iter(()))
    taken: dict[int, bytearray] = field(default_factory=dict)
    failing: dict[int, int] = field(default_factory=dict)

    def read(self, fd: int, _size: int) -> bytes:
        given = self.gives.get(fd, [])
        data = given.pop(0) if given else None
        if data is None:
            raise BlockingIOError
        return data

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if fd in self.failing:
            raise OSError(self.failing[fd], "gone")
        count = min(next(self.takes, len(data)), len(data))
        if not count:
            raise BlockingIOError
        self.taken.setdefault(fd, bytearray()).extend(data[:count])
        return count

    def relay(self) -> Relay:
        return Relay(IN, OUT, CHILD, read=self.read, write=self.write)


@given(shown=PIECES, typed=PIECES, takes=st.lists(st.integers(0, 40), max_size=60))
def test_nothing_is_lost_or_reordered(
    shown: list[bytes | None], typed: list[bytes | None], takes: list[int]
) -> None:
    """Whatever each side gives and takes at a time, both get exactly what was sent, in order."""
    files = FakeFiles({CHILD: list(shown), IN: list(typed)}, iter(takes))
    relay = files.relay()

    while any(files.gives.values()) or any(events & WRITE for events in relay.wants().values()):
        if relay.wants()[CHILD] & READ:
            relay.to_terminal(relay.read_child() or b"")
        if relay.wants()[IN] & READ:
            relay.to_child(relay.read_terminal() or b"")
        relay.flush()

    assert bytes(files.taken.get(OUT, b"")) == b"".join(data for data in shown if data)
    assert bytes(files.taken.get(CHILD, b"")) == b"".join(data for data in typed if data)


def test_a_slow_terminal_stops_the_reading_of_the_child() -> None:
    """More than 256 KiB for the terminal: the child is not read until some was written."""
    files = FakeFiles(takes=iter([0, 1, 0]))
    relay = files.relay()
    relay.to_terminal(bytes(TERMINAL_HIGH_WATER_BYTES))
    assert relay.wants() == {CHILD: READ, IN: READ, OUT: WRITE}

    relay.to_terminal(b"x")
    relay.flush()
    assert relay.wants() == {CHILD: 0, IN: READ, OUT: WRITE}

    relay.flush()
    assert relay.wants() == {CHILD: READ, IN: READ, OUT: WRITE}


def test_a_slow_child_stops_the_reading_of_the_keyboard() -> None:
    """More than 1 MiB for the child: the keyboard is not read; the child still is."""
    files = FakeFiles(takes=iter([0]))
    relay = files.relay()
    relay.to_child(bytes(CHILD_HIGH_WATER_BYTES + 1))
    relay.flush()
    assert relay.wants() == {CHILD: READ | WRITE, IN: 0, OUT: 0}

    relay.flush()
    assert relay.wants() == {CHILD: READ, IN: READ, OUT: 0}
    assert relay.pending_for_child == 0


def test_reading_tells_nothing_from_the_end() -> None:
    """None when nothing is there now, b"" at the end and ever after; no byte before is lost."""
    files = FakeFiles({CHILD: [None, b"last", b""], IN: [b""]})
    relay = files.relay()

    assert [relay.read_child() for _ in range(4)] == [None, b"last", b"", b""]
    assert relay.wants() == {CHILD: 0, IN: READ, OUT: 0}
    assert relay.read_terminal() == b""
    assert relay.wants() == {CHILD: 0, IN: 0, OUT: 0}


def test_one_read_is_bounded() -> None:
    """A child that never stops printing does not keep the loop from the keyboard."""
    files = FakeFiles({CHILD: [bytes(CHUNK_BYTES)] * 100})

    assert len(files.relay().read_child() or b"") == CHUNK_BYTES


def test_a_terminal_that_is_gone() -> None:
    """What is pending for a terminal that hung up is dropped, later bytes too."""
    relay = FakeFiles(failing={OUT: errno.EIO}).relay()
    relay.to_terminal(b"never seen")
    relay.flush()
    relay.to_terminal(b"nor this")

    assert relay.pending_for_terminal == 0


def test_other_errors_pass() -> None:
    """An error that is no hang-up is a mistake of ours and is raised."""
    relay = FakeFiles(failing={OUT: errno.EINVAL}).relay()
    relay.to_terminal(b"x")

    with pytest.raises(OSError, match="gone"):
        relay.flush()


def test_between_two_children() -> None:
    """What the old child has not taken comes back; what is typed meanwhile waits."""
    files = FakeFiles(takes=iter([2, 0]))
    relay = files.relay()
    relay.to_child(b"old keys")
    relay.flush()

    assert relay.detach() == b"d keys"
    assert relay.wants() == {IN: READ, OUT: 0}
    assert relay.read_child() is None
    relay.to_child(b"new keys")
    relay.flush()
    relay.attach(CHILD + 1)
    relay.flush()
    relay.flush()
    assert files.taken == {CHILD: b"ol", CHILD + 1: b"new keys"}


def test_one_descriptor_for_both_directions() -> None:
    """A terminal that is read and written through one descriptor has its interests joined."""
    relay = Relay(IN, IN, read=FakeFiles().read, write=FakeFiles().write)
    relay.to_terminal(b"x")

    assert relay.wants() == {IN: READ | WRITE}
