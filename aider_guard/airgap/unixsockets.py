"""Sockets in the file system that a program inside asks for: found as it would find them, and those of daemons refused.

What is opened is what is judged and what is connected to, so that nothing can be changed in between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aider_guard.airgap.callers import Caller

_DELETED = " (deleted)"  # what the kernel adds to the path of a file without a name


@dataclass(frozen=True)
class Found:
    """A file that is held open: where it really is, and a path that leads to it whatever is renamed."""

    real_path: str
    through: str
    number: tuple[int, int]
    """Device and inode."""


class Masked:
    """The daemons' sockets, by path and by number: a second name of one, or another mount, is the same socket.

    ``paths`` are real paths of sockets, or of folders with all that is in them. Numbers are learned at the start and
    whenever they are asked for: one that was moved away is still known.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(path.rstrip("/") for path in paths)
        self._numbers: set[tuple[int, int]] = set()
        self._learn()

    def __contains__(self, found: Found) -> bool:
        self._learn()
        path = found.real_path.removesuffix(_DELETED)
        named = any(path == masked or path.startswith(masked + "/") for masked in self._paths)
        return named or found.number in self._numbers

    def _learn(self) -> None:
        for path in self._paths:
            with contextlib.suppress(OSError):
                self._numbers.add(_number(os.stat(path)))
            with contextlib.suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        self._numbers.add(_number(entry.stat()))


@contextlib.contextmanager
def opened(path: bytes, caller: Caller) -> Iterator[Found]:
    """Find the file as the caller would, from its root and folder. Raises OSError as a connection would."""
    fd = os.open(_seen_from_here(path, caller), os.O_PATH | os.O_CLOEXEC)
    try:
        caller.check()
        through = f"/proc/self/fd/{fd}"
        yield Found(os.readlink(through), through, _number(os.fstat(fd)))
    finally:
        os.close(fd)


def _seen_from_here(path: bytes, caller: Caller) -> bytes:
    """``/proc/self`` is the guard's own for the guard."""
    itself = b"/proc/%d/" % caller.process
    for own in (b"/proc/self/", b"/proc/thread-self/", b"/dev/fd/"):
        if path.startswith(own):
            return itself + (b"fd/" if own == b"/dev/fd/" else b"") + path.removeprefix(own)
    start = b"root" if path.startswith(b"/") else b"cwd"
    return b"/proc/%d/%s/%s" % (caller.thread, start, path.lstrip(b"/"))


def _number(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
