"""Does it fit: weights, KV cache, compute graph and overhead of a set of models, over one or several cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aider_guard.core.architecture import Architecture

KvType = Literal["f16", "q8_0", "q4_0"]
Era = Literal["A", "B", "C"]
"""Which engine an Ollama runs: A up to 0.11.10, B up to 0.24, C from 0.30 on."""


@dataclass(frozen=True)
class Card:
    """One GPU, or the main memory when there is none. ``free_bytes`` is what Ollama may use: others' is taken off."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Runtime:
    """How the server runs models."""

    era: Era = "C"
    kv_type: KvType = "f16"
    parallel: int = 1
    flash_attention: bool = True


@dataclass(frozen=True)
class Candidate:
    """One model to place. ``correction_bytes`` is what it was measured to need beyond the formula. Candidates with the
    same ``blob`` (not "") are one model in memory.
    """

    name: str
    weights_bytes: int
    architecture: Architecture
    blob: str = ""
    correction_bytes: int = 0


@dataclass(frozen=True)
class Need:
    """What one model needs at one window."""

    name: str
    weights_bytes: int
    kv_bytes: int
    graph_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.graph_bytes + self.overhead_bytes


@dataclass(frozen=True)
class Fit:
    """An answer for a set of models at one window.

    ``fits`` is whether all are in memory together, ``alone`` whether each fits by itself (then every hand-over loads
    a model anew). ``largest_together`` and ``largest_alone`` are the largest windows for which that holds, rounded
    down to 1,024 tokens and at most the shortest trained context; 0 when not even the smallest does.
    """

    num_ctx: int
    needs: tuple[Need, ...]
    vram_bytes: int
    fits: bool
    alone: bool
    largest_together: int
    largest_alone: int


def need(candidate: Candidate, num_ctx: int, runtime: Runtime) -> Need:
    """What one model needs at this window."""
    raise NotImplementedError


def fit(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int | None, runtime: Runtime
) -> Fit:
    """Whether the models fit. Without ``num_ctx`` it is answered for the window that ``choose_window`` takes."""
    raise NotImplementedError


def choose_window(
    candidates: Sequence[Candidate], cards: Sequence[Card], runtime: Runtime
) -> int | None:
    """The window for a session with these models: the largest at which all fit together when that is at least 8,192,
    else the largest at which each fits alone; None when one does not fit at any useful window.
    """
    raise NotImplementedError
