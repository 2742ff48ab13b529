"""The other machine of a box, the witness: all that comes over the cable, and to the services of the first machine.

What a way reaches is known by its port or by its word (way.py). A packet counts as soon as it has come, whether it says
anything or not. A fake Ollama and the sockets of daemons belong to the first machine; they lead out, so they count too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from airgap.battery import box
from airgap.battery.ollama import WatchedOllama
from airgap.battery.way import (
    BYSTANDERS_PORT,
    FIRST_PORT,
    FIRST_SERVER,
    MACHINE,
    MACHINE_6,
    NAME_SERVER,
    OLLAMA_PORT,
    OUTSIDE,
    Numbered,
    words_in,
)

from aider_guard.airgap import kernel

NO_WAY = -2
"""In place of a number: only what has a word counts."""
MARK_PORT = 19998
"""Of the packets that show that all before them have come."""
ASKING, ANSWERING = box.HOME / "till" / ".asking", box.HOME / "till" / ".answering"
"""Pipes by which a way has the other machine do something: a line each."""
_PATIENCE_SECONDS = 5.0
_NEIGHBOURS = range(
    130, 144
)  # ICMPv6 by which machines on one cable find each other (RFC 4861, RFC 3810)
_ERRORS = (
    (1, 3),
    (58, 1),
)  # "unreachable", by which a kernel answers a visitor (RFC 792, RFC 4443)
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Witness:
    """What was seen of each way, by its number; -1 for what cannot be assigned."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()

    def saw(self, number: int, what: str) -> None:
        """Count one thing."""
        with self._lock:
            self._seen[number if number < self._count else -1, what] += 1

    def saw_bytes(self, data: bytes, what: str, number: int = -1) -> None:
        """Count some bytes, by the words in them, else for the way of this number."""
        for one in words_in(data) or ({number} if number != NO_WAY else ()):
            self.saw(one, what)

    def take(self) -> list[tuple[int, str, int]]:
        """What was seen since the last time: number, what, how often."""
        with self._lock:
            seen, self._seen = self._seen, Counter()
        return [(number, what, count) for (number, what), count in sorted(seen.items())]


