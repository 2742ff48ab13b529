"""Makes sockets that stay on this machine, connects them and sends on them by a duplicate; parses socket addresses.

The C functions are called directly, as Python's wait for the end of a connection; each returns 0 or an error's number.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import math
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import kernel

SHORT_SECONDS: Final = 0.02
"""How long the guard waits for a connection; one over the loopback interface takes microseconds."""
_SHORTEST_SECONDS: Final = 1e-6
"""The kernel rounds it up to one tick, a few milliseconds."""
_UNFINISHED: Final = (errno.EINPROGRESS, errno.EINTR, errno.EALREADY)
LATER: Final = (errno.EAGAIN, errno.EINTR)
"""Errors after which a connection to a Unix socket, or a message, must be tried again."""
_TIMEVAL: Final = struct.Struct("@ll")
# linux/socket.h: flags of one datagram that are passed on. MSG_ZEROCOPY would refer to the guard's own memory.
_KNOWN_FLAGS: Final = 0x1 | 0x4 | 0x80 | 0x800 | 0x8000  # OOB, DONTROUTE, EOR, CONFIRM, MORE
_LOOPBACK: Final = b"lo"
_NAME_BYTES: Final = 16  # IFNAMSIZ, linux/if.h


# A filter of packets (classic BPF, linux/filter.h): those that came by the loopback interface, whose index is 1 in
# every network (LOOPBACK_IFINDEX, net/flow.h), and no others: load the index, compare, take all of it, take nothing.
_BY_LOOPBACK: Final = ctypes.create_string_buffer(
    b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0xFFFFF008),  # SKF_AD_OFF + SKF_AD_IFINDEX
            (0x15, 0, 1, 1),
            (0x06, 0, 0, 0xFFFFFFFF),
            (0x06, 0, 0, 0),
        )
    )
)
_FILTER: Final = struct.pack("@HP", 4, ctypes.addressof(_BY_LOOPBACK))  # struct sock_fprog
# asm-generic/socket.h
_SO_ATTACH_FILTER: Final = 26
_SO_LOCK_FILTER: Final = 44
_IPPROTO_MPTCP: Final = 262  # linux/in.h


def make(family: int, kind: int, protocol: int) -> socket.socket:
    """Make an internet socket that sends and receives by the loopback interface only. Raises OSError.

    It is bound to the interface, which needs no right from Linux 5.7 on, and is given up by nothing that a program
    inside may do but one: bind(2) to an address of IPv6 with a scope names another interface (``__inet6_bind``,
    net/ipv6/af_inet6.c). Against that the guard looks before it connects, sends and listens, and a filter that cannot
    be taken away (SO_LOCK_FILTER) receives only what came by the loopback interface. Newer kernels (6.18 is one) refuse
    ordinary users a filter of TCP.

    In place of MPTCP, which takes no filter, it is TCP: what MPTCP is, too, when the other end does not know it.
    """
    sock = socket.socket(
        family, kind, socket.IPPROTO_TCP if protocol == _IPPROTO_MPTCP else protocol
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER)
        sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
    except OSError:
        sock.close()
        raise
    return sock


def keep_on_loopback(sock: socket.socket, *, fixed: bool = True) -> bool:
    """Bind an internet socket to the loopback interface, if it is not; False when it is bound to another one.

    A socket that came from outside may be bound to none, and one whose association ended is (``__udp_disconnect``,
    net/ipv4/udp.c). *fixed*: so that no other thread's bind(2) changes it from now on: a socket that has a port cannot
    be bound again.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return True
    if fixed and sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):  # it has a port
            sock.bind(("::", 0))
    with contextlib.suppress(OSError):  # bound already, or to another one
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK)
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_BYTES)
    return device.rstrip(b"\0") == _LOOPBACK


def listen(sock: socket.socket, backlog: int) -> int:
    """Wait for connections; returns the error. Python would take a negative length of the queue for 0."""
    failed = kernel.libc().listen(sock.fileno(), backlog) < 0
    return ctypes.get_errno() if failed else 0


def connect(sock: socket.socket, raw: bytes) -> int:
    """Connect, waiting only a moment. EINPROGRESS: the kernel goes on, and the socket turns writable at the end.

    For a Unix socket the kernel does not go on: EAGAIN, its server's queue is full (unix(7)).
    """
    if not os.get_blocking(sock.fileno()):
        return _connect(sock, raw)
    is_unix = sock.family == socket.AF_UNIX
    short = _TIMEVAL.pack(0, round((_SHORTEST_SECONDS if is_unix else SHORT_SECONDS) * 1e6))
    # SO_SNDTIMEO limits connect(2), too (socket(7)).
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, short)
    try:
        error = _connect(sock, raw)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)
    return errno.EINPROGRESS if error in _UNFINISHED and not is_unix else error


