"""Addresses of sockets as the kernel takes them (sockaddr, bytes), and as values."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

MOST_BYTES: Final = 128  # sizeof(struct sockaddr_storage), linux/socket.h
_AF_NETLINK: Final = 16
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # the kernel connects them to the loopback


@dataclass(frozen=True)
class Internet:
    """An address and a port. An IPv4 address within IPv6 is the IPv4 address; "any" is the loopback."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it never leaves the machine, whatever the routes say."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True)
class Path:
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
    """Of a family that no program needs here, or cut short."""

    family: int


Address = Internet | Path | Abstract | Nowhere | Netlink | Unknown


def parse(raw: bytes) -> Address:
    """What these bytes stand for."""
    family = int.from_bytes(raw[:2], "little") if len(raw) >= 2 else -1
    if family == socket.AF_INET and len(raw) >= 16:
        return _internet(socket.inet_ntoa(raw[4:8]), raw)
    if family == socket.AF_INET6 and len(raw) >= 24:
        packed = raw[8:24]
        is_mapped = packed.startswith(_MAPPED)
        text = socket.inet_ntoa(packed[12:]) if is_mapped else socket.inet_ntop(family, packed)
        return _internet(text, raw)
    if family == socket.AF_UNIX:
        return _unix(raw[2:])
    if family == socket.AF_UNSPEC:
        return Nowhere()
    return Netlink() if family == _AF_NETLINK else Unknown(family)


def pack(address: str, port: int, family: int) -> bytes:
    """The bytes for a socket of this family. Raises OSError(EAFNOSUPPORT) for IPv6 with a socket of IPv4."""
    value = ipaddress.ip_address(address)
    if family == socket.AF_INET:
        if value.version != 4:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return struct.pack("<H", family) + struct.pack("!H4s8x", port, value.packed)
    packed = value.packed if value.version == 6 else _MAPPED + value.packed
    return struct.pack("<H", family) + struct.pack("!HI16sI", port, 0, packed, 0)


def pack_path(path: str) -> bytes:
    """The bytes for a socket in the file system."""
    return struct.pack("<H", socket.AF_UNIX) + path.encode() + b"\0"


def _internet(text: str, raw: bytes) -> Internet:
    return Internet(_HERE.get(text, text), int.from_bytes(raw[2:4], "big"))


def _unix(name: bytes) -> Address:
    if not name:
        return Nowhere()
    return Abstract(name[1:]) if name[0] == 0 else Path(name.partition(b"\0")[0])
