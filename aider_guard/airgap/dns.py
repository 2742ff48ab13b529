"""The name server for programs in the air gap: answers from the guard's loop and reports each name."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aider_guard.airgap.gap import UNKNOWN_PROGRAM, ProgramFinder, Report
from aider_guard.core.egress import Attempt, Place
from aider_guard.core.printable import printable
from aider_guard.loop import READ, Loop

# Each name gets a loopback address of its own, so that a later connection is reported by its name. Messages are those
# of RFC 1035, 4.1; no question leaves the machine.

_FIRST: Final = int(ipaddress.IPv4Address("127.77.0.1"))
_MOST: Final = 0xFFFE
"""The addresses of 127.77.0.0/16; names beyond that number do not exist."""
_A, _AAAA, _IN = 1, 28, 1
_HEADER: Final = struct.Struct("!HHHHHH")
_RESPONSE, _OPCODES, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_NOT_IMPLEMENTED, _NO_SUCH_NAME = 4, 3
_SECONDS_KEPT: Final = 1
_COMPRESSED: Final = b"\xc0\x0c"  # the name of the question, which begins at byte 12
LOCAL: Final = ("localhost", "localhost.localdomain")
"""Names of this machine, besides its own host name."""


class NameTable:
    """Gives each name of a session a loopback address, in the order in which names are asked for."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self.local: Final = frozenset({*LOCAL, own, own.partition(".")[0]} - {""})
        """Names of this machine."""
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name in known:
            self.address_of(name)

    def address_of(self, name: str) -> str | None:
        """Return the address that stands for this name, the same each time; None when all are used."""
        name = name.lower().removesuffix(".")
        if name not in self._addresses:
            if len(self._addresses) >= _MOST:
                return None
            address = str(ipaddress.IPv4Address(_FIRST + len(self._addresses)))
            self._addresses[name], self._names[address] = address, name
        return self._addresses[name]

    def __contains__(self, name: str) -> bool:
        return name.lower().removesuffix(".") in self._addresses

    def name_of(self, address: str) -> str:
        """Return the name that an address stands for, else the address."""
        return self._names.get(address, address)

    def stands_for_a_name(self, address: str) -> bool:
        """Whether this table gave the address to a name."""
        return address in self._names


@dataclass(frozen=True)
class DnsAnswer:
    """The name of a question and the whole reply."""

    name: str
    reply: bytes


def answer(
    query: bytes, names: NameTable, is_absent: Callable[[str], bool] = lambda _name: False
) -> DnsAnswer | None:
    """Answer a question for a name; None when the datagram is no question.

    Every name exists, unless *is_absent* says otherwise, and has one IPv4 address: questions for other kinds of records
    get an empty answer.
    """
    question = _question(query)
    if question is None:
        return None
    name, kind, raw = question
    identifier, flags, *_ = _HEADER.unpack_from(query)
    before = _RESPONSE | _RECURSION_AVAILABLE | flags & (_OPCODES | _RECURSION_DESIRED)
    if flags & _OPCODES:
        head = _HEADER.pack(identifier, before | _NOT_IMPLEMENTED, 1, 0, 0, 0)
        return DnsAnswer(name, head + raw)
    is_local = name in names.local and name not in names
    address = "127.0.0.1" if is_local else None if is_absent(name) else names.address_of(name)
    if address is None:
        return DnsAnswer(name, _HEADER.pack(identifier, before | _NO_SUCH_NAME, 1, 0, 0, 0) + raw)
    records = b""
    if kind == _A:
        fixed = struct.pack("!HHIH", _A, _IN, _SECONDS_KEPT, 4)
        records = _COMPRESSED + fixed + ipaddress.IPv4Address(address).packed
    head = _HEADER.pack(identifier, before, 1, 1 if records else 0, 0, 0)
    return DnsAnswer(name, head + raw + records)


def _question(query: bytes) -> tuple[str, int, bytes] | None:
    """The name, the kind of record, and the bytes of a message's only question."""
    if len(query) < _HEADER.size or query[2] & 0x80 or query[4:6] != b"\0\1":
        return None
    labels, at = [], _HEADER.size
    while at < len(query) and query[at]:
        length = query[at]
        if length > 63 or at + 1 + length >= len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    if len(query) < at + 5:
        return None
    name = printable(".".join(labels)).lower()
    return name, int.from_bytes(query[at + 1 : at + 3], "big"), query[_HEADER.size : at + 5]


