"""Decides which places a program in the seccomp layer may connect to, and reports those that it may not."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aider_guard.airgap.dns import NameTable
from aider_guard.airgap.gap import Report
from aider_guard.airgap.notify import CallingThread
from aider_guard.airgap.proc import diag_socket, dump
from aider_guard.airgap.sockets import Internet
from aider_guard.airgap.unix_sockets import BoundSocket, HeldFile, UnixSockets, bound_sockets
from aider_guard.core.egress import Attempt, Protocol
from aider_guard.core.printable import printable
from aider_guard.proc_net import LISTENING, PROC, IpAddress, Kind, read_tables, rows

Server = tuple[IpAddress, int]
"""The address that a socket is bound to, and its number."""

_MOST: Final = 1 << 16

# linux/inet_diag.h: struct inet_diag_req_v2, inet_diag_msg
_QUESTION: Final = struct.Struct("=BBBxI2s46x")
_ANSWER: Final = struct.Struct("=4x2s2x16s16xI8x16xI")
# 1 << TCP_LISTEN, 1 << TCP_BOUND_INACTIVE (net/tcp_states.h): the latter, for bound sockets, from Linux 6.8 on
_LISTENING: Final = 1 << 10
_BOUND: Final = 1 << 13
_LOOPBACK_INDEX: Final = 1  # the first interface of every network


class OwnServers:
    """Knows which servers are those of programs inside, which may be reached from inside, unlike those of others.

    A socket is known by its number (inode), from its creation on. The kernel decides which one gets a packet, so a port
    is the programs' own when every socket that could answer there is. Beyond 65,536 the older half are forgotten, but
    for those that wait for packets; of these the newest 16,384 are kept.
    """

    def __init__(self, servers: Callable[[Kind, int], Iterable[Server]] | None = None) -> None:
        self._inodes: dict[int, None] = {}
        self._servers = on_port if servers is None else servers

    def add(self, fd: int) -> None:
        """Remember a socket of a program inside."""
        self._inodes[os.fstat(fd).st_ino] = None
        if len(self._inodes) > _MOST:
            inodes, waiting = list(self._inodes), waiting_inodes()
            kept = [inode for inode in inodes[: _MOST // 2] if inode in waiting]
            self._inodes = dict.fromkeys([*kept[-_MOST // 4 :], *inodes[_MOST // 2 :]])

    def __contains__(self, number: int) -> bool:
        return number in self._inodes

    def on_a_card(self) -> tuple[str, int]:
        """The address and port of an own TCP socket that is bound to another interface than the loopback, or ("", 0).

        Only an address of IPv6 binds it there. Kernels before 6.8 tell nothing of sockets that do not listen yet.
        """
        with contextlib.suppress(OSError), diag_socket() as channel:
            for row in _ask(channel, socket.AF_INET6, _LISTENING | _BOUND):
                if row.inode in self._inodes and row.interface != _LOOPBACK_INDEX:
                    return str(row.address), row.port
        return "", 0

    def at(self, kind: Kind, address: str, port: int) -> Literal["own", "others", "none"]:
        """Tell whose server answers at this loopback address."""
        wanted = ipaddress.ip_address(address)
        inodes = [inode for bound, inode in self._servers(kind, port) if answers(bound, wanted)]
        if not inodes:
            return "none"
        return "own" if all(inode in self._inodes for inode in inodes) else "others"


def answers(bound: IpAddress, wanted: IpAddress) -> bool:
    """Whether a socket that is bound to one address may receive what is sent to the other.

    A socket that is bound to every IPv6 address counts for IPv4 as well, whether it takes it or not.
    """
    bound = getattr(bound, "ipv4_mapped", None) or bound
    if bound.is_unspecified:
        return bound.version == 6 or wanted.version == 4
    return bound == wanted


def on_port(kind: Kind, port: int) -> list[Server]:
    """Return the sockets of this machine that wait on the port.

    For TCP the kernel is asked for listening sockets only: reading its table of all connections takes milliseconds.
    """
    if kind == "tcp":
        try:
            with diag_socket() as channel:
                return [
                    (row.address, row.inode)
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for row in _ask(channel, family, _LISTENING, port)
                    if row.port == port
                ]
        except OSError:
            pass  # a kernel without sock_diag(7)
    states = (LISTENING,) if kind == "tcp" else ()  # a UDP sender may be answered, too
    table = read_tables(PROC / "net", kind)
    return [(row.address, row.inode) for row in rows(table, port, *states)]


def waiting_inodes() -> set[int]:
    """Return the numbers of this machine's sockets that wait for connections, or may receive datagrams."""
    found = {bound.number for bound in _bound_unix_sockets()}
    kinds: tuple[Kind, ...] = ("tcp", "udp")
    for kind in kinds:
        for fields in map(bytes.split, read_tables(PROC / "net", kind).splitlines()):
            if fields[3] == LISTENING or kind == "udp":
                with contextlib.suppress(ValueError):  # the heading
                    found.add(int(fields[9]))
    return found