class Outside:
    """The other machine and the first one's services; serves from one thread."""

    def __init__(self, ways: Sequence[Numbered]) -> None:
        self.witness = Witness(len(ways))
        self._selector = selectors.DefaultSelector()
        self._by_name_port = next(one.number for one in ways if one.way.id == "dns-tcp")
        self._marks: set[bytes] = set()
        self._kept: list[socket.socket] = []

    def serve(self, seconds: float | None = None) -> bool:
        """Serve what is ready; False when nothing was."""
        ready = self._selector.select(seconds)
        for key, _ in ready:
            if (
                self._selector.get_map().get(key.fd) is key
            ):  # it may be gone: ``settle`` serves as well
                key.data()
        return bool(ready)

    def settle(self) -> None:
        """Serve all that was sent before."""
        self._marks.clear()
        processors = os.sched_getaffinity(0)
        for number in processors:  # packets of one processor keep their order
            _send_mark(number)
        while len(self._marks) < len(processors):
            self.serve(_PATIENCE_SECONDS)
        while self.serve(0):
            pass
        interfaces = Path("/proc/1/net/dev").read_text()
        for number in map(int, re.findall(r"(?:way|yaw)(\d+):", interfaces)):
            self.witness.saw(number, "an interface of the machine")

    def watch(self, fd: int, work: Callable[[], None]) -> None:
        """Do this whenever there is something to read."""
        self._selector.register(fd, selectors.EVENT_READ, work)

    def stream(
        self,
        server: socket.socket,
        number: int,
        what: str,
        *,
        silent: bool = False,
        is_kept: bool = False,
    ) -> None:
        """Take connections, and the first bytes of each; all bytes of one that *is_kept*.

        With *silent* a connection alone counts for nothing.
        """
        server.listen(256)
        server.setblocking(False)
        self._kept.append(server)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                while True:
                    connection, _ = server.accept()
                    if not silent:
                        self.witness.saw(number, what)
                    self._read(connection, number, what, is_kept=is_kept)

        self.watch(server.fileno(), accept)

    def _read(self, connection: socket.socket, number: int, what: str, *, is_kept: bool) -> None:
        connection.setblocking(False)

        def read() -> None:
            data = b""
            with contextlib.suppress(OSError):
                data = connection.recv(65536)
            if data:
                self.witness.saw_bytes(data, f"{what}: bytes", number)
                with contextlib.suppress(OSError):
                    connection.sendall(_REPLY if b" HTTP/1." in data else b"")
            if not is_kept or not data:
                self._selector.unregister(connection)
                connection.close()

        self.watch(connection.fileno(), read)

    def datagrams(self, server: socket.socket, number: int, what: str) -> None:
        """Take datagrams."""
        server.setblocking(False)
        self._kept.append(server)

        def receive() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, sender = server.recvfrom(65536)
                    self.witness.saw_bytes(data, what, number)
                    if number < 0 and (answer := _name_answer(data)):
                        server.sendto(answer, sender)

        self.watch(server.fileno(), receive)

    def daemon(self, path: str) -> None:
        """Be a daemon that listens there: ``PATH KIND``, with ``@`` for a name without a file, and a number before."""
        number, place, kind = path.rsplit(" ", 2)
        unix = socket.socket(socket.AF_UNIX, getattr(socket, f"SOCK_{kind.upper()}"))
        if place.startswith("@"):
            unix.bind(f"\0{place[1:]}")
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).unlink(missing_ok=True)
            unix.bind(place)
            Path(place).chmod(0o777)
        what = f"socket {place}"
        if kind == "dgram":
            self.datagrams(unix, int(number), what)
        elif "nscd" in place:  # the C library asks it by itself, also outside
            self.stream(unix, NO_WAY, what, silent=True)
        else:
            self.stream(unix, int(number), what)

    def packets(self) -> None:
        """Take every packet of the cable (packet(7))."""
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
        tap.bind(("net0", 3))
        tap.setblocking(False)
        self._kept.append(tap)

        def receive() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, (_, kind, direction, *_rest) = tap.recvfrom(2048)
                    if direction != socket.PACKET_OUTGOING and kind in (0x0800, 0x86DD):
                        self._judge(data)

        self.watch(tap.fileno(), receive)

    def _judge(self, packet: bytes) -> None:
        is_6 = packet[0] >> 4 == 6
        protocol, head = (packet[6], 40) if is_6 else (packet[9], (packet[0] & 15) * 4)
        if is_6 and protocol == 0:  # options for each hop, of Multicast Listener Discovery
            protocol, head = packet[40], 48 + packet[41] * 8
        rest = packet[head:]
        if protocol == socket.IPPROTO_UDP and rest[2:4] == MARK_PORT.to_bytes(2, "big"):
            self._marks.add(rest[8:])
        elif protocol == socket.IPPROTO_TCP:
            port, flags = int.from_bytes(rest[2:4], "big"), rest[13]
            if flags & 0x12 == 0x02 and port != BYSTANDERS_PORT:  # SYN without ACK
                number = self._by_name_port if port == 53 else max(-1, port - FIRST_PORT)
                self.witness.saw_bytes(packet, "tcp", number)
        elif not (is_6 and protocol == 58 and rest[0] in _NEIGHBOURS) and protocol != 2:  # IGMP
            number = max(-1, int.from_bytes(rest[2:4], "big") - FIRST_PORT)
            if (protocol, rest[0]) in _ERRORS:
                number = NO_WAY
            self.witness.saw_bytes(packet, f"protocol {protocol}", number)

    def obey(self) -> None:
        """Do what ways ask for."""
        asked = os.open(ASKING, os.O_RDWR | os.O_NONBLOCK)
        answers = os.open(ANSWERING, os.O_RDWR | os.O_NONBLOCK)
        rest = b""

        def read() -> None:
            nonlocal rest
            *lines, rest = (rest + os.read(asked, 4096)).split(b"\n")
            for line in lines:
                verb, _, what = line.decode().partition(" ")
                with contextlib.suppress(OSError):
                    self._visit(what) if verb == "visit" else self.daemon(what)
                os.write(answers, b".")

        self.watch(asked, read)

    def _visit(self, what: str) -> None:
        """Connect to a server of the first machine, over the cable: ``KIND FAMILY PORT``."""
        kind, family, port = what.split()
        number = int(port) - FIRST_SERVER
        is_6 = family == "6"
        to = (MACHINE_6 if is_6 else MACHINE, int(port))
        with socket.socket(
            socket.AF_INET6 if is_6 else socket.AF_INET,
            socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
        ) as visitor:
            visitor.settimeout(0.5)
            visitor.connect(to)
            visitor.send(b"?")
            if visitor.recv(100):
                self.witness.saw(number, f"a visitor of {kind}{family}")


