"""Does it fit: weights, KV cache, compute graph and overhead of a set of models, over one or several cards."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from aider_guard.core.architecture import Architecture
from aider_guard.core.fit_cards import cards_taken, load_of, packs, rooms, stay_together
from aider_guard.core.fit_memory import graph_bytes, kv_bytes, overhead_bytes
from aider_guard.core.readings import Unavailable

KvType = Literal["f16", "q8_0", "q4_0"]
Era = Literal["A", "B", "C"]
"""Which engine an Ollama runs: A up to 0.11.10, B up to 0.24, C from 0.30 on."""

STEP_TOKENS: Final = 1024
MINIMUM_TOKENS: Final = 4096
"""The smallest useful window. Aider's instructions take 600 (whole) to 1,700 tokens (diff) by its own count in 0.86.2,
its repository map 1,024, and a file and the answer must fit as well; 4,096 is also Ollama's own smallest default."""
COMFORTABLE_TOKENS: Final = 8192
"""From here on, all models in memory together is worth more than a larger window with a load at each hand-over."""
UNKNOWN_TRAINED_TOKENS: Final = 8192
"""The most that is chosen for a model that does not tell its trained context: beyond it, answers may be noise."""


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
    """What one model needs at this window, on one card.

    ``weights`` is the file (all of its experts, for MoE); the KV cache holds ``num_ctx`` tokens, at most the trained
    context, for each slot; see core/fit_memory.py for the formulas and their sources.
    """
    return Need(
        candidate.name,
        candidate.weights_bytes,
        kv_bytes(candidate.architecture, num_ctx, runtime),
        graph_bytes(candidate.architecture, num_ctx, runtime),
        overhead_bytes(candidate, num_ctx, runtime),
    )


def distinct(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that take memory of their own: tags of one blob share a runner, and so do equal names."""
    models: dict[str, Candidate] = {}
    for candidate in candidates:
        models.setdefault(candidate.blob or candidate.name, candidate)
    return tuple(models.values())


def fit(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int | None, runtime: Runtime
) -> Fit:
    """Whether the models fit. Without ``num_ctx`` it is answered for the window that ``choose_window`` takes, and for
    the smallest useful one when it takes none.

    ``needs`` has one entry for each runner. A model that no single card holds is split by layers; its graph and
    CUDA's own memory are then counted for each card it is on, in its overhead.
    """
    models = distinct(candidates)
    if num_ctx is None:
        num_ctx = choose_window(models, cards, runtime) or MINIMUM_TOKENS
    needs = tuple(_need_on(model, cards, num_ctx, runtime) for model in models)
    return Fit(
        num_ctx=num_ctx,
        needs=needs,
        vram_bytes=sum(card.free_bytes for card in cards),
        fits=fits_together(models, cards, num_ctx, runtime),
        alone=fits_alone(models, cards, num_ctx, runtime),
        largest_together=largest_window(
            models, lambda window: fits_together(models, cards, window, runtime)
        ),
        largest_alone=largest_window(
            models, lambda window: fits_alone(models, cards, window, runtime)
        ),
    )


def choose_window(
    candidates: Sequence[Candidate], cards: Sequence[Card], runtime: Runtime
) -> int | None:
    """The window for a session with these models: the largest at which all fit together when that is at least 8,192,
    else the largest at which each fits alone; None when one does not fit at any useful window.

    A model whose trained context is shorter than the smallest useful window may have all of it.
    """
    models = distinct(candidates)
    together = largest_window(models, lambda window: fits_together(models, cards, window, runtime))
    if together >= min(COMFORTABLE_TOKENS, longest_window(models)) > 0:
        return together
    alone = largest_window(models, lambda window: fits_alone(models, cards, window, runtime))
    return alone if alone >= min(MINIMUM_TOKENS, longest_window(models)) > 0 else None


def fits_together(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> bool:
    """Whether all are in memory at once, and Ollama leaves them there."""
    models = distinct(candidates)
    needs = [need(model, num_ctx, runtime) for model in models]
    loads = [load_of(model, its) for model, its in zip(models, needs, strict=True)]
    return packs(loads, rooms(cards, runtime)) and stay_together(
        models, needs, cards, num_ctx, runtime
    )


def fits_alone(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> bool:
    """Whether each is in memory while no other is."""
    return all(fits_together((model,), cards, num_ctx, runtime) for model in candidates)


def largest_window(candidates: Sequence[Candidate], fitting: Callable[[int], bool]) -> int:
    """The largest multiple of 1,024 up to the shortest trained context that is fitting; 0 for none.

    What fits a window fits a smaller one, too: nothing in a need shrinks when the window grows.
    """
    steps = range(longest_window(candidates) // STEP_TOKENS + 1)
    first_that_fails = bisect_left(
        steps, 1, lo=1, key=lambda step: int(not fitting(step * STEP_TOKENS))
    )
    return (first_that_fails - 1) * STEP_TOKENS


def longest_window(candidates: Sequence[Candidate]) -> int:
    """The shortest trained context of all, rounded down to 1,024; 0 without models."""
    trained = (candidate.architecture.trained_tokens for candidate in candidates)
    known = [UNKNOWN_TRAINED_TOKENS if isinstance(one, Unavailable) else one for one in trained]
    return min(known, default=0) // STEP_TOKENS * STEP_TOKENS


def _need_on(candidate: Candidate, cards: Sequence[Card], num_ctx: int, runtime: Runtime) -> Need:
    """What a model needs when it has the cards to itself: more than on one card when it must be split."""
    its = need(candidate, num_ctx, runtime)
    load = load_of(candidate, its)
    more = cards_taken(load, rooms(cards, runtime)) - 1
    return replace(its, overhead_bytes=its.overhead_bytes + more * load.fixed_bytes)


@dataclass(frozen=True)
class HandOver:
    """What it costs when a model is needed that the one before has pushed out of memory.

    ``load_bytes`` are read again, from the disk or from the system's file cache; what the model had computed of the
    conversation (its prompt cache) is lost as well.
    """

    name: str
    load_bytes: int

    def estimated_seconds(self, bytes_per_second: float) -> float:
        """An estimate: the reading alone, at a rate that the caller knows or assumes."""
        return self.load_bytes / bytes_per_second


def hand_overs(candidates: Sequence[Candidate]) -> tuple[HandOver, ...]:
    """What each hand-over to a model costs, for a set that fits only one at a time; none for a single model."""
    models = distinct(candidates)
    if len(models) < 2:
        return ()
    return tuple(HandOver(model.name, model.weights_bytes) for model in models)


def spilled_bytes(
    candidate: Candidate, cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> int:
    """How much of a model goes to the CPU when it has the cards to itself: whole layers with their KV cache; 0: none.

    Without a card that is all of its weights and cache.
    """
    load = load_of(candidate, need(candidate, num_ctx, runtime))
    room = rooms(cards, runtime)
    if packs([load], room):
        return 0
    held = sum(max(0, free - load.fixed_bytes) // load.layer_bytes for free in room)
    return load.pool_bytes - held * load.layer_bytes
