"""Prints the answer of ``aider-guard fit``, on one screen or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aider_guard.core.fit import Card, Fit, Need, SwapCost
from aider_guard.core.messages import count, size
from aider_guard.core.model_memory import (
    HOST_PROMPT_CACHE_BYTES,
    Candidate,
    Runtime,
    cache_type,
    capped_tokens,
)
from aider_guard.core.readings import Unavailable
from aider_guard.view.fit_models import RequestedModel
from aider_guard.view.page import Page, wrapped

DISK_BYTES_PER_SECOND = 2e9
"""The speed assumed for the estimate of a hand-over: a common NVMe disk's, less than the system's file cache gives."""

_LABEL_COLUMNS = 8
_TIGHT_SHARE = 0.95
"""Above this share of the room a browser's or a desktop's memory more is enough to push layers to the CPU."""
_COLUMNS = ("weights", "KV cache", "graph", "overhead", "total")


@dataclass(frozen=True)
class Alternative:
    """A model of the catalogue that fits, with its largest window."""

    name: str
    weights_bytes: int
    largest_num_ctx: int


@dataclass(frozen=True)
class FitAnswer:
    """The question and the answer. ``models`` are those that take memory of their own, ``spilled`` the bytes of each
    that go to the CPU when it has the cards to itself; ``room_bytes`` is the memory that models may fill.
    """

    requested: tuple[RequestedModel, ...]
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
    result = answer.fit
    rows = zip(answer.models, result.needs, answer.spilled, strict=True)
    return {
        "fits": result.fits,
        "vram_bytes": result.vram_bytes,
        "num_ctx": result.num_ctx,
        "largest_num_ctx": result.largest_together,
        "models": [_row(answer, *row) for row in rows],
        "alone": result.alone,
        "largest_num_ctx_alone": result.largest_alone,
        "together_bytes": answer.together_bytes,
        "usable_bytes": answer.room_bytes,
        "kv_type": answer.runtime.kv_type,
        "flash_attention": answer.runtime.flash_attention,
        "parallel": answer.runtime.parallel,
        "cards": [asdict(card) for card in answer.cards],
        "hand_overs": [asdict(cost) for cost in answer.hand_overs],
        "instead": [asdict(alternative) for alternative in answer.instead],
        "host_prompt_cache_bytes": _host_prompt_cache_bytes(answer),
    }


def _host_prompt_cache_bytes(answer: FitAnswer) -> int:
    """What the models may keep of earlier prompts in main memory; older versions of Ollama kept none."""
    each = HOST_PROMPT_CACHE_BYTES if answer.runtime.engine == "C" else 0
    return each * len(answer.models)


def _row(answer: FitAnswer, model: Candidate, need: Need, spilled_bytes: int) -> dict[str, Any]:
    requested = next(each for each in answer.requested if each.candidate is model)
    trained = model.architecture.trained_tokens
    return {
        **asdict(need),
        "total_bytes": need.total_bytes,
        "spilled_bytes": spilled_bytes,
        "main_memory_bytes": model.weights_bytes - need.weights_bytes,
        "also": _same_file(answer, model),
        "kv_type": cache_type(model.architecture, answer.runtime),
        "trained_num_ctx": None if isinstance(trained, Unavailable) else trained,
        "source": requested.source,
        "exact": requested.is_exact,
    }


def _same_file(answer: FitAnswer, model: Candidate) -> list[str]:
    """The other names in the question that are the same file as this model."""
    candidates = (requested.candidate for requested in answer.requested)
    return [
        other.name for other in candidates if other is not model and other.blob == model.blob != ""
    ]


def render(answer: FitAnswer, columns: int = 0) -> str:
    """The page, as plain text; with *columns* no line is longer where it can be broken between words."""
    lines = [
        *wrapped(_head(answer), columns, _LABEL_COLUMNS),
        "",
        *_table(answer, columns),
        "",
        *wrapped(_verdict(answer), columns, 4),
        *wrapped(_notes(answer), columns, 4),
    ]
    if answer.instead:
        intro = "these fit instead, each by itself (weights, largest window):"
        rows = [
            (f"  {each.name}", f"{size(each.weights_bytes):>9}  {each.largest_num_ctx:>8,} tokens")
            for each in answer.instead
        ]
        lines += ["", *wrapped([intro], columns, 2), *_rows(rows, columns)]
    return "".join(f"{Page.printable(line)}\n" for line in lines)


def _rows(rows: Sequence[tuple[str, str]], columns: int) -> Iterator[str]:
    """Names with numbers of one width beside them; below them, where a row would be longer than the terminal."""
    width = max(len(name) for name, _ in rows) + 2
    is_narrow = columns and width + max(len(numbers) for _, numbers in rows) > columns
    for name, numbers in rows:
        if is_narrow:
            yield name
            yield f"  {numbers}"
        else:
            yield f"{name:<{width}}{numbers}"


def _head(answer: FitAnswer) -> Iterator[str]:
    free = answer.fit.vram_bytes
    used = sum(card.total_bytes for card in answer.cards) - free
    margin = free - answer.room_bytes
    names = ", ".join(card.name for card in answer.cards)
    parts = ["it shares the main memory"] if answer.cards[0].shares_main_memory else []
    parts += [f"{size(free)} free"] if used else []
    parts += [f"Ollama leaves {size(margin)} of it unused"] if margin else []
    brackets = f"  ({', '.join(parts)})" if parts else ""
    yield f"{'cards' if len(answer.cards) > 1 else 'card':8}{names}{brackets}"
    useful = ", the smallest that is useful"
    why = ", the largest that fits" if answer.fit.fits or answer.fit.alone else useful
    yield f"{'window':8}{answer.fit.num_ctx:,} tokens{'' if answer.window_asked else why}"
    runtime = answer.runtime
    version = {"A": "up to 0.11.10", "B": "0.11.11 to 0.24", "C": "0.30 or later"}[runtime.engine]
    flash = "on" if runtime.flash_attention else "off"
    slots = count(runtime.parallel, "slot")
    yield f"{'ollama':8}{version}, KV cache {runtime.kv_type}, flash attention {flash}, {slots}"


def _table(answer: FitAnswer, columns: int) -> Iterator[str]:
    needs = answer.fit.needs
    rows = [("model", "".join(f"{name:>10}" for name in _COLUMNS))]
    for need in needs:
        parts = (need.weights_bytes, need.kv_bytes, need.graph_bytes, need.overhead_bytes)
        rows.append(
            (need.name, "".join(f"{size(part):>10}" for part in (*parts, need.total_bytes)))
        )
    if len(needs) > 1:
        rows.append(("together", f"{size(answer.together_bytes):>{10 * len(_COLUMNS)}}"))
    yield from _rows(rows, columns)


def _verdict(answer: FitAnswer) -> Iterator[str]:
    result = answer.fit
    if result.fits:
        what = "all fit together" if len(result.needs) > 1 else "it fits"
        is_tight = answer.together_bytes > _TIGHT_SHARE * answer.room_bytes
        tight = ", but it is tight" if is_tight else ""
        yield f"{what}{tight}: {size(answer.together_bytes)} of {size(answer.room_bytes)}"
    elif result.alone:
        yield "they fit only one at a time: each hand-over unloads one model and loads another"
        if answer.together_bytes <= answer.room_bytes and len(answer.cards) == 1:
            yield "  (there is room for all, but Ollama adds a model only where it takes at most 80 % of what is free)"
        for cost in answer.hand_overs:
            seconds = max(1, round(cost.estimated_seconds(DISK_BYTES_PER_SECOND)))
            yield f"  {cost.name}: {size(cost.load_bytes)} to load, about {seconds} s"
        yield f"  (seconds are an estimate, at {DISK_BYTES_PER_SECOND / 1e9:g} GB/s)"
    else:
        for model, need, spilled in zip(answer.models, result.needs, answer.spilled, strict=True):
            if spilled:
                yield from _too_large(answer, model, need, spilled)
    together, alone = _window(result.largest_together), _window(result.largest_alone)
    windows = f"together {together}, one at a time {alone}"
    yield f"largest window: {windows if len(result.needs) > 1 else together}"


def _too_large(answer: FitAnswer, model: Candidate, need: Need, spilled: int) -> Iterator[str]:
    room = answer.room_bytes
    yield (
        f"{need.name} does not fit: it needs {size(need.total_bytes)} and has {size(room)};"
        f" {size(spilled)} would run on the CPU, which is many times slower"
    )
    if need.weights_bytes > room:
        yield f"  its weights alone are {size(need.weights_bytes)} ({need.weights_bytes / 1e9:.1f} GB)"
    if model.architecture.experts:
        used, total = model.architecture.experts_used, model.architecture.experts
        yield f"  only {used} of its {total} experts work on a token, but all must be in memory"


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
        others = _same_file(answer, model)
        if others:
            yield f"{', '.join((model.name, *others))} are the same file, which is loaded once"
    rough = [model.candidate.name for model in answer.requested if not model.is_exact]
    if rough:
        yield f"the size of {', '.join(rough)} is only approximate"
    kept = _host_prompt_cache_bytes(answer)
    if kept:
        yield f"Ollama may keep {size(kept)} of earlier prompts in main memory (LLAMA_ARG_CACHE_RAM sets less)"
