"""What the sidecar tells of itself, of Ollama and of memory, other than the traffic: events, as in core/events.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from aider_guard.core.readings import MemoryReading, ModelsReading, Unavailable
from aider_guard.core.serverfacts import ServerReport


@dataclass(frozen=True)
class SidecarStarted:
    """The sidecar runs."""

    pid: int
    version: str


@dataclass(frozen=True)
class SidecarLost:
    """The sidecar died or fell silent; every reading is unavailable until the next one runs."""

    reason: str


@dataclass(frozen=True)
class ServerRead:
    """Ollama's version, or why it did not answer."""

    version: str | Unavailable


@dataclass(frozen=True)
class ModelsRead:
    """What Ollama has loaded."""

    reading: ModelsReading | Unavailable


@dataclass(frozen=True)
class MemoryRead:
    """Memory of GPUs and machine."""

    reading: MemoryReading


@dataclass(frozen=True)
class ServerSurveyed:
    """What Ollama says of itself and of the models that were asked for."""

    report: ServerReport


@dataclass(frozen=True)
class FilesCounted:
    """Estimated sizes (cl100k tokens) of files in the chat, as they are on disk now."""

    tokens: dict[str, int | Unavailable] = field(metadata={"journal": False})


@dataclass(frozen=True)
class TextsCounted:
    """Estimated sizes (cl100k tokens) of texts, in the order they were given with ``request``."""

    request: int
    tokens: tuple[int, ...] | Unavailable


@dataclass(frozen=True)
class ModelsUnloaded:
    """Ollama no longer lists these models, and the memory had time to come back.

    ``freed_bytes`` is the difference of two measurements of the GPU (of Ollama's own processes when the model
    was on the CPU); it is unavailable when either measurement failed.
    """

    names: tuple[str, ...]
    freed_bytes: int | Unavailable
    seconds: float
    problem: str = ""
