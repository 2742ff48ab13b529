"""Whether models find room on the cards: whole on one card, else split by layers over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.fit_memory import MIB, RUNNER_BYTES, ollamas_guess_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aider_guard.core.fit import Candidate, Card, Need, Runtime

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
    margin = MARGIN_BYTES if runtime.era == "C" else 0
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
    if runtime.era != "C":
        return True
    free = sum(card.free_bytes for card in cards)
    for place, (candidate, need) in enumerate(zip(candidates, needs, strict=True)):
        guess = ollamas_guess_bytes(candidate, num_ctx, runtime)
        if place and guess * 100 > free * _BESIDE_OTHERS_PERCENT:
            return False
        free -= need.total_bytes
    return True
