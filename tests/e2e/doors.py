"""A door by itself: a real sidecar that serves one, without an Aider."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from session.ptys import PATIENT

from aider_guard.core.actions import ServeDoor, StopSidecar
from aider_guard.core.chat.events import DoorOpened
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.events import Event
from aider_guard.session.sidecar_process import SidecarProcess, sidecar_command

TOKEN = "a-secret-of-the-session"
CAP_SECONDS = 60.0
Kind = TypeVar("Kind")


@dataclass
class OpenDoor:
    """``url`` is what Aider would get for Ollama's address."""

    url: str
    sidecar: SidecarProcess
    seen: list[Event] = field(default_factory=list)

    def wait_for(self, kind: type[Kind], count: int = 1) -> Kind:
        """Look until so many events of a kind have come; the last of these."""
        deadline = time.monotonic() + CAP_SECONDS
        while len(found := [event for event in self.seen if isinstance(event, kind)]) < count:
            left = deadline - time.monotonic()
            kinds = [type(event).__name__ for event in self.seen]
            assert left > 0, f"no {kind.__name__}, but {kinds}"
            select.select([self.sidecar], [], [], left)
            self.seen += self.sidecar.read()
        return found[count - 1]


@contextlib.contextmanager
def open_door(ollama: str, settings: DoorSettings) -> Iterator[OpenDoor]:
    """A door to the Ollama at this address, for the length of a ``with``."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        command = sidecar_command(ollama, "", listener.fileno())
        started = SidecarProcess(
            command, {**os.environ, **PATIENT}, stderr=2, pass_fds=[listener.fileno()]
        )
        sidecar = stack.enter_context(started)
        port = listener.getsockname()[1]
        door = OpenDoor(f"http://127.0.0.1:{port}/{TOKEN}", sidecar)
        assert sidecar.send(ServeDoor(settings))
        assert door.wait_for(DoorOpened).port == port
        yield door
        sidecar.send(StopSidecar())


def settings_for(ollama: str, model: str, window_tokens: int) -> DoorSettings:
    """What a session with this model and window would be served with."""
    upstreams = (Upstream("", ollama, "ollama"),)
    return DoorSettings(TOKEN, upstreams, (DoorRole("main", model),), window_tokens)
