"""What Ollama has loaded, and memory that runs short. An absent or old reading never does anything."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import ShowNotice
from aider_guard.core.events import Event, MemoryRead, ModelsRead, NoticeShown, SidecarLost
from aider_guard.core.readings import MemoryReading, ModelsReading, Unavailable, age_seconds
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State, same_model


def watch(state: State, event: Event, now: float) -> Step:
    """Keep the newest readings; warn once when memory stays short; ask for a restart when it persists."""
    match event:
        case ModelsRead(reading):
            return _models_read(state, reading), ()
        case MemoryRead(reading):
            return _memory_read(state, reading, now)
        case SidecarLost(reason):
            lost = Unavailable(reason)
            return replace(state, loaded=lost, memory=lost, pressure_readings=0), ()
        case NoticeShown():
            return state, ()
    return state, ()


def _models_read(state: State, reading: ModelsReading | Unavailable) -> State:
    foreign = state.foreign_models
    if isinstance(reading, ModelsReading) and foreign is None:
        # What is loaded before our first message went out was loaded by somebody else.
        foreign = (
            frozenset(model.name for model in reading.models) if not state.turns else frozenset()
        )
    return replace(state, loaded=reading, foreign_models=foreign)


def _memory_read(state: State, reading: MemoryReading, now: float) -> Step:
    state = replace(state, memory=reading)
    if age_seconds(reading.taken_at, now) > state.limits.stale_after_seconds:
        return state, ()
    used = pressure_percent(state, reading)
    if isinstance(used, Unavailable):
        return replace(state, pressure_readings=0), ()
    limit = state.limits.vram_warn_at_percent
    if used < limit - state.limits.hysteresis_percent:
        return replace(
            state, pressure_readings=0, memory_warned=False, memory_restart_tried=False
        ), ()
    if used < limit:
        return replace(state, pressure_readings=0), ()
    return _under_pressure(replace(state, pressure_readings=state.pressure_readings + 1), reading)


def _under_pressure(state: State, reading: MemoryReading) -> Step:
    limits = state.limits
    if state.pressure_readings >= limits.readings_for_restart and _restart_could_help(state):
        # Once only: when memory stays short after a restart, another one would not help either.
        return replace(state, restart_due="memory stayed short", memory_restart_tried=True), ()
    if state.memory_warned or state.pressure_readings < limits.readings_for_pressure:
        return state, ()
    notice = sentences.memory_short(reading, state.loaded, state.main_model)
    return replace(state, memory_warned=True), (ShowNotice(notice),)


def _restart_could_help(state: State) -> bool:
    ours = isinstance(state.loaded, ModelsReading) and any(
        same_model(model.name, name) for model in state.loaded.models for name in state.models
    )
    return (
        ours
        and state.turns_in_launch > 0
        and not state.memory_restart_tried
        and state.phase is Phase.RUNNING
    )


def pressure_percent(state: State, reading: MemoryReading) -> float | Unavailable:
    """How full the fullest GPU is, in per cent; the main memory instead when the model runs on the CPU."""
    if isinstance(reading.gpus, tuple) and reading.gpus and not on_cpu(state):
        return max(
            100.0 * gpu.vram_used_bytes / gpu.vram_total_bytes
            for gpu in reading.gpus
            if gpu.vram_total_bytes
        )
    if isinstance(reading.ram, Unavailable):
        return reading.ram
    if not on_cpu(state):
        return Unavailable("no GPU, and no model is loaded on the CPU")
    return 100.0 * (reading.ram.total_bytes - reading.ram.available_bytes) / reading.ram.total_bytes


def on_cpu(state: State) -> bool:
    """Whether the main model is loaded and no part of it is on a GPU."""
    if isinstance(state.loaded, Unavailable):
        return False
    ours = [model for model in state.loaded.models if same_model(model.name, state.main_model)]
    return bool(ours) and all(model.vram_bytes == 0 for model in ours)
