"""Starts the next Aider ahead of a restart that is near, and clears up behind it when it took the old one's place.

The code of Aider takes seconds to load. One that has loaded it shows its prompt a fraction of a second after the old
one was taken off the terminal. The old one then ends in the background, and the models are unloaded after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aider_guard.core import messages
from aider_guard.core.actions import (
    Action,
    AskStandby,
    CancelDeadline,
    SetDeadline,
    ShowNotice,
    SignalRetired,
    StartStandby,
    StopStandby,
    UnloadModels,
)
from aider_guard.core.chat_contents import session_models
from aider_guard.core.events import (
    AiderRetired,
    DeadlinePassed,
    Event,
    ModelsUnloaded,
    RetiredExited,
    SidecarLost,
    StandbyLost,
    StandbyReady,
)
from aider_guard.core.readings import MemoryReading, RamReading, age_seconds
from aider_guard.core.rules import Step, memory
from aider_guard.core.state import Phase, State

_MOST_FAILURES = 2
_SLOW, _STOP, _KILL, _UNLOAD = "standby", "retired_stop", "retired_kill", "retired_unload"


def note(state: State, event: Event, now: float) -> Step:
    """Keep track of the Aider that was started ahead, and of the one that is ending behind the new one."""
    match event:
        case StandbyReady() if state.standby.stage == "starting":
            return _with_standby(state, stage="ready"), (CancelDeadline(_SLOW),)
        case StandbyLost() if state.standby.stage != "none":
            return _failed(state), (CancelDeadline(_SLOW),)
        case DeadlinePassed("standby") if state.standby.stage == "starting":
            return _failed(state), (StopStandby(),)
        case AiderRetired():
            state = replace(state, retired="ending")
            return state, (SetDeadline(_STOP, now + state.limits.stop_wait_seconds),)
    return (state, ()) if state.retired == "none" else _clear_up(state, event, now)


def start(state: State, _event: Event, now: float) -> Step:
    """Start the next Aider ahead when a restart is near; end it where none is any more, or memory runs short.

    One that was asked and did not take over, as the user typed, knows old settings: another is started.
    """
    if is_wanted(state, now):
        slow = SetDeadline(_SLOW, now + state.limits.standby_wait_seconds)
        return _with_standby(state, stage="starting"), (StartStandby(), slow)
    if state.standby.stage == "none" or state.phase is not Phase.RUNNING:
        return state, ()
    available = _available_bytes(state, now)
    has_memory = available is None or available >= state.limits.standby_least_bytes
    if _is_near(state) and has_memory and state.standby.stage != "asked":
        return state, ()
    return _with_standby(state, stage="none"), (CancelDeadline(_SLOW), StopStandby())


def is_wanted(state: State, now: float) -> bool:
    """Whether an Aider is to be started ahead now.

    Two are there at the same time then: without a fresh reading that memory is there, none is started.
    """
    return (
        state.phase is Phase.RUNNING
        and state.standby.stage == "none"
        and state.standby.failures < _MOST_FAILURES
        and state.retired == "none"
        and not state.plain_input
        and _is_near(state)
        and (_available_bytes(state, now) or 0) >= state.limits.standby_needs_bytes
    )


def is_awaited(state: State, now: float) -> bool:
    """Whether a restart that is due waits for the Aider that is started ahead, or for the one before to be gone."""
    waits = state.standby.stage in ("starting", "asked") or is_wanted(state, now)
    return state.retired != "none" or (waits and state.restart_due != memory.STAYED_SHORT)


def ask(state: State) -> Step:
    """Have the one that is ready read the settings while the old one saves its chat."""
    if state.standby.stage != "ready" or state.restart_due == memory.STAYED_SHORT:
        return state, ()
    return _with_standby(state, stage="asked"), (AskStandby(),)


def take(state: State) -> tuple[State, bool, tuple[Action, ...]]:
    """Let a start use the Aider that is ready; one that is not ready yet is ended. Returns whether it is used."""
    stage = state.standby.stage
    ended = (CancelDeadline(_SLOW), StopStandby()) if stage == "starting" else ()
    return _with_standby(state, stage="none"), stage in ("ready", "asked"), ended


def _is_near(state: State) -> bool:
    """Whether a restart is due, or will be after the next turn. One against short memory frees that first."""
    limit = state.limits.max_turns
    is_due = state.restart_due not in ("", memory.STAYED_SHORT)
    return is_due or 0 < limit <= state.turns_in_launch + 1


def _available_bytes(state: State, now: float) -> int | None:
    """The main memory that is available; None where no fresh reading tells."""
    match state.memory:
        case MemoryReading(ram=RamReading(available_bytes=available), taken_at=taken_at):
            if age_seconds(taken_at, now) <= state.limits.stale_after_seconds:
                return available
    return None


def _with_standby(state: State, **changes: Any) -> State:
    return replace(state, standby=replace(state.standby, **changes))


def _failed(state: State) -> State:
    return _with_standby(state, stage="none", failures=state.standby.failures + 1)


def _clear_up(state: State, event: Event, now: float) -> Step:
    match event:
        case DeadlinePassed("retired_stop"):
            kill = SetDeadline(_KILL, now + state.limits.kill_wait_seconds)
            return state, (SignalRetired("TERM"), kill)
        case DeadlinePassed("retired_kill"):
            return state, (SignalRetired("KILL"),)
        case RetiredExited():
            state, actions = _unload(state, now)
            return state, (CancelDeadline(_STOP), CancelDeadline(_KILL), *actions)
        case ModelsUnloaded() | SidecarLost() | DeadlinePassed("retired_unload") if (
            state.retired == "unloading"
        ):
            freed = isinstance(event, ModelsUnloaded) and messages.freed_behind(event)
            notice = (ShowNotice(freed),) if freed else ()
            return replace(state, retired="none"), (CancelDeadline(_UNLOAD), *notice)
    return state, ()


def _unload(state: State, now: float) -> Step:
    """Unload the models, unless a message is on its way: it would have to wait for its model."""
    is_idle = state.phase is Phase.STARTING or state.prompt is not None
    names = session_models(state, now) if is_idle and not state.open_requests else ()
    if not names:
        return replace(state, retired="none"), ()
    wait = state.limits.unload_wait_seconds
    unload = (UnloadModels(names, wait), SetDeadline(_UNLOAD, now + wait + 2.0))
    return replace(state, retired="unloading"), unload
