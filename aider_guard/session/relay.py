"""Relays bytes both ways between the user's terminal and the child's pty, untouched, without blocking on either.

A blocking write deadlocks with a child that is itself blocked writing to us (asciinema 2.3.0 and
2.4.0), so what cannot be written yet is pending, and a side that sends faster than the other takes is
not read for a while.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from aider_guard.loop import READ, WRITE

CHUNK_BYTES = 64 * 1024
TERMINAL_HIGH_WATER_BYTES = 256 * 1024
CHILD_HIGH_WATER_BYTES = 1024 * 1024

_GONE = frozenset({errno.EIO, errno.EPIPE, errno.ENXIO})
"""Linux reports the end of a pty, and a terminal that hung up, as EIO."""

Read = Callable[[int, int], bytes]
Write = Callable[[int, "bytes | memoryview"], int]


class _Source:
    """One direction's reading end."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.fd: int | None = None
        self.ended = False

    def take(self) -> bytes | None:
        """Read once; None when nothing is there, b"" at and after the end."""
        # One read at a time: the other side works on it while the next one comes.
        if self.fd is None or self.ended:
            return b"" if self.ended else None
        try:
            data = self._read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _GONE:
                raise
            data = b""
        self.ended = data == b""
        return data


class _Sink:
    """One direction's writing end and what is pending for it."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.fd: int | None = None
        self.gone = False
        self.pending = bytearray()

    def put(self, data: bytes) -> None:
        if not self.gone:
            self.pending += data

    def flush(self) -> None:
        """Write what can be written now. What is pending for a file that is gone is dropped."""
        while self.pending and self.fd is not None:
            try:
                with memoryview(self.pending) as view, view[:CHUNK_BYTES] as chunk:
                    offered = len(chunk)
                    written = self._write(self.fd, chunk)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self.gone = True
                self.pending.clear()
                return
            del self.pending[:written]
            if written < offered:
                return  # it is full: the loop tells when it is not


class Relay:
    """Two byte pumps over non-blocking descriptors of the caller's. Nothing is lost or reordered.

    The caller reads, may look at or hold what it read, hands it on with ``to_child`` or
    ``to_terminal``, and calls ``flush``. ``wants`` tells what to wait for.
    """

    def __init__(
        self,
        terminal_in_fd: int,
        terminal_out_fd: int,
        child_fd: int | None = None,
        *,
        read: Read = os.read,
        write: Write = os.write,
    ) -> None:
        self._from_terminal, self._to_terminal = _Source(read), _Sink(write)
        self._from_child, self._to_child = _Source(read), _Sink(write)
        self._from_terminal.fd = terminal_in_fd
        self._to_terminal.fd = terminal_out_fd
        if child_fd is not None:
            self.attach(child_fd)

    @property
    def pending_for_terminal(self) -> int:
        """Bytes accepted for the terminal and not yet written."""
        return len(self._to_terminal.pending)

    @property
    def pending_for_child(self) -> int:
        """Bytes accepted for the child and not yet written."""
        return len(self._to_child.pending)

    def attach(self, child_fd: int) -> None:
        """Relay to this pty from now on. What is pending for a child goes to it."""
        self._from_child.fd = self._to_child.fd = child_fd
        self._from_child.ended = self._to_child.gone = False

    def detach(self) -> bytes:
        """Stop relaying to the child's pty, and return what it has not taken.

        What ``to_child`` gets from now on waits for the next child.
        """
        self._from_child.fd = self._to_child.fd = None
        self._from_child.ended = self._to_child.gone = False
        rest = bytes(self._to_child.pending)
        self._to_child.pending.clear()
        return rest

    def read_child(self) -> bytes | None:
        """Read what the child wrote: None when there is nothing now, b"" once its pty has ended."""
        return self._from_child.take()

    def read_terminal(self) -> bytes | None:
        """Read what was typed: None when there is nothing now, b"" once the terminal is gone."""
        return self._from_terminal.take()

    def to_child(self, data: bytes) -> None:
        """Accept bytes for the child; those for a child that no longer reads are dropped."""
        self._to_child.put(data)

    def to_terminal(self, data: bytes) -> None:
        """Accept bytes for the terminal; those for a terminal that is gone are dropped."""
        self._to_terminal.put(data)

    def flush(self) -> None:
        """Write what both sides take now."""
        self._to_terminal.flush()
        self._to_child.flush()

    def wants(self) -> dict[int, int]:
        """Return the events to wait for on each descriptor.

        0 where the other side is slow (it would only fill memory) and at an end (it would never
        stop being readable).
        """
        terminal_pending, child_pending = (
            len(self._to_terminal.pending),
            len(self._to_child.pending),
        )
        from_child = terminal_pending <= TERMINAL_HIGH_WATER_BYTES and not self._from_child.ended
        from_terminal = child_pending <= CHILD_HIGH_WATER_BYTES and not self._from_terminal.ended
        terminal_in, terminal_out = self._from_terminal.fd, self._to_terminal.fd
        wanted = {
            terminal_out: WRITE if terminal_pending else 0,
            self._from_child.fd: (READ if from_child else 0) | (WRITE if child_pending else 0),
        }
        wanted[terminal_in] = wanted.get(terminal_in, 0) | (READ if from_terminal else 0)
        return {fd: events for fd, events in wanted.items() if fd is not None}