def search_domains(
    environment: Mapping[str, str] = os.environ, path: Path = Path("/etc/resolv.conf")
) -> frozenset[str]:
    """Return the domains in which resolvers look for short names, in lower case (resolv.conf(5)).

    Those of the file, of LOCALDOMAIN, and this machine's own.
    """
    domains = environment.get("LOCALDOMAIN", "").split()
    domains.append(socket.gethostname().partition(".")[2])
    with suppress(OSError):  # without the file there are none
        for line in path.read_text("utf-8", "replace").splitlines():
            keyword, *values = line.split() or [""]
            domains += values if keyword in {"search", "domain"} else []
    return frozenset(domain.strip(".").lower() for domain in domains) - {""}


PORT: Final = 53
_BUDGET_SECONDS: Final = 0.01
"""For so long questions are answered in a row, before the terminal gets its turn."""
_MOST_AT_ONCE: Final = 1 << 12
"""More than the kernel queues: only a program that keeps on asking sends more."""
_MOST_BYTES: Final = 4096
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # linux/in.h, linux/in6.h

Ancillary = list[tuple[int, int, bytes]]


class NameServer:
    """Answers every question for a name, and reports those that are not *allowed*. Owns its sockets.

    A resolver may look for an allowed name in a search domain first. The answer is that it does not exist there, so
    that the resolver goes on to the name itself.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], names: NameTable, allowed: Sequence[Place] = ()
    ) -> None:
        self._sockets, self._names = tuple(sockets), names
        self._unreported = names.local.union(place.host for place in allowed)
        self._loop: Loop | None = None
        self._report: Report = lambda _attempt: None
        self._programs: ProgramFinder = UNKNOWN_PROGRAM
        self._askers: dict[str, str] = {}

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """Serve from this loop, and report to *report*."""
        self._loop, self._report, self._programs = loop, report, programs
        for sock in self._sockets:
            loop.watch(sock.fileno(), READ, lambda _events, dns=sock: self._serve(dns))  # type: ignore[misc]

    def flush(self) -> None:
        """Answer and report the questions that wait."""
        for sock in self._sockets:
            self._serve(sock, math.inf)

    def close(self) -> None:
        """Stop serving and close the sockets. Twice is no error."""
        for sock in self._sockets:
            if self._loop is not None:
                self._loop.forget(sock.fileno())
            sock.close()
        self._loop = None

    def asker_of(self, name: str) -> str:
        """Return the program that asked for this name last; "" where that is not known."""
        return self._askers.get(name, "")

    def _serve(self, dns: socket.socket, seconds: float = _BUDGET_SECONDS) -> None:
        until = time.monotonic() + seconds
        for _ in range(_MOST_AT_ONCE):
            try:
                query, ancillary, _flags, asker = dns.recvmsg(_MOST_BYTES, 256)
            except OSError:  # no more
                return
            self._reply(dns, query, ancillary, asker)
            if time.monotonic() > until:
                return

    def _reply(
        self, dns: socket.socket, query: bytes, ancillary: Ancillary, asker: tuple[Any, ...]
    ) -> None:
        answered = answer(query, self._names, self._is_in_search_domain)
        if answered is None:
            self._report(Attempt(_meant_address(ancillary), PORT, "udp"))
            return
        name = answered.name
        if name not in self._unreported and not self._is_in_search_domain(name):
            program = self._programs.asker(asker[1])  # found while it waits for the reply
            if name in self._names:  # the others could be without end
                self._askers[name] = program
            self._report(Attempt(name, PORT, "dns", program))
        with suppress(OSError):  # the program has gone
            dns.sendmsg([answered.reply], _reply_source(ancillary), 0, asker)

    def _is_in_search_domain(self, name: str) -> bool:
        """Whether this is a name that is not reported, within a search domain."""
        if name in self._unreported:
            return False
        prefixes = (f"{known}." for known in self._unreported)
        domains = (name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix))
        return any(domain in search_domains() for domain in domains)


def _meant_address(ancillary: Ancillary) -> str:
    """Return the address that bytes were sent to which are no question for a name, where the kernel tells it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return socket.inet_ntoa(data[8:12])
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return socket.inet_ntop(socket.AF_INET6, data[:16])
    return "(no question for a name)"


def _reply_source(ancillary: Ancillary) -> Ancillary:
    """Make the reply come from the address that the question was sent to (ip(7) and ipv6(7), PKTINFO)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, struct.pack("i4s4s", 0, data[8:12], bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, data[:16] + struct.pack("I", 0))]
    return []
