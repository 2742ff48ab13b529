"""The door in a thread of its own, from the first settings on; later settings and wishes reach its event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from aider_guard.core.chat.events import DoorOpened
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import Event
from aider_guard.core.requests import ServeDoor, WakeCounter, WarmModel
from aider_guard.line_process import start_thread
from aider_guard.sidecar.door.seam import Attendant, Door

DoorRequest = ServeDoor | WarmModel | WakeCounter


class Served(Protocol):
    """What is told of new settings, on the door's event loop."""

    def serve(self, settings: DoorSettings) -> None:
        """These hold from now on."""


class Warming(Served, Protocol):
    """What can be told to warm."""

    def warm(self, ours: Sequence[str] = ()) -> None:
        """Load the main model ahead."""


class DoorHost:
    """One door. ``take`` may be called from any one thread."""

    def __init__(
        self,
        listener: socket.socket,
        attendant: Callable[[Callable[[], DoorSettings]], Attendant],
        *,
        served: Sequence[Served],
        residency: Warming,
        emit: Callable[[Event], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._listener = listener
        self._make_attendant = attendant
        self._served = (*served, residency)
        self._residency = residency
        self._emit, self._wake = emit, wake
        self._settings: DoorSettings | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[DoorRequest] = []

    def take(self, request: DoorRequest) -> None:
        """Serve with these settings, warm, or wake. What comes before the door is open waits for that."""
        if isinstance(request, ServeDoor):
            first, self._settings = self._settings is None, request.settings
            if first:
                start_thread("door", self._run)
        loop = self._loop
        if loop is None:
            self._waiting.append(request)
            loop = self._loop  # it may have opened just now
            if loop is None:
                return
        loop.call_soon_threadsafe(self._catch_up, request)

    def _run(self) -> None:
        from aider_guard.sidecar.door.transport.server import serve_door

        door = Door(self._current, self._make_attendant(self._current))
        serve_door(self._listener, door, on_open=self._opened)

    def _current(self) -> DoorSettings:
        assert self._settings is not None
        return self._settings

    def _opened(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._emit(DoorOpened(port))
        self._catch_up()

    def _catch_up(self, *requests: DoorRequest) -> None:
        waiting, self._waiting = self._waiting, []
        for request in dict.fromkeys((*waiting, *requests)):
            self._do(request)

    def _do(self, request: DoorRequest) -> None:
        match request:
            case WarmModel(ours):
                self._residency.warm(ours)
            case WakeCounter():
                self._wake()
            case ServeDoor(settings):
                for one in self._served:
                    one.serve(settings)
