"""Watches memory that runs short, and compares models with their computed need. An old reading causes nothing."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import messages
from aider_guard.core.actions import Action, RememberNeed, ShowNotice
from aider_guard.core.events import (
    DeadlinePassed,
    Event,
    MemoryRead,
    ModelsChosen,
    ModelsRead,
    SidecarLost,
    TurnFinished,
)
from aider_guard.core.fit import Need
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import (
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
    age_seconds,
    share_used_percent,
)
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State

STAYED_SHORT = "memory stayed short"


def watch_pressure(state: State, event: Event, now: float) -> Step:
    """Keep the newest readings; warn once when memory stays short; plan a restart when that persists."""
    match event:
        case ModelsRead(reading):
            return _models_read(state, reading), ()
        case MemoryRead(reading):
            return _memory_read(state, reading, now)
        case SidecarLost(reason):
            return _without_readings(state, reason), ()
        case DeadlinePassed("sidecar_silent"):
            return _without_readings(state, "the sidecar fell silent"), ()
    return state, ()


def _without_readings(state: State, reason: str) -> State:
    lost = Unavailable(reason)
    return replace(state, loaded=lost, memory=lost, pressure_readings=0)


def _models_read(state: State, reading: ModelsReading | Unavailable) -> State:
    state = replace(state, loaded=reading)
    if isinstance(reading, Unavailable) or state.foreign_settled:
        return state
    known = state.foreign_models
    # Until Aider's first prompt no message can be on its way.
    is_first_start = state.phase is Phase.STARTING and state.launch <= 1
    if state.turns or state.requested or (known is not None and not is_first_start):
        return replace(state, foreign_models=known or frozenset(), foreign_settled=True)
    # Models that are loaded before this session's first request belong to other programs. The sidecar reads the list
    # before it loads a model ahead: the first list after that action is the last one without our model.
    names = frozenset(model.name for model in reading.models)
    return replace(state, foreign_models=names, foreign_settled=bool(state.unlisted))


def _memory_read(state: State, reading: MemoryReading, now: float) -> Step:
    state = replace(state, memory=reading)
    if age_seconds(reading.taken_at, now) > state.limits.stale_after_seconds:
        return state, ()
    used = pressure_percent(state, reading)
    if isinstance(used, Unavailable):
        return replace(state, pressure_readings=0), ()
    limits, limit = state.limits, state.limits.vram_warn_at_percent
    if used < limit - limits.hysteresis_percent:
        # Memory always falls when the model is unloaded: a restart has helped only if it is loaded again.
        tried = state.memory_restart_tried and not _works_with_our_models(state)
        return replace(
            state, pressure_readings=0, memory_warned=False, memory_restart_tried=tried
        ), ()
    if used < limit:
        return replace(state, pressure_readings=0), ()
    state = replace(state, pressure_readings=state.pressure_readings + 1)
    could_help = _works_with_our_models(state) and not state.memory_restart_tried
    if state.pressure_readings >= limits.readings_for_restart and could_help:
        # Only once: if memory stays short after a restart, another one would not help either.
        due = state.restart_due or STAYED_SHORT
        return replace(state, restart_due=due, memory_restart_tried=True), ()
    if state.memory_warned or state.pressure_readings < limits.readings_for_pressure:
        return state, ()
    if not isinstance(fullest_memory(state, reading), Gpu):
        reading = replace(reading, gpus=Unavailable("it is the main memory that is full"))
    notice = messages.memory_short(reading, state.loaded, state.main_model)
    return replace(state, memory_warned=True), (ShowNotice(notice),)


def _works_with_our_models(state: State) -> bool:
    ours = isinstance(state.loaded, ModelsReading) and any(
        same_model(model.name, name) for model in state.loaded.models for name in state.models
    )
    return ours and state.turns_in_launch > 0 and state.phase is Phase.RUNNING


def is_short(state: State, now: float) -> bool:
    """Whether memory is above its limit by a fresh reading."""
    if isinstance(state.memory, Unavailable):
        return False
    used = pressure_percent(state, state.memory)
    fresh = age_seconds(state.memory.taken_at, now) <= state.limits.stale_after_seconds
    return fresh and isinstance(used, float) and used >= state.limits.vram_warn_at_percent


def pressure_percent(state: State, reading: MemoryReading) -> float | Unavailable:
    """Return how full the fullest memory is, in per cent, of those that the main model is in or would be loaded to."""
    fullest = fullest_memory(state, reading)
    return fullest if isinstance(fullest, Unavailable) else share_used_percent(fullest)


def fullest_memory(state: State, reading: MemoryReading) -> Gpu | RamReading | Unavailable:
    """Return the memory that is the fullest: a GPU, or the main memory when the model runs on the CPU.

    A model on a GPU that shares the main memory is in both. Where the use of a GPU is not told, what is known to be
    held of it may be enough to say that it is nearly full, and never that it is not.
    """
    gpus = reading.gpus if isinstance(reading.gpus, tuple) else ()
    sized = [gpu for gpu in gpus if gpu.vram_total_bytes > 0]
    memories: list[Gpu | RamReading] = []
    reason = Unavailable("no GPU, and no model is loaded on the CPU")
    if not on_cpu(state):
        for gpu in sized:
            is_enough = share_used_percent(gpu) >= state.limits.vram_warn_at_percent
            if isinstance(gpu.vram_used_bytes, Unavailable) and not is_enough:
                reason = gpu.vram_used_bytes
            else:
                memories.append(gpu)
    if on_cpu(state) or (reading.shares_main_memory and _main_model(state)):
        if isinstance(reading.ram, Unavailable):
            reason = reading.ram
        elif reading.ram.total_bytes > 0:
            memories.append(reading.ram)
    return max(memories, key=share_used_percent, default=reason)


def on_cpu(state: State) -> bool:
    """Whether the main model is loaded and no part of it is on a GPU."""
    ours = _main_model(state)
    return bool(ours) and all(model.vram_bytes == 0 for model in ours)


def _main_model(state: State) -> list[LoadedModel]:
    """The main model as it is loaded; none where it is not."""
    if isinstance(state.loaded, Unavailable):
        return []
    return [model for model in state.loaded.models if same_model(model.name, state.main_model)]


# After the first load: whether the models fit as computed. The difference is kept for the next start.


def compare_with_need(state: State, event: Event, now: float) -> Step:
    """Compare each model of the session once with its computed need."""
    match event:
        case ModelsChosen(needs=needs):
            return replace(state, needs=needs), ()
        case TurnFinished():
            return replace(state, turn_ended_at=now), ()
        case MemoryRead(MemoryReading(gpus=tuple() as gpus) as reading) if gpus:
            if _is_usable(reading, state, now):
                return _compare(state, gpus, now)
    return state, ()


def _is_usable(reading: MemoryReading | ModelsReading, state: State, now: float) -> bool:
    """Whether a reading is fresh and was taken after a turn: before, the model may have been loaded otherwise."""
    is_fresh = age_seconds(reading.taken_at, now) <= state.limits.stale_after_seconds
    return is_fresh and reading.taken_at >= state.turn_ended_at


def _compare(state: State, gpus: tuple[Gpu, ...], now: float) -> Step:
    if not isinstance(state.loaded, ModelsReading) or not _is_usable(state.loaded, state, now):
        return state, ()
    loaded = state.loaded.models
    actions: list[Action] = []
    for model in loaded:
        need = next((need for need in state.needs if same_model(need.name, model.name)), None)
        # Without a byte on a GPU, the user or the server chose to run it on the CPU.
        if need is None or not model.vram_bytes or model.name in state.fit_checked:
            continue
        state = replace(state, fit_checked=state.fit_checked | {model.name})
        spilled = max(0, model.size_bytes - model.vram_bytes)
        # The size in /api/ps leaves the overhead out (in each engine: buffers only, or an estimate of them).
        measured = ollama_bytes(gpus) if len(loaded) == 1 else None
        if not isinstance(measured, int):
            measured = model.vram_bytes + need.overhead_bytes
        actions.append(RememberNeed(need.name, measured + spilled - need.total_bytes))
        if spilled:
            fitting = smaller_window(need, spilled, state.pinned_tokens)
            actions.append(ShowNotice(messages.spilled(model, spilled, fitting)))
    return state, tuple(actions)


def ollama_bytes(gpus: tuple[Gpu, ...]) -> int | Unavailable:
    """Return the memory of Ollama's own processes on all GPUs, by the driver."""
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
    """Return the largest window that would not have spilled, in steps of 1,024 tokens; 0 when none would do.

    The KV cache grows in proportion to the window, the rest hardly at all.
    """
    if isinstance(window, Unavailable) or need.kv_bytes <= 0:
        return 0
    too_many = -(-spilled_bytes * window // need.kv_bytes)
    return max(0, (window - too_many) // 1024 * 1024)
