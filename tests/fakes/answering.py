"""A real HTTP server whose answers are data, the wrong ones too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Iterable


@dataclass(frozen=True)
class Json:
    """A complete JSON answer."""

    body: Any
    status: int = 200


@dataclass(frozen=True)
class Raw:
    """Any bytes, with any status and headers."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/html"),)


@dataclass(frozen=True)
class Hang:
    """The request is taken and never answered."""


@dataclass(frozen=True)
class Drip:
    """The body comes in chunks of one byte with a pause before each; without a body, for ever."""

    body: bytes = b""
    pause_seconds: float = 0.05


@dataclass(frozen=True)
class Cut:
    """The connection closes in the middle of the body."""

    body: bytes = b'{"models":['


@dataclass(frozen=True)
class Endless:
    """The body never ends, as fast as it can be sent."""

    piece: bytes = b" " * 65536


Answer = Json | Raw | Hang | Drip | Cut | Endless


@dataclass(frozen=True)
class Received:
    """One request that came in."""

    method: str
    path: str
    body: Any


class Answering(Protocol):
    """Who says what is answered."""

    host: str
    closing: threading.Event

    def answer(self, request: Received) -> Answer:
        """What is said to a request."""


class AnsweringServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self._connections: set[socket.socket] = set()
        super().__init__((answering.host, 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AnsweringServer

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(content) if content else None)

    def _answer(self, body: Any) -> None:
        match self.server.answering.answer(Received(self.command, self.path, body)):
            case Json(answer, status):
                content = json.dumps(answer).encode()
                self._send(content, status, (("Content-Type", "application/json"),))
            case Raw(content, status, headers):
                self._send(content, status, headers)
            case Hang():
                self.server.answering.closing.wait()
                self.close_connection = True
            case Drip(content, pause_seconds):
                self._drip(content, pause_seconds)
            case Endless(piece):
                self._endless(piece)
            case Cut(content):
                self._head(200, (("Content-Length", str(len(content) + 100)),))
                self.wfile.write(content)
                self.close_connection = True

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._head(status, (*headers, ("Content-Length", str(len(content)))))
        self.wfile.write(content)

    def _drip(self, content: bytes, pause_seconds: float) -> None:
        self._head(200, (("Transfer-Encoding", "chunked"),))
        pieces: Iterable[int] = content or iter(lambda: ord(" "), None)
        for piece in pieces:
            if self.server.answering.closing.wait(pause_seconds):
                return
            self.wfile.write(b"1\r\n%c\r\n" % piece)
        self.wfile.write(b"0\r\n\r\n")

    def _endless(self, piece: bytes) -> None:
        self._head(200, (("Transfer-Encoding", "chunked"),))
        while not self.server.answering.closing.is_set():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""
