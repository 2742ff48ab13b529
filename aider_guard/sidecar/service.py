"""The sidecar's work: what is read again and again, and what is answered, each in its own thread.

A slow Ollama delays neither the memory readings nor the counting, and none of them the end of the
process.
"""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aider_guard.core.events import MemoryRead, ModelsRead, ServerRead, ServerSurveyed
from aider_guard.core.readings import GPU_NOT_YET
from aider_guard.core.requests import (
    CountFiles,
    CountTexts,
    Request,
    ServeDoor,
    StopSidecar,
    SurveyServer,
    UnloadModels,
    WakeCounter,
    WarmModel,
)
from aider_guard.line_process import reap, start_thread
from aider_guard.ollama.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from aider_guard.core.events import Event
    from aider_guard.counting.files import Counting
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.sidecar.memory import MemorySensor
    from aider_guard.sidecar.unloading import Unloader

POLL_SECONDS: Final = 2.0


def poll_memory(
    sensor: MemorySensor, emit: Callable[[Event], None], interval_seconds: float = POLL_SECONDS
) -> None:
    """Read the memory for ever. A driver's first answer is reported as soon as it is there: a launch waits for it."""
    while True:
        reading = sensor.read()
        emit(MemoryRead(reading))
        reap()
        if reading.gpus != GPU_NOT_YET:  # reading took its time already
            time.sleep(interval_seconds)


def poll_ollama(
    client: OllamaClient, emit: Callable[[Event], None], interval_seconds: float = POLL_SECONDS
) -> None:
    """Ask Ollama for its version and what it has loaded, for ever."""
    while True:
        emit(ServerRead(client.version()))
        emit(ModelsRead(client.loaded_models()))
        time.sleep(interval_seconds)


def _no_door(request: ServeDoor | WarmModel | WakeCounter) -> None:
    """A sidecar that was started without the door's socket."""
    print(f"sidecar: there is no door for {type(request).__name__}", file=sys.stderr)


@dataclass(frozen=True)
class Answers:
    """Hands each request to the thread that serves its kind; nothing here blocks."""

    door: Callable[[ServeDoor | WarmModel | WakeCounter], None] = _no_door

    survey: queue.SimpleQueue[SurveyServer] = field(default_factory=queue.SimpleQueue)
    unload: queue.SimpleQueue[UnloadModels] = field(default_factory=queue.SimpleQueue)
    count: queue.SimpleQueue[CountFiles | CountTexts] = field(default_factory=queue.SimpleQueue)

    def take(self, request: Request) -> bool:
        """Queue a request; False when it was the one to stop."""
        match request:
            case SurveyServer():
                self.survey.put(request)
            case UnloadModels():
                self.unload.put(request)
            case CountFiles() | CountTexts():
                self.count.put(request)
            case ServeDoor() | WarmModel() | WakeCounter():
                self.door(request)
            case StopSidecar():
                return False
        return True

    def start(
        self,
        client: OllamaClient,
        unloader: Unloader,
        counting: Counting,
        emit: Callable[[Event], None],
    ) -> None:
        """Start the threads that answer."""

        def report() -> None:
            while True:
                asked = self.survey.get()
                within = asked.within_seconds
                names, others = asked.names, asked.others
                emit(ServerSurveyed(survey(client, names, others=others, within_seconds=within)))

        def unload() -> None:
            while True:
                emit(unloader.unload(self.unload.get()))

        start_thread("survey", report)
        start_thread("unload", unload)
        start_thread("count", lambda: counting.run(self.count, emit))
