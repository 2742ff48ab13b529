"""Readings of models, memory and context, with units in the names. A missing one is ``Unavailable``, never 0 or None.

``taken_at`` is in monotonic seconds of the machine: guard and sidecar read the same clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Unavailable:
    """A reading that could not be taken, with the reason in the user's words."""

    reason: str


NO_NVIDIA_GPU = (
    Unavailable("no NVIDIA driver is installed"),
    Unavailable("the NVIDIA driver is not loaded"),
    Unavailable("the NVIDIA driver knows no GPU"),
)
"""The readings of a machine without an NVIDIA GPU; any other reason means that there is one that does not answer."""
INTEGRATED_INTEL = Unavailable(
    "the GPU here is Intel's integrated one, which shares the main memory"
)
"""The reading of a machine whose only GPU has no memory of its own, and whose use of the main memory is not told."""
GPU_NOT_YET = Unavailable("the driver of the GPU has not answered yet")
"""A driver that was asleep takes seconds for its first answer."""


@dataclass(frozen=True)
class LoadedModel:
    """One model that Ollama holds in memory (one entry of ``/api/ps``)."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    window_tokens: int | Unavailable
    """``context_length``: absent before Ollama 0.10, per slot, and exact only since 0.15.5."""


@dataclass(frozen=True)
class ModelsReading:
    """Everything that Ollama had loaded at one moment."""

    models: tuple[LoadedModel, ...]
    taken_at: float


@dataclass(frozen=True)
class GpuProcess:
    """One process that holds memory on a GPU."""

    pid: int
    name: str
    vram_used_bytes: int | Unavailable
    is_ollama: bool


def held_bytes(
    processes: Iterable[GpuProcess] | Unavailable, *, by_ollama: bool | None = None
) -> int:
    """Return what these processes hold as far as it is known, or only Ollama's, or only the others."""
    if isinstance(processes, Unavailable):
        return 0
    return sum(
        process.vram_used_bytes
        for process in processes
        if by_ollama in (None, process.is_ollama) and isinstance(process.vram_used_bytes, int)
    )


GPU_USE_NOT_TOLD = Unavailable("the driver does not tell")


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver sees it.

    ``shares_main_memory`` is whether it has no memory of its own: the total is then what it may use of the machine's.
    ``busy_percent`` is in how much of the last second or less it had work, ``slowed_by_heat`` whether it is slower now.
    """

    index: int
    name: str
    vram_total_bytes: int
    vram_used_bytes: int | Unavailable
    processes: tuple[GpuProcess, ...] | Unavailable
    shares_main_memory: bool = False
    busy_percent: int | Unavailable = field(default=GPU_USE_NOT_TOLD, metadata={"journal": False})
    slowed_by_heat: bool | Unavailable = field(
        default=GPU_USE_NOT_TOLD, metadata={"journal": False}
    )

    @property
    def least_used_bytes(self) -> int:
        """What is used as far as it is known: all of it, or where that is not told, what the listed processes hold."""
        if isinstance(self.vram_used_bytes, int):
            return self.vram_used_bytes
        return held_bytes(self.processes)


@dataclass(frozen=True)
class RamReading:
    """The machine's main memory; ``ollama_bytes`` is the resident memory of Ollama's own processes."""

    total_bytes: int
    available_bytes: int
    ollama_bytes: int | Unavailable


def share_used_percent(memory: Gpu | RamReading) -> float:
    """Return how much of a memory is used as far as it is known, in per cent; of nothing it is none."""
    if isinstance(memory, Gpu):
        used, total = memory.least_used_bytes, memory.vram_total_bytes
    else:
        used, total = memory.total_bytes - memory.available_bytes, memory.total_bytes
    return 100.0 * used / total if total else 0.0


@dataclass(frozen=True)
class MemoryReading:
    """All memory at one moment. No GPU and an unreadable GPU are both ``Unavailable``, each with its reason.

    ``unread`` says why further GPUs of this machine were not read.
    """

    gpus: tuple[Gpu, ...] | Unavailable
    ram: RamReading | Unavailable
    taken_at: float
    unread: tuple[Unavailable, ...] = ()

    @property
    def shares_main_memory(self) -> bool:
        """Whether a model on the GPU is in the main memory, because no GPU here has memory of its own."""
        if isinstance(self.gpus, Unavailable):
            return self.gpus == INTEGRATED_INTEL
        return bool(self.gpus) and all(gpu.shares_main_memory for gpu in self.gpus)


RowKind = Literal["system", "history", "map", "file"]


@dataclass(frozen=True)
class ContextRow:
    """One row of Aider's ``/tokens`` table. ``name`` is a file's path as Aider prints it, else empty."""

    kind: RowKind
    name: str = field(metadata={"journal": False})
    tokens: int
    read_only: bool = False


@dataclass(frozen=True)
class ContextReading:
    """One parsed ``/tokens`` table.

    The numbers are Aider's own estimate (cl100k), which counts 1.1 to 2 times fewer tokens than most local
    models do. ``max_tokens`` is the table's own maximum: what Aider believes, not the window that is loaded.
    """

    model: str
    rows: tuple[ContextRow, ...]
    total_tokens: int
    max_tokens: int | Unavailable
    taken_at: float


def age_seconds(taken_at: float, now: float) -> float:
    """Return the seconds since a reading was taken; never negative."""
    return max(0.0, now - taken_at)


@dataclass(frozen=True)
class LastRequest:
    """The newest request of the main model, as measured at the door, and the parts of its prompt.

    ``is_sure`` is False where the server has not counted all of it, as for a request that the door refused.
    """

    prompt_tokens: int
    answer_tokens: int = 0
    window_tokens: int | Unavailable = Unavailable("the request did not tell")
    rows: tuple[ContextRow, ...] = ()
    """The parts of prompt and answer, which sum up to about both; empty where the prompt was not recognised."""
    is_sure: bool = True

    @property
    def used_tokens(self) -> int:
        """The tokens of the request and its answer, which the next prompt begins with."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class ModelPresence:
    """Whether the main model is in memory between two requests, and whether to load it."""

    listed: bool = False
    """Whether Ollama's newest list has it."""
    due: bool = False
    """Whether to load it at the next prompt: it left the list, or Ollama was not there to load it before."""
    loaded_again: bool = False
    """Whether it was loaded again since the last request: unloaded once more, its memory is needed elsewhere."""
    newest_model: str = ""
    """The model that the newest message went to."""
