"""The air gap by a network namespace: its names, and what its loopback tells, served from the guard's loop."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from aider_guard.airgap import packets, tables
from aider_guard.airgap.counting import Counting
from aider_guard.airgap.gap import Enter
from aider_guard.airgap.jail import Jail
from aider_guard.airgap.names import Names, answer
from aider_guard.core.egress import Attempt, Protocol
from aider_guard.session.loop import READ, Loop

_ROUND: Final = 64
"""So many datagrams are taken at once; the rest waits until the terminal had its turn."""
_MOST_BYTES: Final = 4096
_DNS_PORT: Final = 53
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # linux/in.h, linux/in6.h


class NetnsGap:
    """Implements ``gap.Gap``. Owns the jail."""

    def __init__(
        self, jail: Jail, names: Names, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._jail, self._names, self._clock = jail, names, clock
        self._counting = Counting()
        self._ours = {one.getsockname()[1] for one in jail.spare}
        self._allowed = {one.getsockname()[:2] for one in jail.allowed}
        self._report: Callable[[Attempt], None] = lambda _attempt: None
        self._loop: Loop | None = None

    @property
    def layer(self) -> Literal["netns"]:
        """The best one."""
        return "netns"

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
        yield self._jail.namespaces.enter

    def watch(self, loop: Loop, report: Callable[[Attempt], None]) -> None:
        """See ``Gap``."""
        self._loop, self._report = loop, report
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self._tapped())
        for one in self._jail.dns:
            loop.watch(one.fileno(), READ, lambda _events, dns=one: self._asked(dns))  # type: ignore[misc]

    def close(self) -> None:
        """See ``Gap``."""
        if self._loop is not None:
            for one in (self._jail.tap, *self._jail.dns):
                self._loop.forget(one.fileno())
            self._loop = None
        self._jail.close()

    def flush(self) -> None:
        """See ``Gap``."""
        self._tapped()
        for attempt in self._counting.rest():
            self._report(attempt)

    def _saw(self, host: str, port: int, protocol: Protocol) -> None:
        attempt = Attempt(host, port, protocol)
        for one in self._counting.saw(attempt, self._clock()):
            self._report(one)

    def _tapped(self) -> None:
        for data, (_, ethernet_type, kind, *_rest) in _received(self._jail.tap):
            packet = packets.parse(data, ethernet_type)
            if packet is not None and kind == packets.PACKET_OUTGOING:
                self._judge(packet)

    def _judge(self, packet: packets.Packet) -> None:
        place = packet.destination, packet.port
        if place in self._allowed or (packet.kind == "udp" and packet.port == _DNS_PORT):
            return  # whoever asks for a name is heard by the name server
        if self._names.stands_for_a_name(packet.destination):
            self._saw(self._names.name_of(packet.destination), packet.port, packet.kind)
        elif not packets.is_loopback(packet.destination):
            if not self._is_an_answer(packet):
                self._saw(packet.destination, packet.port, packet.kind)
        elif packet.kind != "other" and self._is_outside(packet):
            self._saw(packet.destination, packet.port, packet.kind)

    def _is_an_answer(self, packet: packets.Packet) -> bool:
        """Whether it goes from our name server to an address that asked."""
        return packet.kind == "udp" and packet.source_port == _DNS_PORT

    def _is_outside(self, packet: packets.Packet) -> bool:
        """Whether a server of this machine, outside, has the port that nobody inside has."""
        if packet.port in self._ours or self._is_an_answer(packet):
            return False
        inside = (self._jail.tables[name] for name in (packet.kind, f"{packet.kind}6"))
        if any(tables.has_server(packet.kind, packet.port, tables.read(fd)) for fd in inside):
            return False
        outside = tables.of_this_machine(packet.kind)
        return any(tables.has_server(packet.kind, packet.port, table) for table in outside)

    def _asked(self, dns: socket.socket) -> None:
        for query, (ancillary, asker) in _queries(dns):
            answered = answer(query, self._names)
            if answered is None:
                self._saw("(no question for a name)", _DNS_PORT, "udp")
                continue
            if answered.name not in ("localhost", "localhost.localdomain"):
                self._saw(answered.name, _DNS_PORT, "dns")
            with suppress(OSError):  # whoever asked has gone
                dns.sendmsg([answered.reply], _from_where_it_was_asked(ancillary), 0, asker)


def _received(one: socket.socket) -> Iterator[tuple[bytes, Any]]:
    with suppress(OSError):  # nothing more
        for _ in range(_ROUND):
            yield one.recvfrom(_MOST_BYTES)


def _queries(dns: socket.socket) -> Iterator[tuple[bytes, tuple[list[Any], Any]]]:
    with suppress(OSError):  # nothing more
        for _ in range(_ROUND):
            query, ancillary, _flags, asker = dns.recvmsg(_MOST_BYTES, 256)
            yield query, (ancillary, asker)


def _from_where_it_was_asked(
    ancillary: list[tuple[int, int, bytes]],
) -> list[tuple[int, int, bytes]]:
    """The answer's source: the address that the question was sent to (ip(7) and ipv6(7), PKTINFO)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, struct.pack("i4s4s", 0, data[8:12], bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, data[:16] + struct.pack("I", 0))]
    return []
