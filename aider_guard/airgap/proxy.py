"""An HTTP proxy that refuses every request: programs that use proxy variables fail at once and are told why.

The first line of a request names the place: ``CONNECT host:port`` for TLS, the whole address for plain HTTP (RFC 9112,
3.2).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aider_guard.airgap.gap import Report
from aider_guard.core.egress import Attempt, Place, parse_place
from aider_guard.loop import READ, Loop

DEADLINE: Final = "refusing proxy"
"""The name of the proxy's deadline in the loop."""
MOST_CLIENTS: Final = 64
CLIENT_SECONDS: Final = 5.0
HEAD_BYTES: Final = 4096
_LINGER_BYTES: Final = 1 << 18
_ACCEPTS_AT_ONCE: Final = 16
_PAUSE_SECONDS: Final = 0.5
_PORTS: Final = {b"http": b"80", b"ws": b"80", b"https": b"443", b"wss": b"443", b"ftp": b"21"}
_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/\d\.\d\r?\Z")
_ABSOLUTE: Final = re.compile(
    rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*@)?"
    rb"(?P<host>\[[^]/?#]*\]|[^][:/?#@]+)(:(?P<port>\d*))?([/?#].*)?\Z"
)


def requested_place(line: bytes) -> Place | None:
    """Return the place that the first line of a request names; None when it names none. *line* has no newline."""
    match = _LINE.match(line)
    if match is None:
        return None
    method, target = match.groups()
    if method != b"CONNECT":
        address = _ABSOLUTE.match(target)
        if address is None:
            return None
        port = address["port"] or _PORTS.get(address["scheme"].lower(), b"")
        target = address["host"] + b":" + port
    try:
        return parse_place(target.decode("ascii"))
    except ValueError:
        return None


def refusal(place: Place | None) -> bytes:
    """Return the whole response. Most clients show the reason phrase and not the body."""
    if place is None:
        status, body = "400 Bad Request", "aider-guard: this is no request to a proxy.\n"
    else:
        status = "403 Forbidden by aider-guard (offline)"
        body = (
            f"aider-guard is offline: {place} was not reached. To allow it: --allow '{place}', "
            f'or allow = ["{place}"] in your own settings\n'
        )
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode("ascii")


@dataclass
class _Connection:
    socket: socket.socket
    port: int
    until: float
    head: bytearray = field(default_factory=bytearray)
    linger_bytes: int = 0


class RefusingProxy:
    """Serves from the guard's loop, refuses each request, and reports the place that it names.

    With too many clients at once the oldest is dropped. ``program`` names the program behind a connection, from the
    peer's port and the proxy's.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        report: Report,
        *,
        program: Callable[[int, int], str] = lambda _port, _server_port: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._report = report
        self._program = program
        self._clock = clock
        self._clients: dict[int, _Connection] = {}
        self._server_port: int = listener.getsockname()[1]
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, lambda _events: self._accept())

    def close(self) -> None:
        """Drop all clients; the listener stays its owner's. Twice is no error."""
        self._loop.cancel(DEADLINE)
        self._loop.forget(self._listener.fileno())
        for client in list(self._clients.values()):
            self._drop(client)

    def _on_deadline(self) -> None:
        """Drop the clients whose time is over, and accept again if that was paused."""
        now = self._clock()
        for client in [client for client in self._clients.values() if client.until <= now]:
            self._drop(client)
        self._loop.change(self._listener.fileno(), READ)
        self._set_deadline()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):  # a flood must not keep the loop from its other work
            try:
                connection, (_, port, *_) = self._listener.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue  # it went away before it was accepted
            except OSError:  # no descriptors, say: the loop would be woken again and again
                self._loop.change(self._listener.fileno(), 0)
                self._loop.after(DEADLINE, _PAUSE_SECONDS, self._on_deadline)
                return
            self._admit(connection, port)
        self._set_deadline()

    def _admit(self, connection: socket.socket, port: int) -> None:
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(next(iter(self._clients.values())))
        connection.setblocking(False)
        client = _Connection(connection, port, self._clock() + CLIENT_SECONDS)
        self._clients[connection.fileno()] = client
        self._loop.watch(connection.fileno(), READ, lambda _events: self._receive(client))

    def _set_deadline(self) -> None:
        if self._clients and DEADLINE not in self._loop.deadlines:
            self._loop.at(DEADLINE, next(iter(self._clients.values())).until, self._on_deadline)

    def _receive(self, client: _Connection) -> None:
        room = HEAD_BYTES - len(client.head)
        try:
            received = client.socket.recv(room or HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""  # it was reset: the client waits for no answer
        if not received:
            self._drop(client)
        elif client.linger_bytes:
            # Closing with bytes unread resets the connection, and the answer may be lost with it (RFC 9112, 9.6).
            client.linger_bytes -= len(received)
            if client.linger_bytes <= 0:
                self._drop(client)
        else:
            client.head += received
            line, newline, _ = bytes(client.head).partition(b"\n")
            if newline or len(client.head) == HEAD_BYTES:
                self._refuse(client, requested_place(line) if newline else None)

    def _refuse(self, client: _Connection, place: Place | None) -> None:
        if place is not None:
            # The client waits for the answer, so its socket can still be found.
            program = self._program(client.port, self._server_port)
            self._report(Attempt(place.host, place.port, "tcp", program))
        try:
            client.socket.send(refusal(place))
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(client)
            return
        client.head.clear()
        client.linger_bytes = _LINGER_BYTES

    def _drop(self, client: _Connection) -> None:
        number = client.socket.fileno()
        self._clients.pop(number, None)
        self._loop.forget(number)
        with suppress(OSError):
            client.socket.close()