def patience_seconds(sock: socket.socket) -> float:
    """How long the program wants to wait for its connection (SO_SNDTIMEO); 0 for a non-blocking socket."""
    if not os.get_blocking(sock.fileno()):
        return 0.0
    seconds, microseconds = _TIMEVAL.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size)
    )
    return seconds + microseconds / 1e6 or math.inf


class _Part(ctypes.Structure):  # struct iovec, linux/uio.h
    _fields_ = (("data", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):  # struct msghdr, recvmsg(2)
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.POINTER(_Part)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_char_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


def send(
    sock: socket.socket, data: bytes, flags: int, raw: bytes | None = None, control: bytes = b""
) -> tuple[int, int]:
    """Send without waiting, with control messages as they are (cmsg(3)); the number of bytes and the error."""
    flags = flags & _KNOWN_FLAGS | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    part = _Part(data, len(data))
    message = _Message(raw, len(raw or b""), ctypes.pointer(part), 1, control, len(control), 0)
    sent = kernel.libc().sendmsg(sock.fileno(), ctypes.byref(message), flags)
    return (sent, 0) if sent >= 0 else (0, ctypes.get_errno())


def outcome(sock: socket.socket) -> int:
    """Return how a connection in progress has ended: 0 or the number of an error."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _connect(sock: socket.socket, raw: bytes) -> int:
    failed = kernel.libc().connect(sock.fileno(), raw, len(raw)) < 0
    return ctypes.get_errno() if failed else 0


# Addresses of sockets: as the kernel's bytes (sockaddr), and as values.

MOST_BYTES: Final = 128  # sizeof(struct sockaddr_storage), linux/socket.h
_AF_NETLINK: Final = 16
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # the kernel connects them to the loopback


@dataclass(frozen=True)
class Internet:
    """An address and a port. IPv4 within IPv6 is read as IPv4, and "any" as the loopback."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether packets to it stay on this machine, whatever the routes are."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True)
class UnixPath:
    """A socket in the file system."""

    path: bytes


@dataclass(frozen=True)
class Abstract:
    """A socket with a name that is no file (unix(7))."""

    name: bytes


@dataclass(frozen=True)
class Nowhere:
    """No address: AF_UNSPEC, which ends an association, or a Unix address without a name."""


@dataclass(frozen=True)
class Netlink:
    """The kernel itself, or another socket of the same kind (netlink(7))."""


@dataclass(frozen=True)
class Unknown:
    """An address of another family, or one that is cut short."""

    family: int


Address = Internet | UnixPath | Abstract | Nowhere | Netlink | Unknown


def parse(raw: bytes) -> Address:
    """Parse the bytes of an address."""
    family = int.from_bytes(raw[:2], "little") if len(raw) >= 2 else -1
    if family == socket.AF_INET and len(raw) >= 16:
        return _internet(socket.inet_ntoa(raw[4:8]), raw)
    if family == socket.AF_INET6 and len(raw) >= 24:
        packed = raw[8:24]
        is_mapped = packed.startswith(_MAPPED)
        text = socket.inet_ntoa(packed[12:]) if is_mapped else socket.inet_ntop(family, packed)
        return _internet(text, raw)
    if family == socket.AF_UNIX:
        name = raw[2:]
        if not name:
            return Nowhere()
        return Abstract(name[1:]) if name[0] == 0 else UnixPath(name.partition(b"\0")[0])
    if family == socket.AF_UNSPEC:
        return Nowhere()
    return Netlink() if family == _AF_NETLINK else Unknown(family)


def pack(address: str, port: int, family: int) -> bytes:
    """Return the bytes for a socket of this family. Raises OSError(EAFNOSUPPORT) for IPv6 with a socket of IPv4."""
    value = ipaddress.ip_address(address)
    if family == socket.AF_INET:
        if value.version != 4:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return struct.pack("<H", family) + struct.pack("!H4s8x", port, value.packed)
    packed = value.packed if value.version == 6 else _MAPPED + value.packed
    return struct.pack("<H", family) + struct.pack("!HI16sI", port, 0, packed, 0)


def pack_path(path: str) -> bytes:
    """Return the bytes for a socket in the file system."""
    return struct.pack("<H", socket.AF_UNIX) + path.encode() + b"\0"


def _internet(text: str, raw: bytes) -> Internet:
    return Internet(_HERE.get(text, text), int.from_bytes(raw[2:4], "big"))
