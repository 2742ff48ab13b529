"""An upstream whose every byte a test decides, and a door to it."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.door.app import Door
from aider_guard.door.chat_handler import ChatHandler
from aider_guard.door.limits import DEFAULT_LIMITS, DoorLimits
from aider_guard.door.server import DoorServer
from aider_guard.door.upstream import Upstreams

CAP_SECONDS = 60.0
"""For every wait of a test: reached only when something hangs."""
TOKEN = "a-token-of-this-session"


class Connection:
    """One connection that was accepted."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(CAP_SECONDS)
        self._socket = connected
        self._received = b""

    def request(self) -> tuple[bytes, bytes]:
        """Return the head of the next request and its body; two times b"" when there is none."""
        while b"\r\n\r\n" not in self._received:
            if not self._more():
                return b"", b""
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        length = header(head, b"content-length")
        while length and len(self._received) < int(length):
            if not self._more():
                return b"", b""
        body, self._received = (
            self._received[: int(length or 0)],
            self._received[int(length or 0) :],
        )
        return head, body

    def _more(self) -> bool:
        piece = self._socket.recv(65536)
        self._received += piece
        return bool(piece)

    def upload(self) -> tuple[bytes, str]:
        """Return the head of the next request, and a digest of its body (SHA-256), which is not kept."""
        while b"\r\n\r\n" not in self._received:
            assert self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        digest = hashlib.sha256()
        length = header(head, b"content-length")
        if length is not None:
            self._digest(digest, int(length))
            return head, digest.hexdigest()
        while size := int(self._line(), 16):
            self._digest(digest, size)
            self._line()
        self._line()
        return head, digest.hexdigest()

    def _digest(self, digest: hashlib._Hash, length: int) -> None:
        while length:
            if not self._received:
                assert self._more()
            digest.update(self._received[:length])
            length_now = min(length, len(self._received))
            self._received = self._received[length_now:]
            length -= length_now

    def _line(self) -> bytes:
        while b"\r\n" not in self._received:
            assert self._more()
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def receive(self) -> bytes:
        """Receive the next bytes, b"" at the end."""
        return self._socket.recv(1 << 20)

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def head(self, status: str = "200 OK", *more: str) -> None:
        """Begin a chunked answer."""
        lines = (f"HTTP/1.1 {status}", "Transfer-Encoding: chunked", *more, "", "")
        self.send("\r\n".join(lines).encode())

    def chunk(self, content: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(content), content))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def whole(self, content: bytes, status: str = "200 OK", *more: str) -> None:
        """Send a whole answer."""
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *more, "", "")
        self.send("\r\n".join(lines).encode() + content)

    def wait_closed(self) -> bool:
        """Wait until the other side closes the connection; return whether it did in time."""
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def reset(self) -> None:
        """Close the connection at once, with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()


def header(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header in a request's head."""
    for line in head.split(b"\r\n")[1:]:
        field_name, _, value = line.partition(b":")
        if field_name.lower() == name:
            return value.strip()
    return None


@dataclass
class Scripted:
    """Listens while it is entered; ``script`` is run for each connection, in a thread of its own."""

    script: Callable[[Connection], None]
    tls: ssl.SSLContext | None = None
    port: int = 0
    accepted: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Scripted:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._connected: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection, and wait until the scripts have ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(CAP_SECONDS)
        self._listener.close()
        for connected in self._connected:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RD)
        for thread in self._threads:
            thread.join(CAP_SECONDS)
        assert not self.failures, self.failures

    @property
    def base(self) -> str:
        """The address of this upstream."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                self.accepted += 1
                self._connected.append(connected)
                thread = threading.Thread(target=self._run, args=(connected,))
                self._threads.append(thread)
                thread.start()

    def _run(self, connected: socket.socket) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.tls:
                connected = self.tls.wrap_socket(connected, server_side=True)
            self.script(Connection(connected))
        except (ConnectionError, ssl.SSLError):
            pass  # the door closed the connection, as some tests want
        except BaseException as failure:  # noqa: BLE001  # raised in the test's thread by stop()
            self.failures.append(failure)
        finally:
            connected.close()


@dataclass
class OpenDoor:
    """A door that is open."""

    port: int
    settings: list[DoorSettings]
    """The last one is served with."""

    @property
    def base(self) -> str:
        """Aider's base address."""
        return f"http://127.0.0.1:{self.port}/{TOKEN}"

    def connect(self) -> socket.socket:
        """Return a bare connection to the door."""
        connected = socket.create_connection(("127.0.0.1", self.port), CAP_SECONDS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def post(self, path: str = "/api/chat", body: bytes = b"{}", *more: str) -> socket.socket:
        """Send a request; return its connection."""
        connected = self.connect()
        lines = (
            f"POST /{TOKEN}{path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Length: {len(body)}",
            *more,
            "",
            "",
        )
        connected.sendall("\r\n".join(lines).encode() + body)
        return connected


@contextlib.contextmanager
def door_to(
    handler: ChatHandler,
    *bases: str,
    paths: tuple[str, ...] = ("",),
    make_upstreams: Callable[[], Upstreams] = Upstreams,
    on_open: Callable[[DoorSettings], None] = lambda _settings: None,
    limits: DoorLimits = DEFAULT_LIMITS,
    **more: Any,
) -> Iterator[OpenDoor]:
    """Open a door in a thread of its own, to servers by their paths.

    ``on_open`` is called on its event loop, ``more`` are settings.
    """
    upstreams = tuple(
        Upstream(path, base, "openai" if path else "ollama")
        for path, base in zip(paths, bases, strict=True)
    )
    settings = [replace(DoorSettings(TOKEN, upstreams, (), 4096), **more)]
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        opened = threading.Event()
        door = Door(lambda: settings[-1], handler)

        def is_open(_port: int) -> None:
            on_open(settings[-1])
            opened.set()

        server = DoorServer(
            listener, door, on_open=is_open, make_upstreams=make_upstreams, limits=limits
        )
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            assert opened.wait(CAP_SECONDS)
            yield OpenDoor(listener.getsockname()[1], settings)
        finally:
            server.close()
            thread.join(CAP_SECONDS)
            assert not thread.is_alive()
