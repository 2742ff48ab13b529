"""The listeners of a world: each connection and each datagram is a line of the witness before it is answered.

What the world itself sends to learn that all before it is written down comes from addresses of its own, and is none.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURSELVES: dict[int, str | bytes] = {
    socket.AF_INET: "127.0.0.2",
    socket.AF_INET6: "2001:db8::2",
    socket.AF_UNIX: b"\0the-world-itself",
}
"""Where the world's own connections come from."""
_FIRST_BYTES = 256 * 1024
_PATIENCE_SECONDS = 8.0
_LOOK_SECONDS = 10.0
_QUEUE = 256
_TCP_FASTOPEN = 23  # linux/tcp.h
_HTTP = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
_SERVER_NAME = re.compile(rb"(?=\x00\x00..\x00.\x00(..))", re.DOTALL)

Address = tuple[str, int] | bytes | str


class Witness:
    """Writes down what came, one JSON object a line, before anything is answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def saw(self, kind: str, **facts: Any) -> None:
        """Write one line."""
        with self._lock:
            self._file.write(json.dumps({"at": time.time(), "kind": kind, **facts}) + "\n")


class Listeners:
    """All that listens, each in a thread of its own."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._knocks: list[Callable[[], None]] = []
        self._looks: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def connections(self, family: int, address: Address, port: int = 0) -> None:
        """Take every connection: write down a ``touch``, then its first bytes as a ``connection``, and close it."""
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        if family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                server.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN, _QUEUE)
        server.listen(_QUEUE)
        facts = {"port": port} if port else {"path": _shown(address)}

        def serve() -> None:
            while True:
                connection, peer = server.accept()
                if is_ours(family, peer):
                    connection.close()
                else:
                    self._witness.saw("touch", **facts)
                    self._begin_to_look(connection, facts)

        self._start(serve, lambda: _knock(family, address))

    def datagrams(self, family: int, address: Address, port: int = 0) -> None:
        """Write down every datagram."""
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind(address)
        facts = {"port": port} if port else {"path": _shown(address)}

        def serve() -> None:
            while True:
                datagram, sender = server.recvfrom(65536)
                if is_ours(family, sender):
                    server.sendto(datagram, sender)
                else:
                    self._witness.saw("datagram", text=datagram.decode("latin-1"), **facts)

        self._start(serve, lambda: ask(family, address, b"?"))

    def answering(self, address: tuple[str, int], answer: Callable[[bytes, bool], bytes]) -> None:
        """Answer datagrams. The callback learns whether one is the world's own, and writes down the others itself."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(address)

        def serve() -> None:
            while True:
                query, asker = server.recvfrom(65536)
                if reply := answer(query, is_ours(socket.AF_INET, asker)):
                    server.sendto(reply, asker)

        self._start(serve, lambda: ask(socket.AF_INET, address, b"?"))

    def settle(self) -> None:
        """Wait until whatever was sent before is written down: each listener takes what comes in its order."""
        for knock in self._knocks:
            knock()
        with self._lock:
            looks = list(self._looks)
        for look in looks:
            look.join(_LOOK_SECONDS)

    def _start(self, serve: Callable[[], None], knock: Callable[[], None]) -> None:
        self._knocks.append(knock)
        threading.Thread(target=serve, daemon=True).start()

    def _begin_to_look(self, connection: socket.socket, facts: dict[str, Any]) -> None:
        def look() -> None:
            try:
                self._look(connection, facts)
            finally:
                with self._lock:
                    self._looks.discard(threading.current_thread())

        thread = threading.Thread(target=look, daemon=True)
        with self._lock:
            self._looks.add(thread)
            thread.start()  # started before it can be waited for

    def _look(self, connection: socket.socket, facts: dict[str, Any]) -> None:
        with connection:
            first = first_bytes(connection)
            text = first.decode("latin-1")
            self._witness.saw("connection", host=host_in(first), text=text, **facts)
            if _HTTP.match(first):
                with contextlib.suppress(OSError):
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside"
                    )


def is_ours(family: int, peer: Any) -> bool:
    """Whether the world itself is the peer."""
    return bool((peer[0] if isinstance(peer, tuple) else peer) == OURSELVES[family])


def ask(family: int, address: Address, question: bytes) -> None:
    """Send a datagram as the world itself, and wait for the answer."""
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.bind(_from(family))
        asking.sendto(question, address)
        asking.recv(512)


def _knock(family: int, address: Address) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as knocking:
        knocking.bind(_from(family))
        knocking.connect(address)
        knocking.recv(1)


def _from(family: int) -> Any:
    ours = OURSELVES[family]
    return ours if isinstance(ours, bytes) else (ours, 0)


def _shown(address: Address) -> str:
    assert not isinstance(address, tuple)
    return address.replace(b"\0", b"@").decode() if isinstance(address, bytes) else address


def first_bytes(connection: socket.socket) -> bytes:
    """A whole HTTP request, or the first bytes of anything else."""
    connection.settimeout(_PATIENCE_SECONDS)
    first = b""
    with contextlib.suppress(OSError):
        while len(first) < _FIRST_BYTES and not is_whole(first):
            more = connection.recv(65536)
            if not more:
                break
            first += more
    return first


def is_whole(first: bytes) -> bool:
    """Whether a request's body has come, or this is no request."""
    if not _HTTP.match(first):
        return bool(first)
    head, end, body = first.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def host_in(first: bytes) -> str:
    """The host that was meant: of a CONNECT, of the Host line, or the server name of a TLS greeting (RFC 6066, 3)."""
    if _HTTP.match(first):
        target = re.match(rb"CONNECT ([^ :]+)", first) or re.search(
            rb"(?i)\r\nhost: *([^\s:]+)", first
        )
        return target[1].decode("latin-1") if target else ""
    for found in _SERVER_NAME.finditer(first):
        length, at = int.from_bytes(found[1], "big"), found.start() + 9
        name = first[at : at + length]
        if length and len(name) == length and re.fullmatch(rb"[\w.-]+", name):
            return name.decode("ascii")
    return ""