def _send_mark(processor: int) -> None:
    """Send a packet over the cable, from the first machine and this processor."""
    own, before = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.sched_getaffinity(0)
    first = os.open("/proc/1/ns/net", os.O_RDONLY)
    try:
        os.sched_setaffinity(0, {processor})
        kernel.setns(first, kernel.CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"%d" % processor, (OUTSIDE, MARK_PORT))
    finally:
        kernel.setns(own, kernel.CLONE_NEWNET)
        os.sched_setaffinity(0, before)
        os.close(own)
        os.close(first)


def _name_answer(query: bytes) -> bytes:
    """Answer a question for a name with the other machine's address (RFC 1035, 4.1)."""
    with contextlib.suppress(ValueError):  # no question
        end = query.index(0, 12) + 5
        is_address = query[end - 4 : end - 2] == b"\0\1"
        counts = struct.pack(">HHHH", 1, int(is_address), 0, 0)
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(OUTSIDE)
        return query[:2] + b"\x81\x80" + counts + query[12:end] + (record if is_address else b"")
    return b""


def _bound(family: int, kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    elif kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_TCP, 23, 64)  # TCP_FASTOPEN, linux/tcp.h
    sock.bind((address, port))
    return sock


def _listen(outside: Outside, ways: Sequence[Numbered]) -> None:
    families = (
        [(socket.AF_INET6, "::")]
        if os.path.exists("/proc/net/if_inet6")
        else [(socket.AF_INET, "0.0.0.0")]
    )
    for family, any_address in families:
        for one in ways:
            stream = _bound(family, socket.SOCK_STREAM, any_address, one.port)
            stream.setsockopt(socket.IPPROTO_TCP, 23, 64)
            outside.stream(stream, one.number, "connection")
        outside.stream(
            _bound(family, socket.SOCK_STREAM, any_address, BYSTANDERS_PORT),
            -1,
            "stolen",
            silent=True,
            is_kept=True,
        )
    outside.stream(
        _bound(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 53),
        outside._by_name_port,
        "connection",
    )
    outside.datagrams(_bound(socket.AF_INET, socket.SOCK_DGRAM, NAME_SERVER, 53), -1, "question")


def main() -> None:
    """Serve, and do what the box's first process says: ``cable``, ``settle`` (tells what was seen), until it ends."""
    from airgap.battery.catalogue import WAYS

    outside, uid = Outside(WAYS), int(sys.argv[1])
    with WatchedOllama(port=OLLAMA_PORT, witness=outside.witness):
        for one in WAYS:
            for path in one.way.sockets:
                outside.daemon(f"{one.number} {path.format(runtime=f'/run/user/{uid}', uid=uid)}")
            if one.way.has_service:
                for kind, take in (
                    (socket.SOCK_STREAM, outside.stream),
                    (socket.SOCK_DGRAM, outside.datagrams),
                ):
                    take(
                        _bound(socket.AF_INET, kind, "127.0.0.1", one.service),
                        one.number,
                        "service",
                    )
        kernel.unshare(kernel.CLONE_NEWNET)
        print("unshared", flush=True)
        orders = _orders()
        next(orders)
        box.be_other_machine()
        _listen(outside, WAYS)
        outside.packets()
        outside.obey()
        print("ready", flush=True)
        outside.watch(sys.stdin.fileno(), lambda: _settle(outside, next(orders)))
        with contextlib.suppress(StopIteration):
            while True:
                outside.serve()


def _settle(outside: Outside, _order: bytes) -> None:
    outside.settle()
    print(json.dumps(outside.witness.take()), flush=True)


def _orders() -> Iterator[bytes]:
    """Each byte of standard input."""
    while byte := os.read(0, 1):
        yield byte


if __name__ == "__main__":
    main()
