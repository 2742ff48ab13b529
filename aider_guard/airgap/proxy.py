"""The proxy that refuses: programs that honour proxy variables are told at once that there is no way out, and why.

What they wanted to reach stands in the first line of what they send: ``CONNECT host:port`` for TLS, and the whole
address for plain HTTP (RFC 9112, 3.2).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.egress import Attempt, Place, parse_place
from aider_guard.loop import READ, Loop

DEADLINE: Final = "refusing proxy"
"""The name of the proxy's instants in its loop."""
MOST_CLIENTS: Final = 64
CLIENT_SECONDS: Final = 5.0
HEAD_BYTES: Final = 4096
_LINGER_BYTES: Final = 1 << 18
_ACCEPTS_AT_ONCE: Final = 16
_REST_SECONDS: Final = 0.5
_PORTS: Final = {b"http": b"80", b"ws": b"80", b"https": b"443", b"wss": b"443", b"ftp": b"21"}
_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/\d\.\d\r?\Z")
_ABSOLUTE: Final = re.compile(
    rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*@)?"
    rb"(?P<host>\[[^]/?#]*\]|[^][:/?#@]+)(:(?P<port>\d*))?([/?#].*)?\Z"
)


def requested_place(line: bytes) -> Place | None:
    """What a proxy is asked for in the first line of a request, without its newline; None when that is no place."""
    found = _LINE.match(line)
    if found is None:
        return None
    method, target = found.groups()
    if method != b"CONNECT":
        target = _authority(target)
    try:
        return parse_place(target.decode("ascii"))
    except ValueError:
        return None


def _authority(target: bytes) -> bytes:
    """Host and port of an absolute address, the port being the scheme's where it names none; else nothing."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return b""
    port = found["port"] or _PORTS.get(found["scheme"].lower(), b"")
    return found["host"] + b":" + port


def refusal(place: Place | None) -> bytes:
    """The whole answer. Most clients show the reason phrase and not the body."""
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
    """Refuses in the guard's loop, and reports what was asked for.

    Whoever runs the loop calls ``tidy`` when the instant ``DEADLINE`` has come. With too many guests at once the
    oldest goes. ``program`` names the program behind a connection: it is given the peer's port and the proxy's.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        report: Callable[[Attempt], None],
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
        """Let go of everybody; the listener stays its owner's. Twice is no error."""
        self._loop.cancel(DEADLINE)
        self._loop.forget(self._listener.fileno())
        for client in list(self._clients.values()):
            self._drop(client)

    def on_deadline(self, deadline: str) -> bool:
        """Take an instant of the loop's; False when it is none of the proxy's."""
        if deadline != DEADLINE:
            return False
        self.tidy()
        return True

    def tidy(self) -> None:
        """Drop who is past its time, and take new guests again if that had to rest."""
        now = self._clock()
        for client in [one for one in self._clients.values() if one.until <= now]:
            self._drop(client)
        self._loop.change(self._listener.fileno(), READ)
        self._wake_for_the_oldest()

    def _accept(self) -> None:
        for _ in range(
            _ACCEPTS_AT_ONCE
        ):  # who floods us must not keep the loop from its other work
            try:
                connection, (_, port, *_) = self._listener.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue  # it went away before it was accepted
            except OSError:
                self._rest()
                return
            self._admit(connection, port)
        self._wake_for_the_oldest()

    def _rest(self) -> None:
        """There are no descriptors, say: the listener stays ready, and would be asked again and again."""
        self._loop.change(self._listener.fileno(), 0)
        self._loop.at(DEADLINE, self._clock() + _REST_SECONDS)

    def _admit(self, connection: socket.socket, port: int) -> None:
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(next(iter(self._clients.values())))
        connection.setblocking(False)
        client = _Connection(connection, port, self._clock() + CLIENT_SECONDS)
        self._clients[connection.fileno()] = client
        self._loop.watch(connection.fileno(), READ, lambda _events: self._receive(client))

    def _wake_for_the_oldest(self) -> None:
        if self._clients and DEADLINE not in self._loop.deadlines:
            self._loop.at(DEADLINE, next(iter(self._clients.values())).until)

    def _receive(self, client: _Connection) -> None:
        room = HEAD_BYTES - len(client.head)
        try:
            received = client.socket.recv(room or HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""  # it was reset: nobody waits for an answer
        if not received:
            self._drop(client)
        elif client.linger_bytes:
            self._linger(client, len(received))
        else:
            client.head += received
            line, newline, _ = bytes(client.head).partition(b"\n")
            if newline or len(client.head) == HEAD_BYTES:
                self._refuse(client, requested_place(line) if newline else None)

    def _refuse(self, client: _Connection, place: Place | None) -> None:
        if place is not None:
            # It waits for our answer, so its socket is still there to be found.
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

    def _linger(self, client: _Connection, received_bytes: int) -> None:
        """Closing with bytes unread resets the connection, and the answer may be lost with it (RFC 9112, 9.6)."""
        client.linger_bytes -= received_bytes
        if client.linger_bytes <= 0:
            self._drop(client)

    def _drop(self, client: _Connection) -> None:
        number = client.socket.fileno()
        self._clients.pop(number, None)
        self._loop.forget(number)
        with suppress(OSError):
            client.socket.close()
