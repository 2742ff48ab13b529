"""A real HTTP server whose answers are data, the wrong ones too."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST_WORDS_SECONDS = 5.0


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


@dataclass(frozen=True)
class Live:
    """An answer that is made while it is sent: a number is a pause in seconds, bytes are a chunk that is sent at once.

    Any other answer ends it: as the whole answer when nothing was sent before; ``Cut`` and ``Hang`` in the middle too.
    ``steps`` is closed when the client goes away, which is looked for in each pause.
    """

    steps: Generator[float | bytes | Json | Raw | Hang | Cut, None, None]
    content_type: str = "application/x-ndjson"


Answer = Json | Raw | Hang | Drip | Cut | Endless | Live


@dataclass(frozen=True)
class Received:
    """One request that came in; ``body`` is None when it is not JSON."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """By names in lower case."""
    content: bytes = field(default=b"", compare=False, repr=False)


class Answering(Protocol):
    """Who says what is answered."""

    host: str
    port: int
    closing: threading.Event

    def answer(self, request: Received) -> Answer:
        """The answer to a request."""

    def gone(self, request: Received) -> None:
        """The client went away before it had the whole answer."""


class AnsweringServer(ThreadingHTTPServer):
    block_on_close = False  # the base class would wait for ever

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self._connections: set[socket.socket] = set()
        self._handlers: set[threading.Thread] = set()
        super().__init__((answering.host, answering.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        self._handlers = {thread for thread in self._handlers if thread.is_alive()}
        given = (request, client_address)
        thread = threading.Thread(target=self.process_request_thread, args=given, daemon=True)
        self._handlers.add(thread)
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            self.shutdown_request(connection)

    def server_close(self) -> None:
        """See the base class; what its threads had open is closed afterwards."""
        super().server_close()
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        for thread in self._handlers - {threading.current_thread()}:
            thread.join(max(0.0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's."""


class _ClientGoneError(Exception):
    """The client closed its connection while it was answered."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: AnsweringServer

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_GET  # noqa: N815  # the base class's names
    do_HEAD = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        content = self._content()
        try:
            body = json.loads(content) if content else None
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, self.path, body, headers, content)
        try:
            self._give(self.server.answering.answer(request))
        except (_ClientGoneError, OSError):
            self.close_connection = True
            if not self.server.answering.closing.is_set():
                self.server.answering.gone(request)

    def _content(self) -> bytes:
        """The body, of a given length or in chunks (RFC 9112, 7.1). One that breaks off is no request."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            if len(content) < length:
                raise _ClientGoneError
            return content
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _give(self, answer: Answer) -> None:
        match answer:
            case Json(body, status):
                content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
                self._send(content, status, (("Content-Type", "application/json; charset=utf-8"),))
            case Raw(content, status, headers):
                self._send(content, status, headers)
            case Hang():
                self._wait(None)
                self.close_connection = True
            case Drip(content, pause_seconds):
                self._drip(content, pause_seconds)
            case Endless(piece):
                self._endless(piece)
            case Cut(content):
                self._head(200, (("Content-Length", str(len(content) + 100)),))
                self.wfile.write(content)
                self.close_connection = True
            case Live(steps, content_type):
                with contextlib.closing(steps):
                    self._live(steps, content_type)

    def _live(self, steps: Iterable[Any], content_type: str) -> None:
        begun = False
        for step in steps:
            match step:
                case float(seconds) | int(seconds):
                    self._wait(seconds)
                case bytes(piece):
                    if not begun:
                        headers = (("Content-Type", content_type), ("Transfer-Encoding", "chunked"))
                        self._head(200, headers)
                    begun = True
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                case Cut() if begun:
                    self.close_connection = True
                    return
                case answer:
                    self._give(answer)
                    return
        self.wfile.write(b"0\r\n\r\n")

    def _wait(self, seconds: float | None) -> None:
        """Let this time pass, or all time, while the client is there."""
        ready, _, _ = select.select([self.connection], [], [], seconds)
        if ready and not self.connection.recv(1, socket.MSG_PEEK):
            raise _ClientGoneError

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._head(status, (*headers, ("Content-Length", str(len(content)))))
        if self.command != "HEAD":
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
