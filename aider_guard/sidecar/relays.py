"""Relays connections from inside the air gap to the places that the user allowed."""

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
# RFC 8305, 5: the next address is tried beside one that does not answer.
NEXT_ADDRESS_SECONDS: Final = 0.25
MOST_AT_ONCE: Final = 256
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: closing sends a reset (socket(7))


@dataclass(frozen=True)
class AllowedRelay:
    """A listening socket, which the relay owns from now on, and the place to which its connections go."""

    fd: int
    place: Place


async def serve_relays(
    relays: Sequence[AllowedRelay],
    on_connection: Callable[[Place], None],
    *,
    connect_seconds: float = CONNECT_SECONDS,
) -> None:
    """Serve until cancelled; then every connection is cut, and every socket is closed.

    ``on_connection`` is called before each connection to the outside is made. The name of the place is resolved each
    time. If the place does not answer, or resets its connection, the connection inside is reset.
    """
    connections = _Connections(on_connection, connect_seconds)
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    listeners = [(socket.socket(fileno=relay.fd), relay.place) for relay in relays]
    try:
        for listener, place in listeners:
            servers.append(await loop.create_server(connections.inner_end(place), sock=listener))
        await loop.create_future()
    finally:
        for server in servers:
            server.close()
        for listener, _ in listeners:
            listener.close()
        await connections.stop()


class _Connections:
    """All connections of all relays."""

    def __init__(self, on_connection: Callable[[Place], None], connect_seconds: float) -> None:
        self.on_connection = on_connection
        self.connect_seconds = connect_seconds
        self.stopped = False
        self.ends: set[_End] = set()
        self.connecting: set[asyncio.Task[None]] = set()

    def inner_end(self, place: Place) -> Callable[[], _Inner]:
        """A function that makes the protocol of a connection from inside to a place."""
        return lambda: _Inner(self, place)

    async def stop(self) -> None:
        """Cut all connections, and return when all of them are closed."""
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
    """One end of a relayed connection: it writes all that it receives to the other end.

    While the buffer of one end is full, the other end is not read (asyncio's own limits).
    """

    transport: asyncio.Transport
    other: _End | None = None

    def __init__(self, connections: _Connections) -> None:
        self._connections = connections
        self._early = b""
        self._ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio sets TCP_NODELAY on every connection of its own (selector_events.py, _set_nodelay).
        self.transport = cast("asyncio.Transport", transport)
        self._connections.ends.add(self)

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
        self._connections.ends.discard(self)
        if self.other is None:
            return
        if error is None:
            self.other.transport.close()
        else:
            self.other.reset()

    def join(self, other: _End) -> None:
        """Connect the two ends; the bytes that have come before are written first."""
        self.other, other.other = other, self
        if self._early:
            self.transport.resume_reading()
            other.transport.write(self._early)
            self._early = b""
        if self._ended:
            self._pass_end(other)

    def _pass_end(self, other: _End) -> None:
        with suppress(OSError):  # it was reset, and connection_lost will come in a moment
            other.transport.write_eof()
        if other._ended:
            self.transport.close()
            other.transport.close()

    def reset(self) -> None:
        """Reset the connection, so that the peer sees an error."""
        with suppress(OSError):
            channel = self.transport.get_extra_info("socket")
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Inner(_End):
    """The end inside the air gap. It exists first, and makes the connection to the outside."""

    def __init__(self, connections: _Connections, place: Place) -> None:
        super().__init__(connections)
        self._place = place
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._connections.stopped or len(self._connections.ends) > 2 * MOST_AT_ONCE:
            self.reset()
            return
        self._connections.on_connection(self._place)
        self._task = asyncio.get_running_loop().create_task(self._connect())
        self._connections.connecting.add(self._task)
        self._task.add_done_callback(self._connections.connecting.discard)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._task is not None:
            self._task.cancel()

    async def _connect(self) -> None:
        connecting = asyncio.get_running_loop().create_connection(
            lambda: _Outer(self._connections, self),
            self._place.host,
            self._place.port,
            happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
        )
        try:
            await asyncio.wait_for(connecting, self._connections.connect_seconds)
        except (OSError, asyncio.TimeoutError):
            self.reset()


class _Outer(_End):
    """The end outside. It joins the inner end as soon as it is connected."""

    def __init__(self, connections: _Connections, inner: _Inner) -> None:
        super().__init__(connections)
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._inner.lost:
            self.transport.abort()
        else:
            self._inner.join(self)
