"""The door's HTTP server, on a listening socket that was made elsewhere, and the thread that it runs in."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Final, cast

import uvicorn

from aider_guard.core.actions import ServeDoor, WakeCounter, WarmModel
from aider_guard.core.chat.events import DoorOpened
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import Event
from aider_guard.door.app import Door, DoorApp, has_token
from aider_guard.door.chat_handler import ChatHandler
from aider_guard.door.connections import Connections, DoorConnection
from aider_guard.door.interfaces import Services
from aider_guard.door.limits import DEFAULT_LIMITS, DoorLimits
from aider_guard.door.upstream import Upstreams
from aider_guard.line_process import start_thread

# Aider's side closes idle connections (httpx after 5 s, litellm's aiohttp after 120 s); a door that
# closes first can do it in the moment in which a request is on its way. Not for ever: uvicorn
# keeps what it knows of a connection that was reset for as long.
_KEPT_SECONDS: Final = 180
# asyncio accepts as many connections as the queue of the kernel holds before it reads from the first,
# so many would be closed as the oldest without the token although it has come.
_ACCEPTED_AT_ONCE: Final = 8
_QUEUED: Final = 2048
_ACCEPTING_TURNS: Final = 5
"""Turns of asyncio's loop after which an accepted connection is made: asyncio leaves it open if its server closes."""
_SILENT: Final = logging.CRITICAL + 1


class DoorServer:
    """The door's HTTP server. The socket must listen or be ready to.

    Meant for a daemon thread: no signal is handled, nothing is logged. ``on_open`` gets the port once requests are
    taken.
    """

    def __init__(
        self,
        sock: socket.socket,
        door: Door,
        *,
        on_open: Callable[[int], None],
        make_upstreams: Callable[[], Upstreams] = Upstreams,
        limits: DoorLimits = DEFAULT_LIMITS,
    ) -> None:
        # Connections inherit it. asyncio sets it only where the socket knows its protocol, which an
        # inherited one does not everywhere.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._door = door
        self._on_open = on_open
        self._make_upstreams = make_upstreams
        self._limits = limits
        self._server: _Server | None = None

    def serve(self) -> None:
        """Serve in this thread, on an event loop of its own, until ``close``."""
        asyncio.run(self._serve())

    def close(self) -> None:
        """End ``serve``, from any thread; open requests are cut. Does nothing before the door is open."""
        if self._server is not None:
            self._server.end()

    async def _serve(self) -> None:
        async with aclosing(self._make_upstreams()) as upstreams:
            connections = Connections(
                self._limits, lambda raw_path: has_token(raw_path, self._door.settings())
            )
            config = uvicorn.Config(
                DoorApp(self._door, upstreams, self._limits),
                http=cast("type[asyncio.Protocol]", partial(DoorConnection, connections)),
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                log_level=_SILENT,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                workers=1,  # or an environment variable says how many
                timeout_keep_alive=_KEPT_SECONDS,
                timeout_graceful_shutdown=0,
                backlog=_ACCEPTED_AT_ONCE,
            )
            self._server = _Server(config, lambda: self._on_open(self._sock.getsockname()[1]))
            await self._server.serve([self._sock])


class _Server(uvicorn.Server):
    """A server that sleeps until a request comes: uvicorn's own wakes ten times a second, for what is not used here."""

    def __init__(self, config: uvicorn.Config, on_open: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Stop serving, from any thread."""
        self._loop.call_soon_threadsafe(self._ended.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(_QUEUED)
        self._on_open()

    async def main_loop(self) -> None:
        """Serve until the end."""
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection, also those that were accepted in the last moment."""
        for sock in sockets or ():
            self._loop.remove_reader(sock)
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


DoorRequest = ServeDoor | WarmModel | WakeCounter


class DoorHost:
    """Runs the door in a thread of its own, from the first settings on, and hands requests to its event loop.

    ``take`` may be called from any one thread.
    """

    def __init__(
        self, listener: socket.socket, services: Services, emit: Callable[[Event], None]
    ) -> None:
        self._listener = listener
        self._services = services
        self._emit = emit
        self._settings: DoorSettings | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[DoorRequest] = []

    def take(self, request: DoorRequest) -> None:
        """Serve with these settings, load the main model ahead, or wake the counter.

        A request that comes before the door is open waits for that.
        """
        if isinstance(request, ServeDoor):
            first, self._settings = self._settings is None, request.settings
            if first:
                door = Door(self._current, ChatHandler(self._current, self._services, self._emit))
                start_thread("door", DoorServer(self._listener, door, on_open=self._opened).serve)
        loop = self._loop
        if loop is None:
            self._waiting.append(request)
            loop = self._loop  # it may have opened just now
            if loop is None:
                return
        loop.call_soon_threadsafe(self._catch_up, request)

    def _current(self) -> DoorSettings:
        assert self._settings is not None
        return self._settings

    def _opened(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._emit(DoorOpened(port))
        self._catch_up()

    def _catch_up(self, *requests: DoorRequest) -> None:
        waiting, self._waiting = self._waiting, []
        services = self._services
        for request in dict.fromkeys((*waiting, *requests)):
            match request:
                case WarmModel(session_models):
                    services.residency.warm(session_models)
                case WakeCounter():
                    services.counter.wake()
                case ServeDoor(settings):
                    services.counter.serve(settings)
                    services.log_watch.serve(settings)
                    services.installed.serve(settings)
                    services.model_info.serve(settings)
                    services.readings.serve(settings)
                    services.others.serve(settings)
                    services.residency.serve(settings)