def _bound_unix_sockets() -> list[BoundSocket]:
    try:
        with diag_socket() as channel:
            return bound_sockets(channel)
    except OSError:  # a kernel without unix_diag: none is known as a program's own there
        return []


@dataclass(frozen=True)
class _Row:
    """A TCP socket of this machine, as the kernel tells it; ``interface`` is 0 for all."""

    address: IpAddress
    port: int
    interface: int
    inode: int


def _ask(channel: socket.socket, family: int, states: int, port: int = 0) -> Iterator[_Row]:
    """Ask the kernel for TCP sockets, of one port or of all (sock_diag(7)). Raises OSError where it does not answer."""
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, states, port.to_bytes(2, "big"))
    for found, address, interface, inode in map(_ANSWER.unpack_from, dump(channel, question)):
        size = 4 if family == socket.AF_INET else 16
        bound_port = int.from_bytes(found, "big")
        yield _Row(ipaddress.ip_address(address[:size]), bound_port, interface, inode)


DNS_PORT: Final = 53
_DISPLAYS: Final = "/tmp/.X11-unix/"  # noqa: S108  # names of sockets

Endpoint = tuple[str, int]


def kind_of(sock: socket.socket) -> Kind | None:
    """Return the protocol of an internet socket; None for one other than TCP and UDP."""
    match sock.type, sock.proto:
        case socket.SOCK_STREAM, socket.IPPROTO_TCP:
            return "tcp"
        case socket.SOCK_DGRAM, socket.IPPROTO_UDP:
            return "udp"
    return None


@dataclass
class EgressRules:
    """What programs inside may reach: the guard's listeners, allowed places by their relays, and their own servers.

    ``redirects`` maps a host's name or address and a port to the address and port to connect to instead. ``dns`` is the
    address of the name server.
    """

    redirects: Mapping[Endpoint, Endpoint]
    dns: Endpoint
    names: NameTable
    unix: UnixSockets
    own_servers: OwnServers
    has_own_network: bool = False
    """Whether programs inside have a network of their own: then only Unix sockets are judged here."""
    report: Report = lambda _attempt: None
    ports: set[int] = field(default_factory=set)
    """The ports of the guard's listeners on 127.0.0.1."""

    def route(self, kind: Kind, to: Internet) -> Internet | Literal["absent", "refused"]:
        """Return where to connect instead; "absent" where no server is, which is not reported, else "refused"."""
        name = self.names.name_of(to.address)
        if kind == "tcp":
            for host in (name, to.address):
                if instead := self.redirects.get((host, to.port)):
                    return Internet(*instead)
            if to.address == "127.0.0.1" and to.port in self.ports:
                return to
        is_here = to.is_loopback or _is_of_this_machine(to.address)
        if self.names.stands_for_a_name(to.address) or not is_here:
            return "refused"
        server = self.own_servers.at(kind, to.address, to.port)
        if server == "own":
            return to
        return "absent" if server == "none" and to.is_loopback else "refused"

    def refuse(self, host: str, port: int, protocol: Protocol, caller: CallingThread) -> None:
        """Report an attempt of the caller."""
        name = printable(self.names.name_of(host))
        self.report(Attempt(name, port, protocol, caller.program))

    def refuses_file(self, file: HeldFile, caller: CallingThread) -> bool:
        """Whether the socket behind this file must not be reached. That is reported, and what the user lets through."""
        if not file.is_socket:
            return False
        if self.unix.may_reach_file(file):
            if self.unix.is_allowed(file):
                path = printable(file.real_path)
                self.report(Attempt(path, 0, "unix", caller.program, is_allowed=True))
            return False
        self.refuse(file.real_path, 0, "unix", caller)
        return True

    def refuses_abstract(self, name: bytes, caller: CallingThread) -> bool:
        """Whether this abstract name must not be reached; if so, it is reported with a leading @.

        That of an X server is not reported: programs with a window try it first, and go on to the file.
        """
        if self.unix.may_reach_name(name):
            return False
        text = name.decode(errors="replace")
        if not text.startswith(_DISPLAYS):
            self.refuse(f"@{text}", 0, "unix", caller)
        return True


def _is_of_this_machine(address: str) -> bool:
    """Whether an interface of this machine has the address: packets to it stay on the loopback interface."""
    import psutil

    interfaces = psutil.net_if_addrs().values()
    own = (entry.address for entries in interfaces for entry in entries)
    return any(text.partition("%")[0] == address for text in own)
