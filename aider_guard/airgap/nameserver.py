"""The only name server that programs in the air gap find: in the guard's loop, on sockets that are theirs to ask."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from aider_guard.airgap.gap import NOBODY, Whose
from aider_guard.airgap.names import Names, answer
from aider_guard.airgap.searched import search_domains
from aider_guard.core.egress import Attempt, Place
from aider_guard.loop import READ, Loop

PORT: Final = 53
_BUDGET_SECONDS: Final = 0.01
"""For so long questions are answered in a row, before the terminal gets its turn."""
_MOST_AT_ONCE: Final = 1 << 12
"""More than the kernel keeps: only who goes on asking has more."""
_MOST_BYTES: Final = 4096
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # linux/in.h, linux/in6.h

Ancillary = list[tuple[int, int, bytes]]


class NameServer:
    """Answers every question for a name, and reports it, unless it is one of the *allowed*. Owns its sockets.

    A resolver may look for such a name in a search domain first. There it is not, so that the resolver goes on to the
    name itself.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], names: Names, allowed: Sequence[Place] = ()
    ) -> None:
        self._sockets, self._names = tuple(sockets), names
        self._unsaid = names.local.union(place.host for place in allowed)
        self._loop: Loop | None = None
        self._report: Callable[[Attempt], None] = lambda _attempt: None
        self._whose: Whose = NOBODY
        self._askers: dict[str, str] = {}

    def watch(self, loop: Loop, report: Callable[[Attempt], None], whose: Whose = NOBODY) -> None:
        """Serve from this loop."""
        self._loop, self._report, self._whose = loop, report, whose
        for one in self._sockets:
            loop.watch(one.fileno(), READ, lambda _events, dns=one: self._serve(dns))  # type: ignore[misc]

    def look(self) -> None:
        """Answer and report what was asked until now."""
        for one in self._sockets:
            for question in _queries(one):
                self._answer(one, *question)

    def close(self) -> None:
        """Serve nobody any more. Twice is no error."""
        for one in self._sockets:
            if self._loop is not None:
                self._loop.forget(one.fileno())
            one.close()
        self._loop = None

    def asker_of(self, name: str) -> str:
        """The program that asked for this name last; "" where that is not known."""
        return self._askers.get(name, "")

    def _serve(self, dns: socket.socket) -> None:
        until = time.monotonic() + _BUDGET_SECONDS
        for question in _queries(dns):
            self._answer(dns, *question)
            if time.monotonic() > until:
                return

    def _answer(
        self, dns: socket.socket, query: bytes, ancillary: Ancillary, asker: tuple[Any, ...]
    ) -> None:
        answered = answer(query, self._names, self._is_searched_for)
        if answered is None:
            self._report(Attempt("(no question for a name)", PORT, "udp"))
            return
        if answered.name not in self._unsaid and not self._is_searched_for(answered.name):
            self._report(Attempt(answered.name, PORT, "dns", self._asked(answered.name, asker)))
        with suppress(OSError):  # whoever asked has gone
            dns.sendmsg([answered.reply], _from_where_it_was_asked(ancillary), 0, asker)

    def _is_searched_for(self, name: str) -> bool:
        """Whether it is one of the names that are not reported, in a search domain."""
        if name in self._unsaid:
            return False
        found = (name[len(known) + 1 :] for known in self._unsaid if name.startswith(f"{known}."))
        return any(domain in search_domains() for domain in found)

    def _asked(self, name: str, asker: tuple[Any, ...]) -> str:
        """Who asks, which can be told while it waits. Names that stand for nothing are not kept: there is no end."""
        program = self._whose.asker(asker[1])
        if name in self._names:
            self._askers[name] = program
        return program


def _queries(dns: socket.socket) -> Iterator[tuple[bytes, Ancillary, Any]]:
    for _ in range(_MOST_AT_ONCE):
        try:
            query, ancillary, _flags, asker = dns.recvmsg(_MOST_BYTES, 256)
        except OSError:  # no more
            return
        yield query, ancillary, asker


def _from_where_it_was_asked(ancillary: Ancillary) -> Ancillary:
    """The answer's source: the address that the question was sent to (ip(7) and ipv6(7), PKTINFO)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, struct.pack("i4s4s", 0, data[8:12], bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, data[:16] + struct.pack("I", 0))]
    return []
