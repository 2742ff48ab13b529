"""A fake Ollama: a real HTTP server whose answers are data, shaped as in Ollama's api/types.go.

    with FakeOllama(version="0.9.3", loaded=["qwen3:8b"]) as ollama:
        ollama.answers["/api/ps"] = Hang()

Without an entry in ``answers`` a path is answered as that version of Ollama would.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

GIB = 1024**3


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


Answer = Json | Raw | Hang | Drip | Cut


@dataclass(frozen=True)
class FakeModel:
    """A model on disk, and what it takes when it is loaded."""

    name: str
    size_bytes: int = 5 * GIB
    vram_bytes: int = 5 * GIB
    window_tokens: int = 4096
    trained_tokens: int | None = 40960
    remote_host: str = ""

    def show(self) -> dict[str, Any]:
        """The answer of ``/api/show``."""
        facts: dict[str, Any] = {"general.architecture": "qwen3", "qwen3.block_count": 36}
        if self.trained_tokens is not None:
            facts["qwen3.context_length"] = self.trained_tokens
        remote = {"remote_host": self.remote_host} if self.remote_host else {}
        return {
            "modelfile": "FROM x",
            "details": {"family": "qwen3"},
            "model_info": facts,
            **remote,
        }

    def entry(self, tells_window: bool) -> dict[str, Any]:
        """The entry in ``/api/ps``."""
        window = {"context_length": self.window_tokens} if tells_window else {}
        return {
            "name": self.name,
            "model": self.name,
            "size": self.size_bytes,
            "digest": f"{len(self.name):064x}",
            "details": {"format": "gguf", "family": "qwen3", "quantization_level": "Q4_K_M"},
            "expires_at": "2026-11-22T16:00:00.123456789+01:00",
            "size_vram": self.vram_bytes,
            **window,
        }


@dataclass(frozen=True)
class Received:
    """One request that came in."""

    method: str
    path: str
    body: Any


@dataclass
class FakeOllama:
    """The server; ``url`` is where it listens while it is entered."""

    version: str = "0.15.5"
    models: tuple[FakeModel, ...] = (FakeModel("qwen3:8b"),)
    loaded: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    on_unload: Callable[[str], None] = lambda _name: None
    keeps_loaded: bool = False
    """Whether it agrees to unload and does not: a request is still running."""
    host: str = "127.0.0.1"
    received: list[Received] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._server = _Server(self)
        self.url = f"http://{self.host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection, the hanging ones too."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def paths(self) -> set[str]:
        """The paths that were asked for."""
        return {request.path for request in self.received}

    def answer(self, request: Received) -> Answer:
        """What this Ollama says to a request."""
        self.received.append(request)
        if request.path in self.answers:
            return self.answers[request.path]
        match request:
            case Received("GET", "/api/version"):
                return Json({"version": self.version})
            case Received("GET", "/api/ps"):
                return Json(
                    {"models": [model.entry(self._tells_window) for model in self._shown()]}
                )
            case Received("POST", "/api/show", {"model": str(name)}):
                model = self._find(name)
                return Json(model.show()) if model else _not_found(name)
            case Received("POST", "/api/generate", {"model": str(name), "keep_alive": 0}):
                return self._unload(name)
        return Raw(b"404 page not found", 404, (("Content-Type", "text/plain"),))

    @property
    def _tells_window(self) -> bool:
        """``context_length`` came with 0.10.0."""
        major, minor, *_ = (int(part) for part in self.version.split("."))
        return (major, minor) >= (0, 10)

    def _shown(self) -> Iterable[FakeModel]:
        return filter(None, map(self._find, self.loaded))

    def _find(self, name: str) -> FakeModel | None:
        full = name if ":" in name else f"{name}:latest"
        return next((model for model in self.models if model.name == full), None)

    def _unload(self, name: str) -> Answer:
        """200 whether it was loaded or not."""
        model = self._find(name)
        if model is None:
            return _not_found(name)
        if not self.keeps_loaded:
            self.loaded[:] = [other for other in self.loaded if self._find(other) != model]
            self.on_unload(model.name)
        return Json({"model": name, "response": "", "done": True, "done_reason": "unload"})


def _not_found(name: str) -> Json:
    return Json({"error": f"model '{name}' not found"}, 404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, ollama: FakeOllama) -> None:
        self.ollama = ollama
        self._connections: set[socket.socket] = set()
        super().__init__((ollama.host, 0), _Handler)

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
    server: _Server

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(content) if content else None)

    def _answer(self, body: Any) -> None:
        match self.server.ollama.answer(Received(self.command, self.path, body)):
            case Json(answer, status):
                content = json.dumps(answer).encode()
                self._send(content, status, (("Content-Type", "application/json"),))
            case Raw(content, status, headers):
                self._send(content, status, headers)
            case Hang():
                self.server.ollama.closing.wait()
                self.close_connection = True
            case Drip(content, pause_seconds):
                self._drip(content, pause_seconds)
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
            if self.server.ollama.closing.wait(pause_seconds):
                return
            self.wfile.write(b"1\r\n%c\r\n" % piece)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""
