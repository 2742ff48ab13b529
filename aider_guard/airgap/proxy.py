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
MOST_GUESTS: Final = 64
GUEST_SECONDS: Final = 5.0
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


def asked_place(line: bytes) -> Place | None:
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
class _Guest:
    socket: socket.socket
    port: int
    until: float
    head: bytearray = field(default_factory=bytearray)
    linger_bytes: int = 0


class RefusingProxy:
    """Refuses in the guard's loop, and reports what was asked for.

    With too many guests at once the oldest goes. ``program`` names the program behind a connection: it is given the
    peer's port and the proxy's.
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
        self._guests: dict[int, _Guest] = {}
        self._server_port: int = listener.getsockname()[1]
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, lambda _events: self._accept())

    def close(self) -> None:
        """Let go of everybody; the listener stays its owner's. Twice is no error."""
        self._loop.cancel(DEADLINE)
        self._loop.forget(self._listener.fileno())
        for guest in list(self._guests.values()):
            self._drop(guest)

    def _tidy(self) -> None:
        """Drop who is past its time, and take new guests again if that had to rest."""
        now = self._clock()
        for guest in [one for one in self._guests.values() if one.until <= now]:
            self._drop(guest)
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
        self._loop.after(DEADLINE, _REST_SECONDS, self._tidy)

    def _admit(self, connection: socket.socket, port: int) -> None:
        if len(self._guests) >= MOST_GUESTS:
            self._drop(next(iter(self._guests.values())))
        connection.setblocking(False)
        guest = _Guest(connection, port, self._clock() + GUEST_SECONDS)
        self._guests[connection.fileno()] = guest
        self._loop.watch(connection.fileno(), READ, lambda _events: self._hear(guest))

    def _wake_for_the_oldest(self) -> None:
        if self._guests and DEADLINE not in self._loop.deadlines:
            self._loop.at(DEADLINE, next(iter(self._guests.values())).until, self._tidy)

    def _hear(self, guest: _Guest) -> None:
        room = HEAD_BYTES - len(guest.head)
        try:
            received = guest.socket.recv(room or HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""  # it was reset: nobody waits for an answer
        if not received:
            self._drop(guest)
        elif guest.linger_bytes:
            self._linger(guest, len(received))
        else:
            guest.head += received
            line, newline, _ = bytes(guest.head).partition(b"\n")
            if newline or len(guest.head) == HEAD_BYTES:
                self._refuse(guest, asked_place(line) if newline else None)

    def _refuse(self, guest: _Guest, place: Place | None) -> None:
        if place is not None:
            # It waits for our answer, so its socket is still there to be found.
            program = self._program(guest.port, self._server_port)
            self._report(Attempt(place.host, place.port, "tcp", program))
        try:
            guest.socket.send(refusal(place))
            guest.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(guest)
            return
        guest.head.clear()
        guest.linger_bytes = _LINGER_BYTES

    def _linger(self, guest: _Guest, received_bytes: int) -> None:
        """Closing with bytes unread resets the connection, and the answer may be lost with it (RFC 9112, 9.6)."""
        guest.linger_bytes -= received_bytes
        if guest.linger_bytes <= 0:
            self._drop(guest)

    def _drop(self, guest: _Guest) -> None:
        number = guest.socket.fileno()
        self._guests.pop(number, None)
        self._loop.forget(number)
        with suppress(OSError):
            guest.socket.close()
