"""A log that is followed: what it said since a mark, and nothing else of it.

A file is read only when it is asked for, from where it was read last: between the requests it costs nothing. A child's
output (a journal, a container) is read by a thread as it comes. Of both only the numbers of recognised lines are kept.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aider_guard.core.ollama_log import LINE_BYTES, DebugLine, Said, read_line
from aider_guard.core.readings import Unavailable

CHUNK_BYTES: Final = 65536
MAX_BEHIND_BYTES: Final = 16 * 1024 * 1024
"""How much of a log is read at once; of more only the end is."""
MAX_SAYINGS: Final = 2000

_NEWLINE: Final = b"\n"


class FollowedLog(Protocol):
    """A log whose places are numbers that only grow."""

    def mark(self) -> int:
        """The place where it ends now. Does not block."""

    def since(self, mark: int) -> tuple[Said, ...] | Unavailable:
        """What it says from this place on, as far as it is written. May block for the time of reading it."""

    @property
    def tells_all(self) -> bool:
        """Whether lines of the level DEBUG were seen in it."""

    def close(self) -> None:
        """Let go of it."""


class Sayings:
    """Bytes of a log → what its lines say, and where. Of a line that is not complete its beginning is held."""

    def __init__(self, start: int = 0) -> None:
        self.at = start
        """The place up to which the log was read."""
        self.tells_all = False
        self._line = bytearray()
        self._said: deque[tuple[int, Said]] = deque()
        self._known_from = start

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        *complete, rest = chunk.split(_NEWLINE)
        for piece in complete:
            self.at += len(piece) + 1
            self._add(piece)
            self._note(bytes(self._line))
            self._line.clear()
        self.at += len(rest)
        self._add(rest)

    def skip(self, size_bytes: int) -> None:
        """These bytes are not read: of what was said before them nothing is told any more."""
        self.at += size_bytes
        self._line.clear()
        self._known_from = self.at

    def since(self, mark: int) -> tuple[Said, ...] | Unavailable:
        """What was said from this place on, as far as it was read."""
        if mark < self._known_from:
            return Unavailable("the log grew too fast to be read")
        return tuple(said for place, said in self._said if place > mark)

    def _add(self, piece: bytes) -> None:
        self._line += piece[: max(LINE_BYTES - len(self._line), 0)]

    def _note(self, line: bytes) -> None:
        said = read_line(line)
        if isinstance(said, DebugLine):
            self.tells_all = True
        elif said is not None:
            self._said.append((self.at, said))
        while len(self._said) > MAX_SAYINGS:
            self._known_from = self._said.popleft()[0]


@dataclass(frozen=True)
class _Place:
    """An open file, and where in it the log's place is."""

    fd: int
    offset: int
    at: int


class LogFile:
    """A file that others write. A new file of the same name follows it, as after a rotation; so does one cut short."""

    def __init__(self, path: Path) -> None:
        """Follow it from its end. Raises ``OSError``."""
        self._path = path
        fd = _open(path)
        self._place = _Place(fd, os.fstat(fd).st_size, 0)
        self._sayings = Sayings()
        self._reading = threading.Lock()

    @property
    def tells_all(self) -> bool:
        """See `FollowedLog`."""
        return self._sayings.tells_all

    def mark(self) -> int:
        """See `FollowedLog`."""
        place = self._place
        with suppress(OSError):
            size = os.fstat(place.fd).st_size
            rest = size - place.offset if size >= place.offset else size
            now = self._path.stat()
            is_same = (now.st_dev, now.st_ino) == _identity(place.fd)
            return place.at + rest + (0 if is_same else now.st_size)
        return place.at

    def since(self, mark: int) -> tuple[Said, ...] | Unavailable:
        """See `FollowedLog`."""
        try:
            with self._reading:
                self._read_on()
                return self._sayings.since(mark)
        except OSError as error:
            return Unavailable(f"the server's log cannot be read ({error.strerror})")

    def close(self) -> None:
        """See `FollowedLog`."""
        with self._reading, suppress(OSError):
            os.close(self._place.fd)

    def _read_on(self) -> None:
        """Read to the end of the file, and all of the next one where it was replaced."""
        self._read_file()
        with suppress(FileNotFoundError):  # between the renaming and the new file
            now = self._path.stat()
            if (now.st_dev, now.st_ino) != _identity(self._place.fd):
                fd = _open(self._path)
                old, self._place = self._place, _Place(fd, 0, self._sayings.at)
                os.close(old.fd)
                self._read_file()

    def _read_file(self) -> None:
        place = self._place
        size = os.fstat(place.fd).st_size
        if size < place.offset:
            place = _Place(place.fd, 0, place.at)
        if size - place.offset > MAX_BEHIND_BYTES:
            skipped = size - place.offset - MAX_BEHIND_BYTES
            self._sayings.skip(skipped)
            place = _Place(place.fd, place.offset + skipped, self._sayings.at)
        while chunk := os.pread(place.fd, CHUNK_BYTES, place.offset):
            self._sayings.feed(chunk)
            place = _Place(place.fd, place.offset + len(chunk), self._sayings.at)
            self._place = place
        self._place = place


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class LogStream:
    """The output of a child that follows the log for us; read until it ends."""

    def __init__(self, fd: int, ended: Callable[[], str]) -> None:
        """``ended`` says why, after the output's end."""
        self._fd = fd
        self._sayings = Sayings()
        self._lock = threading.Lock()
        self._ended = ended
        self._end: Unavailable | None = None
        self._thread = threading.Thread(target=self._read, name="ollama-log", daemon=True)
        self._thread.start()

    @property
    def tells_all(self) -> bool:
        """See `FollowedLog`."""
        return self._sayings.tells_all

    def mark(self) -> int:
        """See `FollowedLog`."""
        return self._sayings.at

    def since(self, mark: int) -> tuple[Said, ...] | Unavailable:
        """See `FollowedLog`."""
        with self._lock:
            return self._end or self._sayings.since(mark)

    def close(self) -> None:
        """See `FollowedLog`. Its child must have been ended."""
        self._thread.join(timeout=1)

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self._fd, CHUNK_BYTES):
                with self._lock:
                    self._sayings.feed(chunk)
        self._end = Unavailable(self._ended())
