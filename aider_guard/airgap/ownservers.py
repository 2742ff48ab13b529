"""Servers that the programs in the air gap have themselves: they may be reached from inside, those of others not.

Each socket is known by its number (inode). Whose packets go where is the kernel's to decide; so a port is the tree's
own when every socket that could answer there is.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from aider_guard.airgap.diag import diag_socket
from aider_guard.airgap.tables import of_this_machine

Kind = Literal["tcp", "udp"]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Server = tuple[IpAddress, int]
"""The address that a socket is bound to, and its number."""

_MOST: Final = 1 << 16
_WORD_BYTES: Final = 4
_LISTENING_IN_TABLE: Final = b"0A"  # TCP_LISTEN, net/tcp_states.h

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h: struct nlmsghdr, inet_diag_req_v2, inet_diag_msg
_HEADER: Final = struct.Struct("=IHHII")
_QUESTION: Final = struct.Struct("=BBBxI2s46x")
_ANSWER: Final = struct.Struct("=4x2s2x16s28x16xI")
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_REQUEST_DUMP: Final = 0x301
_LISTENING: Final = 1 << 10  # 1 << TCP_LISTEN, net/tcp_states.h
_MOST_BYTES: Final = 1 << 16


class OwnServers:
    """The numbers of the sockets that were listened on or bound inside; the oldest are forgotten beyond 65,536."""

    def __init__(self, servers: Callable[[Kind, int], Iterable[Server]] | None = None) -> None:
        self._inodes: dict[int, None] = {}
        self._servers = on_port if servers is None else servers

    def add(self, fd: int) -> None:
        """This socket is of a program inside."""
        self._inodes[os.fstat(fd).st_ino] = None
        while len(self._inodes) > _MOST:
            del self._inodes[next(iter(self._inodes))]

    def at(self, kind: Kind, address: str, port: int) -> Literal["own", "others", "none"]:
        """Whose server answers at this loopback address."""
        wanted = ipaddress.ip_address(address)
        found = [inode for bound, inode in self._servers(kind, port) if answers(bound, wanted)]
        if not found:
            return "none"
        return "own" if all(inode in self._inodes for inode in found) else "others"


def answers(bound: IpAddress, wanted: IpAddress) -> bool:
    """Whether a socket that is bound to one address may get what is sent to the other.

    One that is bound to every IPv6 address may take IPv4 too: it counts, whether it does or not.
    """
    bound = getattr(bound, "ipv4_mapped", None) or bound
    if bound.is_unspecified:
        return bound.version == 6 or wanted.version == 4
    return bound == wanted


def on_port(kind: Kind, port: int) -> list[Server]:
    """The sockets of this machine that wait on the port.

    For TCP the kernel is asked for those alone: its table is of every connection, and takes milliseconds to look
    through, however few there are.
    """
    if kind == "tcp":
        try:
            with diag_socket() as channel:
                return [
                    server
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for server in _listening(channel, family, port)
                ]
        except OSError:
            pass  # a kernel without sock_diag(7)
    return [server for table in of_this_machine(kind) for server in in_table(table, kind, port)]


def in_table(table: bytes, kind: Kind, port: int) -> Iterator[Server]:
    """Those of a table of /proc/net (proc_pid_net(5))."""
    ending = b":%04X" % port
    for fields in map(bytes.split, table.splitlines()[1:]):
        waits = len(fields) > 9 and (kind == "udp" or fields[3] == _LISTENING_IN_TABLE)
        if waits and fields[1].endswith(ending):
            yield _decoded(fields[1].partition(b":")[0]), int(fields[9])


def _decoded(host: bytes) -> IpAddress:
    """The kernel prints words of four bytes as numbers of the machine, which is little-endian."""
    raw = bytes.fromhex(host.decode())
    parts = (raw[at : at + _WORD_BYTES][::-1] for at in range(0, len(raw), _WORD_BYTES))
    return ipaddress.ip_address(b"".join(parts))


def _listening(channel: socket.socket, family: int, port: int) -> Iterator[Server]:
    """Ask the kernel (sock_diag(7)). Raises OSError where it does not answer."""
    asked = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _LISTENING, port.to_bytes(2, "big"))
    channel.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + asked)
    while True:
        for kind, body in _messages(channel.recv(_MOST_BYTES)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError("sock_diag")
            at, address, inode = _ANSWER.unpack_from(body)
            if at == port.to_bytes(2, "big"):
                size = 4 if family == socket.AF_INET else 16
                yield ipaddress.ip_address(address[:size]), inode


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[max(_HEADER.size, length + 3 & ~3) :]
