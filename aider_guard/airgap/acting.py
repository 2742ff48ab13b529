"""What the guard does on a duplicate of a socket in place of the program: connect it, or send one datagram.

The system's own functions, as Python's wait for what has not ended; each gives 0 or the number of an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from aider_guard.airgap import kernel

SHORT_SECONDS: Final = 0.02
"""How long a connection may take at most before the guard goes on: one over the loopback takes microseconds."""
_SHORTEST_SECONDS: Final = 1e-6
"""The kernel makes one tick of it, a few milliseconds."""
_UNFINISHED: Final = (errno.EINPROGRESS, errno.EINTR, errno.EALREADY)
_TIMEVAL: Final = struct.Struct("@ll")
# linux/socket.h: what may be said of one datagram. MSG_ZEROCOPY would speak of the guard's own memory.
_KNOWN_FLAGS: Final = 0x1 | 0x4 | 0x80 | 0x800 | 0x8000  # OOB, DONTROUTE, EOR, CONFIRM, MORE
_LOOPBACK: Final = b"lo"


def keep_on_loopback(sock: socket.socket) -> None:
    """From now on the kernel sends nothing from this socket, and takes nothing for it, but over the loopback.

    No right is needed from Linux 5.7 on (socket(7), SO_BINDTODEVICE). Before it, and for what is no internet socket,
    nothing happens.
    """
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK)


def connect(sock: socket.socket, raw: bytes) -> int:
    """Connect it, and wait a moment only. EINPROGRESS: it goes on by itself, and the socket turns writable.

    A Unix socket that waits does not go on by itself: EAGAIN, its server's queue is full (unix(7)).
    """
    if os.get_blocking(sock.fileno()):
        is_unix = sock.family == socket.AF_UNIX
        with _hurried(sock, _SHORTEST_SECONDS if is_unix else SHORT_SECONDS):
            error = _connect(sock, raw)
        return errno.EINPROGRESS if error in _UNFINISHED and not is_unix else error
    return _connect(sock, raw)


def patience_seconds(sock: socket.socket) -> float:
    """How long the program wants its connection to be waited for (SO_SNDTIMEO); 0 for one that does not wait."""
    if not os.get_blocking(sock.fileno()):
        return 0.0
    seconds, microseconds = _TIMEVAL.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size)
    )
    return seconds + microseconds / 1e6 or math.inf


def send(sock: socket.socket, data: bytes, flags: int, raw: bytes | None) -> tuple[int, int]:
    """Send one datagram without waiting: how many bytes, and the error."""
    flags = flags & _KNOWN_FLAGS | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    length = 0 if raw is None else len(raw)
    sent = kernel.libc().sendto(sock.fileno(), data, ctypes.c_size_t(len(data)), flags, raw, length)
    if sent >= 0:
        return sent, 0
    error = ctypes.get_errno()
    is_full = error == errno.EAGAIN and os.get_blocking(sock.fileno())
    return 0, errno.ENOBUFS if is_full else error


def outcome(sock: socket.socket) -> int:
    """How the connection that went on by itself has ended."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _connect(sock: socket.socket, raw: bytes) -> int:
    failed = kernel.libc().connect(sock.fileno(), raw, len(raw)) < 0
    return ctypes.get_errno() if failed else 0


@contextlib.contextmanager
def _hurried(sock: socket.socket, seconds: float) -> Iterator[None]:
    """SO_SNDTIMEO bounds connect(2) too (socket(7)); the program's own value comes back."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size)
    short = _TIMEVAL.pack(0, round(seconds * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, short)
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)
