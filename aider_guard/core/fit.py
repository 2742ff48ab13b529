"""Does it fit: weights, KV cache, compute graph and overhead of a set of models, over one or several cards."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from aider_guard.core.model_memory import (
    MIB,
    RUNNER_BYTES,
    Architecture,
    graph_bytes,
    kv_bytes,
    ollamas_guess_bytes,
    overhead_bytes,
)
from aider_guard.core.ollama_versions import Engine
from aider_guard.core.readings import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

# Whether models find room on the cards: whole on one card, else split by layers over all of them.

MARGIN_BYTES: Final = 1024 * MIB
"""What llama.cpp leaves free on each card before it moves layers to the CPU (``--fit-target``; Ollama 0.30 on)."""

_BESIDE_OTHERS_PERCENT: Final = 80  # server/sched.go:544-571


@dataclass(frozen=True)
class Load:
    """One model to place. ``pool_bytes`` is shared out by layers, ``fixed_bytes`` is taken on every card it is on."""

    pool_bytes: int
    fixed_bytes: int
    layers: int

    @property
    def whole_bytes(self) -> int:
        """What it takes on one card."""
        return self.pool_bytes + self.fixed_bytes

    @property
    def layer_bytes(self) -> int:
        """The size of one layer, all taken to be equal."""
        return max(1, -(-self.pool_bytes // self.layers))


def load_of(candidate: Candidate, need: Need) -> Load:
    """A model as something to place: the graph and CUDA's own memory are taken on each card."""
    fixed = need.graph_bytes + min(RUNNER_BYTES, need.overhead_bytes)
    return Load(need.total_bytes - fixed, fixed, candidate.architecture.layers)


def rooms(cards: Sequence[Card], runtime: Runtime) -> tuple[int, ...]:
    """What may be filled on each card, in bytes."""
    margin = MARGIN_BYTES if runtime.engine == "C" else 0
    return tuple(max(0, card.free_bytes - margin) for card in cards)


def packs(loads: Sequence[Load], room: Sequence[int]) -> bool:
    """Whether all find room at once. Ollama, too, takes one card if it can, else all of them."""
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
    for free in sorted(set(room), reverse=True):
        if free >= first.whole_bytes:
            at = room.index(free)
            if _pack(rest, (*room[:at], free - first.whole_bytes, *room[at + 1 :])):
                return True
    left = split(first, room) if len(room) > 1 else None
    return left is not None and _pack(rest, left)


def split(load: Load, room: Sequence[int]) -> tuple[int, ...] | None:
    """What is left on each card when a model is split by whole layers over those with room; None: too little room."""
    placed = _layers_on(load, room)
    if sum(placed) < load.layers:
        return None
    taken = (here * load.layer_bytes + (load.fixed_bytes if here else 0) for here in placed)
    return tuple(free - bytes_ for free, bytes_ in zip(room, taken, strict=True))


def _layers_on(load: Load, room: Sequence[int]) -> tuple[int, ...]:
    """How many layers go to each card, the first ones filled first."""
    left, placed = load.layers, []
    for free in room:
        here = min(left, max(0, free - load.fixed_bytes) // load.layer_bytes)
        left -= here
        placed.append(here)
    return tuple(placed)


def cards_taken(load: Load, room: Sequence[int]) -> int:
    """How many cards a model is on: 1 where one holds it, else those that its layers fill; 1 where none has room."""
    if not room or load.whole_bytes <= max(room):
        return 1
    return max(1, sum(here > 0 for here in _layers_on(load, room)))


def stay_together(
    candidates: Sequence[Candidate],
    needs: Sequence[Need],
    cards: Sequence[Card],
    num_ctx: int,
    runtime: Runtime,
) -> bool:
    """Whether Ollama keeps those that are loaded when the next one comes, in this order.

    From 0.30 on a model joins others only if Ollama's own guess for it is at most 80 % of what is free; else the others
    are unloaded, even where all would fit.
    """
    if runtime.engine != "C":
        return True
    free = sum(card.free_bytes for card in cards)
    for place, (candidate, need) in enumerate(zip(candidates, needs, strict=True)):
        guess = ollamas_guess_bytes(candidate, num_ctx, runtime)
        if place and guess * 100 > free * _BESIDE_OTHERS_PERCENT:
            return False
        free -= need.total_bytes
    return True


KvType = Literal["f16", "q8_0", "q4_0"]

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

    engine: Engine = "C"
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
class SwapCost:
    """What it costs when a model is needed that the one before has pushed out of memory.

    ``load_bytes`` are read again, from the disk or from the system's file cache; what the model had computed of the
    conversation (its prompt cache) is lost as well.
    """

    name: str
    load_bytes: int

    def estimated_seconds(self, bytes_per_second: float) -> float:
        """An estimate: the reading alone, at a rate that the caller knows or assumes."""
        return self.load_bytes / bytes_per_second


def hand_overs(candidates: Sequence[Candidate]) -> tuple[SwapCost, ...]:
    """What each hand-over to a model costs, for a set that fits only one at a time; none for a single model."""
    models = distinct(candidates)
    if len(models) < 2:
        return ()
    return tuple(SwapCost(model.name, model.weights_bytes) for model in models)


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
