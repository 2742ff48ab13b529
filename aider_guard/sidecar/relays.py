"""Relays from inside the air gap to the places that the user allowed: what comes in on a socket there goes out here."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from aider_guard.core.egress import Place

CONNECT_SECONDS: Final = 10.0
NEXT_ADDRESS_SECONDS: Final = (
    0.25  # RFC 8305, 5: the next address is tried beside one that does not answer
)
MOST_AT_ONCE: Final = 256
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: closing sends a reset (socket(7))


@dataclass(frozen=True)
class AllowedRelay:
    """A listening socket, which is the relay's from now on, and where its connections lead."""

    fd: int
    place: Place


def run_relays(relays: Sequence[AllowedRelay], passed: Callable[[Place], None]) -> None:
    """Serve relays for ever, in this thread."""
    asyncio.run(serve_relays(relays, passed))


async def serve_relays(
    relays: Sequence[AllowedRelay],
    passed: Callable[[Place], None],
    *,
    connect_seconds: float = CONNECT_SECONDS,
) -> None:
    """Serve until cancelled; then every connection is cut, and every socket is closed.

    ``passed`` is told of each connection that is let out, before it is. The name is resolved for each anew. Where the
    place does not answer, or breaks off, the connection inside is reset.
    """
    traffic = _Traffic(passed, connect_seconds)
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    listeners = [(socket.socket(fileno=relay.fd), relay.place) for relay in relays]
    try:
        for listener, place in listeners:
            servers.append(await loop.create_server(traffic.entering(place), sock=listener))
        await loop.create_future()
    finally:
        for server in servers:
            server.close()
        for listener, _ in listeners:
            listener.close()
        await traffic.stop()


class _Traffic:
    """All connections of all relays."""

    def __init__(self, passed: Callable[[Place], None], connect_seconds: float) -> None:
        self.passed = passed
        self.connect_seconds = connect_seconds
        self.stopped = False
        self.ends: set[_End] = set()
        self.connecting: set[asyncio.Task[None]] = set()

    def entering(self, place: Place) -> Callable[[], _Inner]:
        return lambda: _Inner(self, place)

    async def stop(self) -> None:
        """Cut everything, and return when nothing is left of it."""
        self.stopped = True
        tasks = tuple(self.connecting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.ends:
            for end in self.ends:
                end.transport.abort()
            await asyncio.sleep(0)


class _End(asyncio.Protocol):
    """One end of a relayed connection: what it receives is written to the other one.

    A slow reader is waited for: while one end's buffer is full, the other is not read (asyncio's own limits).
    """

    transport: asyncio.Transport
    other: _End | None = None

    def __init__(self, traffic: _Traffic) -> None:
        self._traffic = traffic
        self._early = b""
        self._ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio sets TCP_NODELAY on every connection of its own (selector_events.py, _set_nodelay).
        self.transport = cast("asyncio.Transport", transport)
        self._traffic.ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
            self.transport.pause_reading()
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self.other is not None:
            self._pass_end(self.other)
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._traffic.ends.discard(self)
        if self.other is None:
            return
        if error is None:
            self.other.transport.close()
        else:
            self.other.reset()

    def join(self, other: _End) -> None:
        """Be connected with the other end from now on; what came before goes to it first."""
        self.other, other.other = other, self
        if self._early:
            self.transport.resume_reading()
            other.transport.write(self._early)
            self._early = b""
        if self._ended:
            self._pass_end(other)

    def _pass_end(self, other: _End) -> None:
        with suppress(OSError):  # it was reset, which it will be told in a moment
            other.transport.write_eof()
        if other._ended:
            self.transport.close()
            other.transport.close()

    def reset(self) -> None:
        """Break off, so that the peer sees it."""
        with suppress(OSError):
            channel = self.transport.get_extra_info("socket")
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Inner(_End):
    """The end inside the air gap. It came first, and the way out is made for it."""

    def __init__(self, traffic: _Traffic, place: Place) -> None:
        super().__init__(traffic)
        self._place = place
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._traffic.stopped or len(self._traffic.ends) > 2 * MOST_AT_ONCE:
            self.reset()
            return
        self._traffic.passed(self._place)
        self._task = asyncio.get_running_loop().create_task(self._connect())
        self._traffic.connecting.add(self._task)
        self._task.add_done_callback(self._traffic.connecting.discard)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._task is not None:
            self._task.cancel()

    async def _connect(self) -> None:
        made = asyncio.get_running_loop().create_connection(
            lambda: _Outer(self._traffic, self),
            self._place.host,
            self._place.port,
            happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
        )
        try:
            await asyncio.wait_for(made, self._traffic.connect_seconds)
        except (OSError, asyncio.TimeoutError):
            self.reset()


class _Outer(_End):
    """The end outside. It joins the inner one at once: nothing holds it otherwise."""

    def __init__(self, traffic: _Traffic, inner: _Inner) -> None:
        super().__init__(traffic)
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._inner.lost:
            self.transport.abort()
        else:
            self._inner.join(self)
