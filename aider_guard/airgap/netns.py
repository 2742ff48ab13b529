"""The air gap by a network namespace: what its loopback interface tells, served from the guard's loop."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal

from aider_guard.airgap import packets, tables
from aider_guard.airgap.gap import NOBODY, Enter, Whose
from aider_guard.airgap.jail import Jail
from aider_guard.airgap.names import Names
from aider_guard.airgap.nameserver import PORT as DNS_PORT
from aider_guard.airgap.nameserver import NameServer
from aider_guard.core.egress import Attempt, Place, Protocol
from aider_guard.session.loop import READ, Loop

_ROUND: Final = 64
"""So many packets are taken at once; the rest waits until the terminal had its turn."""
_MOST_BYTES: Final = 256


class NetnsGap:
    """Implements ``gap.Gap``. Owns the jail; *allowed* are the places that its listeners stand for."""

    def __init__(self, jail: Jail, names: Names, allowed: Sequence[Place] = ()) -> None:
        self._jail, self._names = jail, names
        self._name_server = NameServer(jail.dns, names, allowed)
        self._relays = tuple(zip((one.fileno() for one in jail.allowed), allowed, strict=True))
        self._ours = {one.getsockname()[1] for one in jail.spare}
        self._let_through = {one.getsockname()[:2] for one in jail.allowed}
        self._report: Callable[[Attempt], None] = lambda _attempt: None
        self._loop: Loop | None = None
        self._whose: Whose = NOBODY

    @property
    def layer(self) -> Literal["netns"]:
        """The best one."""
        return "netns"

    @property
    def diag(self) -> socket.socket:
        """See ``Gap``."""
        return self._jail.diag

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """See ``Gap``."""
        return self._relays

    def listen(self) -> tuple[int, int]:
        """See ``Gap``."""
        if not self._jail.spare:
            raise OSError("the air gap has no more sockets to listen on")
        listener = self._jail.spare.pop()
        port: int = listener.getsockname()[1]
        return listener.detach(), port

    @contextmanager
    def entering(self) -> Iterator[Enter]:
        """See ``Gap``."""
        namespaces = self._jail.namespaces
        yield Enter(namespaces.enter, (namespaces.user, namespaces.net, namespaces.mount))

    def watch(self, loop: Loop, report: Callable[[Attempt], None], whose: Whose = NOBODY) -> None:
        """See ``Gap``."""
        self._loop, self._report, self._whose = loop, report, whose
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self.look())
        self._name_server.watch(loop, report, whose)

    def look(self) -> None:
        """Report what has happened until now."""
        with suppress(OSError):  # nothing more
            for _ in range(_ROUND):
                data, (_, ethernet_type, *_rest) = self._jail.tap.recvfrom(_MOST_BYTES)
                packet = packets.parse(data, ethernet_type)
                if packet is not None:
                    self._judge(packet)

    def reap(self) -> None:
        """See ``Gap``: nothing is left to the guard."""

    def close(self) -> None:
        """See ``Gap``."""
        if self._loop is not None:
            self._loop.forget(self._jail.tap.fileno())
            self._loop = None
        self._name_server.close()
        self._jail.close()

    def _judge(self, packet: packets.Packet) -> None:
        host, port = packet.destination, packet.port
        if (host, port) in self._let_through or _is_dns(packet):
            return  # whoever asks for a name is heard by the name server
        if self._names.stands_for_a_name(host):
            name = self._names.name_of(host)
            self._saw(name, port, packet.kind, self._name_server.asker_of(name))
        elif not packets.is_loopback(host) or self._is_outside(packet):
            self._saw(host, port, packet.kind)

    def _saw(self, host: str, port: int, protocol: Protocol, asker: str = "") -> None:
        # The socket of a connection that is refused is gone before anybody can ask whose it was: known is who asked
        # for the name, and waited for the answer.
        self._report(Attempt(host, port, protocol, asker or self._whose.only()))

    def _is_outside(self, packet: packets.Packet) -> bool:
        """Whether a server of this machine, outside, has the port of the loopback that nobody inside has."""
        if packet.kind == "other" or packet.port in self._ours:
            return False
        inside = (self._jail.tables[name] for name in (packet.kind, f"{packet.kind}6"))
        if any(tables.has_server(packet.kind, packet.port, tables.read(fd)) for fd in inside):
            return False
        outside = tables.of_this_machine(packet.kind)
        return any(tables.has_server(packet.kind, packet.port, table) for table in outside)


def _is_dns(packet: packets.Packet) -> bool:
    """A question to the name server, or its answer."""
    return packet.kind == "udp" and DNS_PORT in (packet.port, packet.source_port)
