"""What there is to choose from: Ollama's models and settings, and the memory, each asked once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport

if TYPE_CHECKING:
    from aider_guard.line_process import LineProcess

MOST_MODELS = 64
"""Of an Ollama with more models than these only the newest are looked at: each is a request."""


def ask_server(base: str) -> ServerReport:
    """The server at this URL with the facts of all its models. Takes seconds at most; silence is in the report."""
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    with closing(OllamaClient(base)) as client:
        report = survey(client, ())
        if isinstance(report.installed, Unavailable):
            return report
        local = [model.name for model in report.installed if not model.remote_host]
        return survey(client, local[:MOST_MODELS], within_seconds=6.0)


def read_memory(
    start: Callable[[], LineProcess] | None = None,
    *,
    patience_seconds: float = 6.0,
    clock: Callable[[], float] = time.monotonic,
) -> MemoryReading:
    """GPUs and main memory now. The first answer of a driver that was asleep can take seconds."""
    from aider_guard.sidecar.gpu import NOT_YET, GpuSensor, start_worker
    from aider_guard.sidecar.memory import MemorySensor

    deadline = clock() + patience_seconds
    with closing(MemorySensor(GpuSensor(start or start_worker))) as sensor:
        reading = sensor.read()
        while reading.gpus == NOT_YET and clock() < deadline:
            reading = sensor.read()
    return reading
