"""Computes whether models fit on the cards, together and alone, and the largest window that does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from aider_guard.core.model_memory import (
    MIB,
    RUNNER_BYTES,
    Candidate,
    Runtime,
    graph_bytes,
    kv_bytes,
    ollamas_guess_bytes,
    overhead_bytes,
    ubatch_tokens,
    weights_on_card,
)
from aider_guard.core.readings import Unavailable

MARGIN_BYTES: Final = 1024 * MIB
"""What llama.cpp leaves free on each card before it moves layers to the CPU (``--fit-target``; Ollama 0.30 on)."""

_BESIDE_OTHERS_PERCENT: Final = 80  # server/sched.go:544-571

_BATCHES: Final = ((2048, 60, 2048 * MIB), (1024, 75, 768 * MIB))
"""Batches, what Ollama's guess may be of the free memory in per cent, and what each adds to it (sched.go:860-915)."""


@dataclass(frozen=True)
class Load:
    """One model to place. ``pool_bytes`` is shared out by layers, ``fixed_bytes`` is needed on each of its cards."""

    pool_bytes: int
    fixed_bytes: int
    layers: int

    @property
    def whole_bytes(self) -> int:
        """Its memory on a single card."""
        return self.pool_bytes + self.fixed_bytes

    @property
    def layer_bytes(self) -> int:
        """The size of one layer; all are taken to be equal."""
        return max(1, -(-self.pool_bytes // self.layers))


def load_of(candidate: Candidate, need: Need) -> Load:
    """Return a model as a load to place; the graph and CUDA's own memory are needed on each card."""
    fixed = need.graph_bytes + min(RUNNER_BYTES, need.overhead_bytes)
    return Load(need.total_bytes - fixed, fixed, candidate.architecture.layers)


def rooms(cards: Sequence[Card], runtime: Runtime) -> tuple[int, ...]:
    """Return how many bytes of each card may be filled."""
    margin = MARGIN_BYTES if runtime.engine == "C" else 0
    return tuple(max(0, card.free_bytes - margin) for card in cards)


def packs(loads: Sequence[Load], room: Sequence[int]) -> bool:
    """Whether all loads have room at once: each on one card if possible, else on all, as Ollama does it."""
    largest_first = sorted(
        loads, key=lambda load: (-load.whole_bytes, load.layers, load.pool_bytes)
    )
    return _pack(largest_first, tuple(room))


def _pack(loads: Sequence[Load], room: tuple[int, ...]) -> bool:
    if not loads:
        return True
    if sum(load.whole_bytes for load in loads) > sum(room):
        return False
    first, *rest = loads
    for at, free in enumerate(room):
        taken = (*room[:at], free - first.whole_bytes, *room[at + 1 :])
        if free >= first.whole_bytes and _pack(rest, taken):
            return True
    left = split(first, room)
    return left is not None and _pack(rest, left)


def split(load: Load, room: Sequence[int]) -> tuple[int, ...] | None:
    """Return the room left on each card when a model is split by layers over those with room; None: too little room."""
    placed = _layers_on(load, room)
    if sum(placed) < load.layers:
        return None
    taken = [here * load.layer_bytes + (load.fixed_bytes if here else 0) for here in placed]
    return tuple(free - taken[card] for card, free in enumerate(room))


def _layers_on(load: Load, room: Sequence[int]) -> tuple[int, ...]:
    """Return how many layers go to each card; the first cards are filled first."""
    left, placed = load.layers, []
    for free in room:
        here = min(left, max(0, free - load.fixed_bytes) // load.layer_bytes)
        left -= here
        placed.append(here)
    return tuple(placed)


def cards_taken(load: Load, room: Sequence[int]) -> int:
    """Return how many cards a model is on: those that its layers need; 1 if one holds it, or none has room."""
    if not room or load.whole_bytes <= max(room):
        return 1
    return max(1, sum(here > 0 for here in _layers_on(load, room)))


def stay_together(
    candidates: Sequence[Candidate],
    cards: Sequence[Card],
    num_ctx: int,
    runtime: Runtime,
) -> bool:
    """Whether Ollama keeps the loaded models when the next one comes, in this order.

    From 0.30 on a model joins others only if Ollama's own guess for it is at most 80 % of the free memory; else the
    others are unloaded, even where all would fit.
    """
    if runtime.engine != "C":
        return True
    free = sum(card.free_bytes for card in cards)
    for place, candidate in enumerate(candidates):
        guess = ollamas_guess_bytes(candidate, num_ctx, runtime)
        if place and guess * 100 > free * _BESIDE_OTHERS_PERCENT:
            return False
        free -= need(candidate, num_ctx, with_batch(candidate, cards, num_ctx, runtime)).total_bytes
    return True


def with_batch(
    candidate: Candidate, cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> Runtime:
    """Return the runtime with the batch that Ollama chooses for a model alone on these cards.

    From 0.30 on it takes a smaller one than the window would have where its own guess says that memory is short.
    """
    if runtime.engine != "C" or runtime.batch_tokens:
        return runtime
    free = sum(card.free_bytes for card in cards)
    guess = ollamas_guess_bytes(candidate, num_ctx, runtime)
    most = ubatch_tokens(num_ctx * runtime.parallel, runtime)
    for batch, percent, added in _BATCHES:
        has_room = guess * 100 <= free * percent
        if batch <= most and has_room and (guess + added) * 100 <= free * _BESIDE_OTHERS_PERCENT:
            return replace(runtime, batch_tokens=batch)
    return replace(runtime, batch_tokens=512)


STEP_TOKENS: Final = 1024
MINIMUM_TOKENS: Final = 4096
"""The smallest useful window. Aider's instructions have 600 (whole) to 1,700 tokens (diff) by its own count in 0.86.2,
its repository map 1,024, and a file and the answer must fit as well; 4,096 is also Ollama's own smallest default."""
COMFORTABLE_TOKENS: Final = 8192
"""From here on, all models in memory together is worth more than a larger window with a load at each hand-over."""
UNKNOWN_TRAINED_TOKENS: Final = 8 * STEP_TOKENS
"""The largest window for a model with an unknown trained context: beyond that, answers may be noise."""


@dataclass(frozen=True)
class Card:
    """One GPU, or the main memory when there is none. ``free_bytes`` is what other programs leave to Ollama.

    ``shares_main_memory`` is for a GPU without memory of its own: what stays in main memory takes room there, too.
    """

    name: str
    total_bytes: int
    free_bytes: int
    shares_main_memory: bool = False


@dataclass(frozen=True)
class Need:
    """The memory that one model needs at one window."""

    name: str
    weights_bytes: int
    kv_bytes: int
    graph_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return self.weights_bytes + self.kv_bytes + self.graph_bytes + self.overhead_bytes


@dataclass(frozen=True)
class Fit:
    """The result for a set of models at one window.

    ``fits`` is whether all are in memory together, ``alone`` whether each fits by itself (then every hand-over loads a
    model again). ``largest_together`` and ``largest_alone`` are the largest windows for which that holds, rounded down
    to 1,024 tokens and at most the shortest trained context; 0 when not even the smallest does.
    """

    num_ctx: int
    needs: tuple[Need, ...]
    vram_bytes: int
    fits: bool
    alone: bool
    largest_together: int
    largest_alone: int


def need(candidate: Candidate, num_ctx: int, runtime: Runtime) -> Need:
    """Return the need of one model at this window, on one card.

    The weights are those that a card holds (for MoE all experts); the KV cache holds ``num_ctx`` tokens, at most the
    trained context, for each slot; see core/model_memory.py for the formulas and their sources.
    """
    return Need(
        candidate.name,
        weights_on_card(candidate),
        kv_bytes(candidate.architecture, num_ctx, runtime),
        graph_bytes(candidate.architecture, num_ctx, runtime),
        overhead_bytes(candidate, num_ctx, runtime),
    )


def distinct(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates with memory of their own: tags of one blob, and equal names, share a runner."""
    models: dict[str, Candidate] = {}
    for candidate in candidates:
        models.setdefault(candidate.blob or candidate.name, candidate)
    return tuple(models.values())


def fit(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int | None, runtime: Runtime
) -> Fit:
    """Return whether the models fit at ``num_ctx``, by default at the window that ``choose_window`` returns.

    If that returns None, it is the smallest useful window. ``needs`` has one entry for each runner. A model that no
    single card holds is split by layers; its overhead then has the graph and CUDA's own memory for each of its cards.
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
            models, partial(fits_together, models, cards, runtime=runtime)
        ),
        largest_alone=largest_window(models, partial(fits_alone, models, cards, runtime=runtime)),
    )


def choose_window(
    candidates: Sequence[Candidate], cards: Sequence[Card], runtime: Runtime
) -> int | None:
    """Return the window for a session: the largest at which all fit together, if that is at least 8,192.

    Else it is the largest at which each fits alone; None when one does not fit at any useful window. A trained context
    that is shorter than the smallest useful window is used whole.
    """
    models = distinct(candidates)
    together = largest_window(models, partial(fits_together, models, cards, runtime=runtime))
    if together and together >= min(COMFORTABLE_TOKENS, longest_window(models)):
        return together
    alone = largest_window(models, partial(fits_alone, models, cards, runtime=runtime))
    return alone if alone and alone >= min(MINIMUM_TOKENS, longest_window(models)) else None


def fits_together(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> bool:
    """Whether all are in memory at once, and Ollama leaves them there."""
    models = distinct(candidates)
    loads = [
        load_of(model, need(model, num_ctx, with_batch(model, cards, num_ctx, runtime)))
        for model in models
    ]
    return packs(loads, rooms(cards, runtime)) and stay_together(models, cards, num_ctx, runtime)


def fits_alone(
    candidates: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> bool:
    """Whether each fits in memory while no other is loaded."""
    return all(fits_together((model,), cards, num_ctx, runtime) for model in candidates)


def largest_window(candidates: Sequence[Candidate], fitting: Callable[[int], bool]) -> int:
    """Return the largest multiple of 1,024 up to the shortest trained context that is fitting; 0 for none.

    If a window fits, a smaller one fits, too: no part of a need shrinks when the window grows. Only where Ollama takes
    a larger batch for the smaller window may it need more; then a window is returned that fits, and a larger one might.
    """
    steps = range(longest_window(candidates) // STEP_TOKENS + 1)
    first_that_fails = bisect_left(
        steps, 1, lo=1, key=lambda step: int(not fitting(step * STEP_TOKENS))
    )
    return (first_that_fails - 1) * STEP_TOKENS


def longest_window(candidates: Sequence[Candidate]) -> int:
    """Return the shortest trained context of all models, rounded down to 1,024; 0 without models."""
    trained = (candidate.architecture.trained_tokens for candidate in candidates)
    known = [UNKNOWN_TRAINED_TOKENS if isinstance(n, Unavailable) else n for n in trained]
    return min(known, default=0) // STEP_TOKENS * STEP_TOKENS


def _need_on(candidate: Candidate, cards: Sequence[Card], num_ctx: int, runtime: Runtime) -> Need:
    """Return the need of a model that has the cards to itself: more than on one card when it must be split."""
    its = need(candidate, num_ctx, with_batch(candidate, cards, num_ctx, runtime))
    load = load_of(candidate, its)
    more = cards_taken(load, rooms(cards, runtime)) - 1
    return replace(its, overhead_bytes=its.overhead_bytes + more * load.fixed_bytes)


@dataclass(frozen=True)
class SwapCost:
    """The cost of using a model that another one has pushed out of memory.

    ``load_bytes`` are read again, from the disk or from the system's file cache; the model's prompt cache is lost.
    """

    name: str
    load_bytes: int

    def estimated_seconds(self, bytes_per_second: float) -> float:
        """Estimate the seconds of the reading alone, at the caller's rate."""
        return self.load_bytes / bytes_per_second


def hand_overs(candidates: Sequence[Candidate]) -> tuple[SwapCost, ...]:
    """Return the cost of each hand-over to a model, for a set that fits only one at a time; none for a single model."""
    models = distinct(candidates)
    if len(models) < 2:
        return ()
    return tuple(SwapCost(model.name, model.weights_bytes) for model in models)


def spilled_bytes(
    candidate: Candidate, cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> int:
    """Return how much of a model runs on the CPU when it has the cards to itself: whole layers with their KV cache.

    Without a card that is all of its weights and cache.
    """
    load = load_of(
        candidate, need(candidate, num_ctx, with_batch(candidate, cards, num_ctx, runtime))
    )
    room = rooms(cards, runtime)
    if packs([load], room):
        return 0
    return load.pool_bytes - sum(_layers_on(load, room)) * load.layer_bytes
