"""The answer of ``aider-guard fit``, for people on one screen and for programs as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aider_guard.core.fit import Candidate, Card, Fit, Need, Runtime, SwapCost
from aider_guard.core.messages import count, size
from aider_guard.core.model_memory import cache_type, capped_tokens
from aider_guard.core.readings import Unavailable
from aider_guard.view.fit_models import RequestedModel
from aider_guard.view.page import Page

DISK_BYTES_PER_SECOND = 2e9
"""What is assumed for the estimate of a hand-over: a common NVMe disk, less than the system's file cache gives."""

_COLUMNS = ("weights", "KV cache", "graph", "overhead", "total")


@dataclass(frozen=True)
class Alternative:
    """A model of the catalogue that fits, with its largest window."""

    name: str
    weights_bytes: int
    largest_num_ctx: int


@dataclass(frozen=True)
class FitAnswer:
    """What was asked and what came out. ``models`` are those that take memory of their own, ``spilled`` the bytes of
    each that go to the CPU when it has the cards to itself; ``room_bytes`` is what may be filled.
    """

    known: tuple[RequestedModel, ...]
    models: tuple[Candidate, ...]
    cards: tuple[Card, ...]
    room_bytes: int
    runtime: Runtime
    window_asked: bool
    fit: Fit
    hand_overs: tuple[SwapCost, ...]
    spilled: tuple[int, ...]
    instead: tuple[Alternative, ...]

    @property
    def together_bytes(self) -> int:
        """What all models need at once."""
        return sum(need.total_bytes for need in self.fit.needs)


def as_data(answer: FitAnswer) -> dict[str, Any]:
    """The answer as ``fit --json`` prints it: bytes and tokens; 0 is a window that does not exist."""
    found = answer.fit
    rows = zip(answer.models, found.needs, answer.spilled, strict=True)
    return {
        "fits": found.fits,
        "vram_bytes": found.vram_bytes,
        "num_ctx": found.num_ctx,
        "largest_num_ctx": found.largest_together,
        "models": [_row(answer, *row) for row in rows],
        "alone": found.alone,
        "largest_num_ctx_alone": found.largest_alone,
        "together_bytes": answer.together_bytes,
        "usable_bytes": answer.room_bytes,
        "kv_type": answer.runtime.kv_type,
        "flash_attention": answer.runtime.flash_attention,
        "parallel": answer.runtime.parallel,
        "cards": [
            {"name": card.name, "total_bytes": card.total_bytes, "free_bytes": card.free_bytes}
            for card in answer.cards
        ],
        "hand_overs": [
            {"name": one.name, "load_bytes": one.load_bytes} for one in answer.hand_overs
        ],
        "instead": [
            {
                "name": one.name,
                "weights_bytes": one.weights_bytes,
                "largest_num_ctx": one.largest_num_ctx,
            }
            for one in answer.instead
        ],
    }


def _row(answer: FitAnswer, model: Candidate, need: Need, spilled_bytes: int) -> dict[str, Any]:
    known = next(one for one in answer.known if one.candidate is model)
    trained = model.architecture.trained_tokens
    return {
        "name": need.name,
        "weights_bytes": need.weights_bytes,
        "kv_bytes": need.kv_bytes,
        "graph_bytes": need.graph_bytes,
        "overhead_bytes": need.overhead_bytes,
        "total_bytes": need.total_bytes,
        "spilled_bytes": spilled_bytes,
        "also": [one.candidate.name for one in answer.known if _shares(one.candidate, model)],
        "kv_type": cache_type(model.architecture, answer.runtime),
        "trained_num_ctx": None if isinstance(trained, Unavailable) else trained,
        "source": known.source,
        "exact": known.is_exact,
    }


def _shares(one: Candidate, model: Candidate) -> bool:
    return one is not model and one.blob == model.blob != ""


def render(answer: FitAnswer) -> str:
    """The page, as plain text."""
    lines = [*_head(answer), "", *_table(answer), "", *_verdict(answer), *_notes(answer)]
    if answer.instead:
        lines += ["", "what fits instead, by itself, with its largest window:", *_others(answer)]
    return "".join(f"{Page.printable(line)}\n" for line in lines)


def _head(answer: FitAnswer) -> Iterator[str]:
    free = answer.fit.vram_bytes
    taken = sum(card.total_bytes for card in answer.cards) - free
    kept = free - answer.room_bytes
    names = ", ".join(card.name for card in answer.cards)
    parts = [f"{size(free)} free"] if taken else []
    parts += [f"{size(kept)} of it is left free by Ollama"] if kept else []
    yield f"{'cards' if len(answer.cards) > 1 else 'card':8}{names}{_bracketed(parts)}"
    yield f"{'window':8}{answer.fit.num_ctx:,} tokens{_why_this_window(answer)}"
    yield f"{'ollama':8}{_engine(answer.runtime)}"


