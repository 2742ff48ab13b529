"""A relay before Ollama that writes down the requests for text: what was asked, what came back, and when."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = ("/api/chat", "/api/generate")


@dataclass
class Asked:
    """One request for text. Instants are monotonic seconds."""

    body: dict[str, Any]
    began: float
    ended: float = 0.0
    answer: str = ""
    last: Mapping[str, Any] = field(default_factory=dict)
    """The last line of the answer, with its numbers."""

    @property
    def seconds(self) -> float:
        """From the request to the end of the answer."""
        return self.ended - self.began


class Tap(ThreadingHTTPServer):
    """Leads to one Ollama."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.asked: list[Asked] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""


@contextlib.contextmanager
def tap(upstream: str) -> Iterator[Tap]:
    """A tap for the length of a ``with``."""
    with Tap(upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Tap

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        noted = self._note(content)
        upstream = http.client.HTTPConnection(self.server.upstream)
        with contextlib.closing(upstream):
            headers = {"Content-Type": "application/json"} if content else {}
            upstream.request(self.command, self.path, content, headers)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", ""))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            lines = bytearray()
            while piece := answer.read1(65536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                lines += piece
            self.wfile.write(b"0\r\n\r\n")
        if noted is not None:
            noted.ended = time.monotonic()
            told = [json.loads(line) for line in bytes(lines).splitlines() if line]
            noted.answer = "".join(line.get("message", {}).get("content", "") for line in told)
            noted.last = told[-1]

    do_POST = do_GET  # noqa: N815  # the base class's names
    do_HEAD = do_GET  # noqa: N815

    def _note(self, content: bytes) -> Asked | None:
        if self.path not in TEXT:
            return None
        body = json.loads(content)
        if not body.get("messages") and not body.get("prompt"):
            return None  # it only loads or unloads
        asked = Asked(body, time.monotonic())
        self.server.asked.append(asked)
        return asked

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""
