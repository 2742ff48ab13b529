"""What Ollama has loaded, and memory that runs short. An absent or old reading never does anything."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import ShowNotice
from aider_guard.core.events import DeadlinePassed, Event
from aider_guard.core.readings import MemoryReading, ModelsReading, Unavailable, age_seconds
from aider_guard.core.rules import Step
from aider_guard.core.sidecar_events import MemoryRead, ModelsRead, SidecarLost
from aider_guard.core.state import Phase, State, same_model

STAYED_SHORT = "memory stayed short"


def watch(state: State, event: Event, now: float) -> Step:
    """Keep the newest readings; warn once when memory stays short; ask for a restart when it persists."""
    match event:
        case ModelsRead(reading):
            return _models_read(state, reading), ()
        case MemoryRead(reading):
            return _memory_read(state, reading, now)
        case SidecarLost(reason):
            return _nothing_known(state, reason), ()
        case DeadlinePassed("sidecar_silent"):
            return _nothing_known(state, "the sidecar fell silent"), ()
    return state, ()


def _nothing_known(state: State, reason: str) -> State:
    lost = Unavailable(reason)
    return replace(state, loaded=lost, memory=lost, pressure_readings=0)


def _models_read(state: State, reading: ModelsReading | Unavailable) -> State:
    state = replace(state, loaded=reading)
    if isinstance(reading, Unavailable) or state.foreign_settled:
        return state
    known = state.foreign_models
    if state.turns or state.asked_for or (known is not None and not _is_first_start(state)):
        return replace(state, foreign_models=known or frozenset(), foreign_settled=True)
    # What is loaded before we asked for anything was loaded by somebody else. The sidecar reads the list before it
    # loads a model ahead: the first one after it was told to is the last one without our model.
    names = frozenset(model.name for model in reading.models)
    return replace(state, foreign_models=names, foreign_settled=bool(state.unlisted))


def _is_first_start(state: State) -> bool:
    """Whether Aider has not shown its first prompt, so that no message can be on its way."""
    return state.phase is Phase.STARTING and state.launch <= 1


def _memory_read(state: State, reading: MemoryReading, now: float) -> Step:
    state = replace(state, memory=reading)
    if age_seconds(reading.taken_at, now) > state.limits.stale_after_seconds:
        return state, ()
    used = pressure_percent(state, reading)
    if isinstance(used, Unavailable):
        return replace(state, pressure_readings=0), ()
    limit = state.limits.vram_warn_at_percent
    if used < limit - state.limits.hysteresis_percent:
        # With the model unloaded memory falls always: only with the model loaded again a restart has helped.
        tried = state.memory_restart_tried and not _works_with_our_models(state)
        return replace(
            state, pressure_readings=0, memory_warned=False, memory_restart_tried=tried
        ), ()
    if used < limit:
        return replace(state, pressure_readings=0), ()
    return _under_pressure(replace(state, pressure_readings=state.pressure_readings + 1), reading)


def _under_pressure(state: State, reading: MemoryReading) -> Step:
    limits = state.limits
    if state.pressure_readings >= limits.readings_for_restart and _restart_could_help(state):
        # Once only: when memory stays short after a restart, another one would not help either.
        due = state.restart_due or STAYED_SHORT
        return replace(state, restart_due=due, memory_restart_tried=True), ()
    if state.memory_warned or state.pressure_readings < limits.readings_for_pressure:
        return state, ()
    notice = sentences.memory_short(reading, state.loaded, state.main_model)
    return replace(state, memory_warned=True), (ShowNotice(notice),)


def _restart_could_help(state: State) -> bool:
    return _works_with_our_models(state) and not state.memory_restart_tried


def _works_with_our_models(state: State) -> bool:
    ours = isinstance(state.loaded, ModelsReading) and any(
        same_model(model.name, name) for model in state.loaded.models for name in state.models
    )
    return ours and state.turns_in_launch > 0 and state.phase is Phase.RUNNING


def is_short(state: State, now: float) -> bool:
    """Whether memory is above its limit by a reading that is not old."""
    if isinstance(state.memory, Unavailable):
        return False
    used = pressure_percent(state, state.memory)
    fresh = age_seconds(state.memory.taken_at, now) <= state.limits.stale_after_seconds
    return fresh and isinstance(used, float) and used >= state.limits.vram_warn_at_percent


def pressure_percent(state: State, reading: MemoryReading) -> float | Unavailable:
    """How full the fullest GPU is, in per cent; the main memory instead when the model runs on the CPU."""
    gpus = reading.gpus if isinstance(reading.gpus, tuple) else ()
    sized = [gpu for gpu in gpus if gpu.vram_total_bytes > 0]
    if sized and not on_cpu(state):
        return max(100.0 * gpu.vram_used_bytes / gpu.vram_total_bytes for gpu in sized)
    if isinstance(reading.ram, Unavailable):
        return reading.ram
    if not on_cpu(state) or reading.ram.total_bytes <= 0:
        return Unavailable("no GPU, and no model is loaded on the CPU")
    return 100.0 * (reading.ram.total_bytes - reading.ram.available_bytes) / reading.ram.total_bytes


def on_cpu(state: State) -> bool:
    """Whether the main model is loaded and no part of it is on a GPU."""
    if isinstance(state.loaded, Unavailable):
        return False
    ours = [model for model in state.loaded.models if same_model(model.name, state.main_model)]
    return bool(ours) and all(model.vram_bytes == 0 for model in ours)
