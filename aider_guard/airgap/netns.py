"""The air gap by a network namespace: what its loopback interface tells, served from the guard's loop."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal

from aider_guard.airgap import packets
from aider_guard.airgap.diag import End, Kind
from aider_guard.airgap.gap import NOBODY, Enter, Whose
from aider_guard.airgap.jail import Jail
from aider_guard.airgap.names import Names
from aider_guard.airgap.nameserver import PORT as DNS_PORT
from aider_guard.airgap.nameserver import NameServer
from aider_guard.airgap.takers import Takers
from aider_guard.core.egress import Attempt, Place, Protocol
from aider_guard.loop import READ, Loop

_BUDGET_SECONDS: Final = 0.01
"""For so long packets are taken in a row, before the terminal gets its turn."""
_MOST_AT_ONCE: Final = 1 << 16
"""More than the kernel keeps: only who goes on sending has more."""
_MOST_BYTES: Final = 256
_HERE: Final = "127.0.0.1"
_ROOM_BYTES: Final = 1 << 22
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
# linux/if_packet.h: struct tpacket_stats is how many packets came, and how many of them found no room
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS: Final = struct.Struct("@II")
_UNREAD: Final = "(more than could be read)"


class NetnsGap:
    """Implements ``gap.Gap``. Owns the jail; *allowed* are the places that its listeners stand for."""

    def __init__(self, jail: Jail, names: Names, allowed: Sequence[Place] = ()) -> None:
        self._jail, self._names = jail, names
        self._name_server = NameServer(jail.dns, names, allowed)
        self._relays = tuple(zip((one.fileno() for one in jail.allowed), allowed, strict=True))
        known: dict[Kind, End] = {"udp": (_HERE, DNS_PORT), "tcp": jail.spare[0].getsockname()}
        self._takers = Takers(jail.diag, jail.tables, known)
        self._seen, self._attempts = 0, 0
        _make_room(jail.tap)
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
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self._round())
        self._name_server.watch(loop, report, whose)

    def look(self) -> None:
        """See ``Gap``."""
        for packet in self._packets(_MOST_AT_ONCE):
            self._judge(packet)
        self._name_server.look()

    def _round(self) -> None:
        until = time.monotonic() + _BUDGET_SECONDS
        for packet in self._packets(_MOST_AT_ONCE):
            self._judge(packet)
            if time.monotonic() > until:
                return

    def _packets(self, most: int) -> Iterator[packets.Packet]:
        """Those that wait, and what is to be said of those that did not find room."""
        for _ in range(most):
            try:
                data, (_, ethernet_type, *_rest) = self._jail.tap.recvfrom(_MOST_BYTES)
            except BlockingIOError:  # no more
                self._tell_lost()
                return
            except OSError:  # the interface was switched off, or all is closed
                return
            self._seen += 1
            packet = packets.parse(data, ethernet_type)
            if packet is not None:
                yield packet

    def _tell_lost(self) -> None:
        """Of packets that the kernel has dropped as many are attempts as of those beside them, as far as is known."""
        told = self._jail.tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _came, lost = _STATISTICS.unpack(told)
        if lost and self._attempts:
            count = max(1, lost * self._attempts // self._seen)
            self._report(Attempt(_UNREAD, 0, "other", count=count))
        self._seen = self._attempts = 0

    def reap(self) -> None:
        """See ``Gap``: nothing is left to the guard."""

    def close(self) -> None:
        """See ``Gap``."""
        if self._loop is not None:
            self._loop.forget(self._jail.tap.fileno())
            self._loop = None
        self._name_server.close()
        self._takers.close()
        self._jail.close()

    def _judge(self, packet: packets.Packet) -> None:
        host, port = packet.destination, packet.port
        if (host, port) in self._let_through or _is_dns(packet):
            return  # whoever asks for a name is heard by the name server
        if self._takers.is_taken_inside(packet):
            return
        if self._names.stands_for_a_name(host):
            name = self._names.name_of(host)
            self._saw(name, port, packet.kind, self._name_server.asker_of(name))
        elif not packets.is_loopback(host) or self._takers.is_server_outside(packet):
            self._saw(host, port, packet.kind)

    def _saw(self, host: str, port: int, protocol: Protocol, asker: str = "") -> None:
        # The socket of a connection that is refused is gone before anybody can ask whose it was: known is who asked
        # for the name, and waited for the answer.
        self._attempts += 1
        self._report(Attempt(host, port, protocol, asker or self._whose.only()))


def _make_room(tap: socket.socket) -> None:
    """As much as the system allows for packets that wait; only root outside may have more than that."""
    for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
        with suppress(OSError):
            tap.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)


def _is_dns(packet: packets.Packet) -> bool:
    """A question to the name server, or its answer."""
    return packet.kind == "udp" and DNS_PORT in (packet.port, packet.source_port)
