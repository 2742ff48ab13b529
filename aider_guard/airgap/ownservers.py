"""Servers that the programs in the air gap have themselves: they may be reached from inside, those of others not.

Each socket is known by its number (inode). Whose packets go where is the kernel's to decide; so a port is the tree's
own when every socket that could answer there is.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from aider_guard.airgap.tables import of_this_machine

Kind = Literal["tcp", "udp"]

_LISTENING: Final = b"0A"  # TCP_LISTEN, net/tcp_states.h
_MOST: Final = 1 << 16
_WORD_BYTES: Final = 4


class OwnServers:
    """The numbers of the sockets that were listened on or bound inside; the oldest are forgotten beyond 65,536."""

    def __init__(self, tables: Callable[[Kind], Iterable[bytes]] = of_this_machine) -> None:
        self._inodes: dict[int, None] = {}
        self._tables = tables

    def add(self, fd: int) -> None:
        """This socket is of a program inside."""
        self._inodes[os.fstat(fd).st_ino] = None
        while len(self._inodes) > _MOST:
            del self._inodes[next(iter(self._inodes))]

    def at(self, kind: Kind, address: str, port: int) -> Literal["own", "others", "none"]:
        """Whose server answers at this loopback address."""
        found = [
            inode
            for table in self._tables(kind)
            for local, inode in _sockets(table, kind)
            if answers(local, address, port)
        ]
        if not found:
            return "none"
        return "own" if all(inode in self._inodes for inode in found) else "others"


def answers(local: bytes, address: str, port: int) -> bool:
    """Whether the socket with this local address, as the kernel's tables have it, may get what is sent to that one.

    One that is bound to every IPv6 address may take IPv4 too: no table says whether it does.
    """
    host, _, shown = local.partition(b":")
    if int(shown, 16) != port:
        return False
    bound, wanted = _decoded(host), ipaddress.ip_address(address)
    if bound.is_unspecified:
        return bound.version == 6 or wanted.version == 4
    return bound == wanted


def _sockets(table: bytes, kind: Kind) -> Iterator[tuple[bytes, int]]:
    """Local addresses and numbers of the sockets that wait (proc_pid_net(5))."""
    for fields in map(bytes.split, table.splitlines()[1:]):
        if len(fields) > 9 and (kind == "udp" or fields[3] == _LISTENING):
            yield fields[1], int(fields[9])


def _decoded(host: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints words of four bytes as numbers of the machine, which is little-endian."""
    raw = bytes.fromhex(host.decode())
    parts = (raw[at : at + _WORD_BYTES][::-1] for at in range(0, len(raw), _WORD_BYTES))
    value = ipaddress.ip_address(b"".join(parts))
    mapped = value.ipv4_mapped if value.version == 6 else None
    return mapped or value
