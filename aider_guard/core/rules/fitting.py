"""After the first load: did the models fit as computed? What was measured is kept for the next start."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import Action, RememberNeed, ShowNotice
from aider_guard.core.events import Event, ModelsChosen, TurnFinished
from aider_guard.core.fit import Need
from aider_guard.core.readings import (
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    Unavailable,
    age_seconds,
)
from aider_guard.core.rules import Step
from aider_guard.core.sidecar_events import MemoryRead
from aider_guard.core.state import State, same_model


def watch(state: State, event: Event, now: float) -> Step:
    """Compare each model of the session once with what it was computed to need."""
    match event:
        case ModelsChosen(needs=needs):
            return replace(state, needs=needs), ()
        case TurnFinished():
            return replace(state, turn_ended_at=now), ()
        case MemoryRead(MemoryReading(gpus=tuple() as gpus) as reading) if gpus and state.turns:
            if _is_of_use(reading, state, now):
                return _compare(state, gpus, now)
    return state, ()


def _is_of_use(reading: MemoryReading | ModelsReading, state: State, now: float) -> bool:
    """Whether it is fresh, and of the time after a turn: before, the model may have been another loading of it."""
    is_fresh = age_seconds(reading.taken_at, now) <= state.limits.stale_after_seconds
    return is_fresh and reading.taken_at >= state.turn_ended_at


def _compare(state: State, gpus: tuple[Gpu, ...], now: float) -> Step:
    loaded = _fresh(state, now)
    actions: list[Action] = []
    for model in loaded:
        need = _need_of(state, model)
        # Without a byte on a GPU it was the user's or the server's choice to run it on the CPU.
        if need is None or not model.vram_bytes or model.name in state.fit_checked:
            continue
        state = replace(state, fit_checked=state.fit_checked | {model.name})
        actions += _compared(model, need, gpus, state.pinned_tokens, alone=len(loaded) == 1)
    return state, tuple(actions)


def _fresh(state: State, now: float) -> tuple[LoadedModel, ...]:
    if not isinstance(state.loaded, ModelsReading) or not _is_of_use(state.loaded, state, now):
        return ()
    return state.loaded.models


def _need_of(state: State, model: LoadedModel) -> Need | None:
    return next((need for need in state.needs if same_model(need.name, model.name)), None)


def _compared(
    model: LoadedModel,
    need: Need,
    gpus: tuple[Gpu, ...],
    window: int | Unavailable,
    *,
    alone: bool,
) -> list[Action]:
    spilled = max(0, model.size_bytes - model.vram_bytes)
    on_gpu = ollama_bytes(gpus) if alone else Unavailable("several models are loaded")
    # What /api/ps counts leaves the overhead out (facts of the three eras: buffers only, or an estimate of them).
    measured = on_gpu if isinstance(on_gpu, int) else model.vram_bytes + need.overhead_bytes
    actions: list[Action] = [RememberNeed(need.name, measured + spilled - need.total_bytes)]
    if spilled:
        fitting = smaller_window(need, spilled, window)
        actions.append(ShowNotice(sentences.spilled(model, spilled, fitting)))
    return actions


def ollama_bytes(gpus: tuple[Gpu, ...]) -> int | Unavailable:
    """What Ollama's own processes hold on all GPUs, by the driver."""
    total = 0
    for gpu in gpus:
        if isinstance(gpu.processes, Unavailable):
            return gpu.processes
        for process in gpu.processes:
            if process.is_ollama:
                if isinstance(process.vram_used_bytes, Unavailable):
                    return process.vram_used_bytes
                total += process.vram_used_bytes
    return total or Unavailable("the driver lists no process of Ollama's")


def smaller_window(need: Need, spilled_bytes: int, window: int | Unavailable) -> int:
    """The window that would not have spilled, down to whole 1,024 tokens; 0 when none would do.

    The KV cache grows with the window in proportion, the rest hardly.
    """
    if isinstance(window, Unavailable) or need.kv_bytes <= 0:
        return 0
    too_many = -(-spilled_bytes * window // need.kv_bytes)
    return max(0, (window - too_many) // 1024 * 1024)