def _why_this_window(answer: FitAnswer) -> str:
    if answer.window_asked:
        return ""
    if answer.fit.fits or answer.fit.alone:
        return ", the largest that fits"
    return ", the smallest that is useful"


def _engine(runtime: Runtime) -> str:
    """How the models would be run."""
    version = {"A": "up to 0.11.10", "B": "0.11.11 to 0.24", "C": "0.30 or later"}[runtime.engine]
    flash = "on" if runtime.flash_attention else "off"
    slots = count(runtime.parallel, "slot")
    return f"{version}, KV cache {runtime.kv_type}, flash attention {flash}, {slots}"


def _bracketed(parts: list[str]) -> str:
    return f"  ({', '.join(parts)})" if parts else ""


def _table(answer: FitAnswer) -> Iterator[str]:
    needs = answer.fit.needs
    width = max(len("together"), *(len(need.name) for need in needs)) + 2
    yield "model".ljust(width) + "".join(f"{name:>10}" for name in _COLUMNS)
    for need in needs:
        parts = (need.weights_bytes, need.kv_bytes, need.graph_bytes, need.overhead_bytes)
        yield need.name.ljust(width) + "".join(
            f"{size(part):>10}" for part in (*parts, need.total_bytes)
        )
    if len(needs) > 1:
        columns = 10 * len(_COLUMNS)
        yield "together".ljust(width) + f"{size(answer.together_bytes):>{columns}}"


def _verdict(answer: FitAnswer) -> Iterator[str]:
    found = answer.fit
    if found.fits:
        what = "all fit together" if len(found.needs) > 1 else "it fits"
        yield f"{what}: {size(answer.together_bytes)} of {size(answer.room_bytes)}"
    elif found.alone:
        yield "they fit only one at a time: each hand-over unloads one model and loads another"
        yield from _loads(answer)
    else:
        for model, need, spilled in zip(answer.models, found.needs, answer.spilled, strict=True):
            if spilled:
                yield from _too_large(answer, model, need, spilled)
    yield _largest(answer)


def _loads(answer: FitAnswer) -> Iterator[str]:
    if answer.together_bytes <= answer.room_bytes and len(answer.cards) == 1:
        yield "  (there is room for all, but Ollama adds a model only where it takes at most 80 % of what is free)"
    for one in answer.hand_overs:
        seconds = max(1, round(one.estimated_seconds(DISK_BYTES_PER_SECOND)))
        yield f"  {one.name}: {size(one.load_bytes)} to load, about {seconds} s"
    yield f"  (seconds are an estimate, at {DISK_BYTES_PER_SECOND / 1e9:g} GB/s)"


def _too_large(answer: FitAnswer, model: Candidate, need: Need, spilled: int) -> Iterator[str]:
    room = answer.room_bytes
    yield (
        f"{need.name} does not fit: {size(need.total_bytes)} of {size(room)};"
        f" {size(spilled)} would run on the CPU, which is many times slower"
    )
    if model.weights_bytes > room:
        yield f"  its weights alone are {size(model.weights_bytes)} ({model.weights_bytes / 1e9:.1f} GB)"
    if model.architecture.experts:
        used, all_of_them = model.architecture.experts_used, model.architecture.experts
        yield f"  only {used} of its {all_of_them} experts work on a token, but all must be in memory"


def _largest(answer: FitAnswer) -> str:
    found = answer.fit
    if len(found.needs) == 1:
        return f"largest window: {_window(found.largest_together)}"
    together, alone = _window(found.largest_together), _window(found.largest_alone)
    return f"largest window: together {together}, one at a time {alone}"


def _window(tokens: int) -> str:
    return f"{tokens:,} tokens" if tokens else "none"


def _notes(answer: FitAnswer) -> Iterator[str]:
    for model in answer.models:
        tokens = capped_tokens(model.architecture, answer.fit.num_ctx)
        if tokens < answer.fit.num_ctx:
            yield f"{model.name} was trained for {tokens:,} tokens: Ollama loads no more"
        kind = cache_type(model.architecture, answer.runtime)
        if kind != answer.runtime.kv_type:
            yield f"{model.name} has its cache in {kind}: flash attention is off, and {answer.runtime.kv_type} needs it"
        others = [one.candidate.name for one in answer.known if _shares(one.candidate, model)]
        if others:
            yield f"{', '.join((model.name, *others))} are one file, and in memory once"
    rough = [one.candidate.name for one in answer.known if not one.is_exact]
    if rough:
        yield f"the size of {', '.join(rough)} is known only roughly"


def _others(answer: FitAnswer) -> Iterator[str]:
    width = max(len(one.name) for one in answer.instead) + 2
    for one in answer.instead:
        yield f"  {one.name.ljust(width)}{size(one.weights_bytes):>9}  {one.largest_num_ctx:>8,} tokens"
