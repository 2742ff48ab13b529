"""The air gap by a network namespace: puts Aider into it, and reports what its programs try to reach.

The namespace (airgap/jail.py) has a loopback interface and nothing else. All addresses are local inside (the "AnyIP"
route, ip-route(8), type local): each packet appears on the loopback interface, where the guard reads it, and the kernel
refuses the connection at once. Unix sockets that are files are in no such namespace: a filter of system calls asks the
guard about them.
"""

from __future__ import annotations

import math
import os
import platform
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from aider_guard.airgap import bpf, filter_install, kernel, packet_capture
from aider_guard.airgap.dns import PORT as DNS_PORT
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, Gap, ProgramFinder, Report
from aider_guard.airgap.jail import Jail, Namespaces, filter_program
from aider_guard.airgap.packet_capture import ListenerLookup
from aider_guard.airgap.proc import End
from aider_guard.core.egress import Attempt, Layer, Place, Protocol
from aider_guard.loop import READ, Loop
from aider_guard.proc_net import Kind

if TYPE_CHECKING:
    from aider_guard.airgap.filter_server import FilterServer
    from aider_guard.airgap.unix_sockets import KnownSockets, UnixSockets

_BUDGET_SECONDS: Final = 0.01
"""How long packets are read in a row before the loop serves the terminal."""
_MOST_AT_ONCE: Final = 1 << 16
"""More than the kernel queues: only a program that keeps on sending sends more."""
_MOST_BYTES: Final = 256
_ROOM_BYTES: Final = 1 << 22
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
# linux/if_packet.h: struct tpacket_stats is how many packets came, and how many of them found no room
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS: Final = struct.Struct("@II")
_UNREAD: Final = "(more than could be read)"


def _enter(namespaces: Namespaces, channel: socket.socket | None) -> None:
    """Run in the fork: enter the jail, with a filter whose listener goes through *channel*, or one that never asks."""
    namespaces.enter()
    kernel.forbid_new_privileges()
    if channel is None:
        kernel.filter_calls(filter_program(asks=False))
    else:
        filter_install.install_filter(channel, filter_program(asks=True))


class NetnsGap(Gap):
    """Enforces by a jail, which it owns. Its listeners stand for the *allowed* places, in their order.

    *known* are the Unix sockets outside that may be reached; none by default.
    """

    layer: Layer = "netns"

    def __init__(
        self,
        jail: Jail,
        names: NameTable,
        allowed: Sequence[Place] = (),
        *,
        known: KnownSockets | None = None,
    ) -> None:
        self._jail, self._names = jail, names
        self._reachable, self._filters = known, list[int]()
        self._calls: FilterServer | None = None
        self._unix: UnixSockets | None = None
        self._name_server = NameServer(jail.dns, names, allowed)
        self.diag = jail.diag
        self.relays = tuple(zip((sock.fileno() for sock in jail.allowed), allowed, strict=True))
        tcp: End = jail.spare[0].getsockname()
        servers: dict[Kind, End] = {"udp": ("127.0.0.1", DNS_PORT), "tcp": tcp}
        self._listeners = ListenerLookup(jail.diag, jail.tables, servers)
        self._packets_read, self._attempts_seen = 0, 0
        # Room for as many waiting packets as the system allows; only root outside may exceed its limit.
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with suppress(OSError):
                jail.tap.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)
        self._allowed_addresses = {sock.getsockname()[:2] for sock in jail.allowed}
        self._report: Report = lambda _attempt: None
        self._loop: Loop | None = None
        self._programs: ProgramFinder = UNKNOWN_PROGRAM

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
        fds = namespaces.user, namespaces.net, namespaces.mount
        if not self._jail.can_ask:
            yield Enter(partial(_enter, namespaces, None), fds)
            return
        with filter_install.entering(partial(_enter, namespaces), self._took, fds) as enter:
            yield enter

    def _took(self, listener: int, _process: int) -> None:
        if self._calls is None:
            self._filters.append(listener)
        else:
            self._calls.add(listener)

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """See ``Gap``."""
        self._loop, self._report, self._programs = loop, report, programs
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self._serve())
        self._name_server.watch(loop, report, programs)
        self._watch_calls(loop, report)

    def _watch_calls(self, loop: Loop, report: Report) -> None:
        """Answer the calls that may reach a Unix socket."""
        # Loaded here, once Aider runs, so that its start is not delayed.
        from aider_guard.airgap.filter_server import FilterServer
        from aider_guard.airgap.rules import EgressRules, OwnServers
        from aider_guard.airgap.syscalls import SyscallHandlers
        from aider_guard.airgap.unix_sockets import NONE_KNOWN, UnixSockets

        calls = bpf.CALLS[platform.machine()]
        own = OwnServers()
        self._unix = UnixSockets(self._reachable or NONE_KNOWN, own.__contains__, self._jail.diag)
        rules = EgressRules({}, ("", 0), self._names, self._unix, own, True, report)
        self._calls = FilterServer(SyscallHandlers(calls, rules))
        while self._filters:
            self._calls.add(self._filters.pop())
        self._calls.watch(loop)

    def flush(self) -> None:
        """See ``Gap``."""
        if self._calls is not None:
            self._calls.flush()
        self._serve(math.inf)
        self._name_server.flush()

    def _serve(self, seconds: float = _BUDGET_SECONDS) -> None:
        until = time.monotonic() + seconds
        for _ in range(_MOST_AT_ONCE):
            try:
                data, (_, ethernet_type, *_rest) = self._jail.tap.recvfrom(_MOST_BYTES)
            except BlockingIOError:  # no more
                self._report_lost()
                return
            except OSError:  # the interface was switched off, or all is closed
                return
            self._packets_read += 1
            if packet := packet_capture.parse(data, ethernet_type):
                self._judge(packet)
            if time.monotonic() > until:
                return

    def _report_lost(self) -> None:
        """Report packets that the kernel dropped, taking the same share of them for attempts as of those read."""
        statistics = self._jail.tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _received, lost = _STATISTICS.unpack(statistics)
        if lost and self._attempts_seen:
            count = max(1, lost * self._attempts_seen // self._packets_read)
            self._report(Attempt(_UNREAD, 0, "other", count=count))
        self._packets_read = self._attempts_seen = 0

    def close(self) -> None:
        """See ``Gap``."""
        if self._loop is not None:
            self._loop.forget(self._jail.tap.fileno())
            self._loop = None
        if self._calls is not None:
            self._calls.close()
        if self._unix is not None:
            self._unix.close()
        while self._filters:
            os.close(self._filters.pop())
        self._name_server.close()
        self._listeners.close()
        self._jail.close()

    def _judge(self, packet: packet_capture.Packet) -> None:
        host, port = packet.destination, packet.port
        is_dns = packet.kind == "udp" and DNS_PORT in (port, packet.source_port)
        if is_dns or (host, port) in self._allowed_addresses:
            return  # a question to the name server, which reports it, or its answer
        if self._listeners.has_receiver_inside(packet):
            return
        if self._names.stands_for_a_name(host):
            name = self._names.name_of(host)
            self._report_attempt(name, port, packet.kind, self._name_server.asker_of(name))
        elif not packet_capture.is_loopback(host) or self._listeners.is_server_outside(packet):
            self._report_attempt(host, port, packet.kind)

    def _report_attempt(self, host: str, port: int, protocol: Protocol, asker: str = "") -> None:
        # The socket of a refused connection is gone before its program could be found. The program that asked for the
        # name is known: it waited for the reply.
        self._attempts_seen += 1
        self._report(Attempt(host, port, protocol, asker or self._programs.only()))
