"""Where a program in the seccomp layer may go, and who is told when it may not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import psutil

from aider_guard.airgap.callers import Caller
from aider_guard.airgap.names import Names
from aider_guard.airgap.ownservers import Kind, OwnServers
from aider_guard.airgap.sockaddr import Internet
from aider_guard.airgap.unixsockets import Found, Masked
from aider_guard.core.egress import Attempt, Protocol

DNS_PORT: Final = 53
_DISPLAYS: Final = "/tmp/.X11-unix/"  # noqa: S108  # names of sockets
_LISTENERS_ADDRESS: Final = "127.0.0.1"

Endpoint = tuple[str, int]


def kind_of(sock: socket.socket) -> Kind | None:
    """What this internet socket speaks; None for what has no ports that are known here."""
    match sock.type, sock.proto:
        case socket.SOCK_STREAM, (socket.IPPROTO_TCP | 262):  # MPTCP, linux/in.h
            return "tcp"
        case socket.SOCK_DGRAM, socket.IPPROTO_UDP:
            return "udp"
    return None


@dataclass
class Permits:
    """What is let through: the guard's listeners, allowed places by way of their relays, and the tree's own servers.

    ``redirects`` goes from a host's name or address and a port to the address and port to connect to instead. ``dns``
    is where names are answered. ``abstract`` says which abstract Unix sockets may be reached.
    """

    redirects: Mapping[Endpoint, Endpoint]
    dns: Endpoint
    names: Names
    masked: Masked
    abstract: Callable[[str], bool]
    report: Callable[[Attempt], None] = lambda _attempt: None
    own: OwnServers = field(default_factory=OwnServers)
    ports: set[int] = field(default_factory=set)
    """Of the guard's listeners on 127.0.0.1."""

    def way(self, kind: Kind, to: Internet) -> Internet | Literal["absent", "refused"]:
        """Where a connection for there goes; "absent" when nothing is there and nothing is to be told."""
        name = self.names.name_of(to.address)
        if kind == "tcp":
            for host in (name, to.address):
                if instead := self.redirects.get((host, to.port)):
                    return Internet(*instead)
            if to.address == _LISTENERS_ADDRESS and to.port in self.ports:
                return to
        if self.names.stands_for_a_name(to.address):
            return "refused"
        if not to.is_loopback and not _is_of_this_machine(to.address):
            return "refused"
        match self.own.at(kind, to.address, to.port):
            case "own":
                return to
            case "none" if to.is_loopback:
                return "absent"
        return "refused"

    def refuse(self, host: str, port: int, protocol: Protocol, caller: Caller) -> None:
        """Tell that somebody tried."""
        name = "".join(c if c.isprintable() else "\ufffd" for c in self.names.name_of(host))
        self.report(Attempt(name, port, protocol, caller.program))

    def refuses_file(self, found: Found, caller: Caller) -> bool:
        """Whether this is a daemon's socket; if so, it is told."""
        if found not in self.masked:
            return False
        self.refuse(found.real_path, 0, "unix", caller)
        return True

    def refuses_abstract(self, name: bytes, caller: Caller) -> bool:
        """Whether this abstract name is not to be reached; if so, it is told, with a leading @.

        Not that of an X server: whoever shows a window tries it first, and goes on to the file.
        """
        text = name.decode(errors="replace")
        if self.abstract(text):
            return False
        if not text.startswith(_DISPLAYS):
            self.refuse(f"@{text}", 0, "unix", caller)
        return True


def _is_of_this_machine(address: str) -> bool:
    """Whether one of its interfaces has it: what is sent there from the loopback comes by the loopback."""
    every = (one.address for found in psutil.net_if_addrs().values() for one in found)
    return any(one.partition("%")[0] == address for one in every)
