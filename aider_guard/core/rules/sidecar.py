"""Keeping the sidecar alive: started again with a growing wait, and when it falls silent."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import messages
from aider_guard.core.actions import Action, CancelDeadline, SetDeadline, ShowNotice, StartSidecar
from aider_guard.core.events import (
    AiderStarted,
    DeadlinePassed,
    Event,
    MemoryRead,
    SidecarEvent,
    SidecarLost,
)
from aider_guard.core.rules import Step
from aider_guard.core.state import State

_MAX_WAIT_SECONDS = 30.0
_SAID_AT_FAILURE = 2


def watch(state: State, event: Event, now: float) -> Step:
    """Start the sidecar again when it is gone."""
    match event:
        case SidecarLost(reason):
            return _lost(state, reason, now)
        case DeadlinePassed("sidecar_silent"):
            return _silent(state, now)
        case DeadlinePassed("sidecar_start"):
            return state, (StartSidecar(), _silence(state, now))
        case AiderStarted():
            # The first sidecar starts beside the first Aider: it may never say a word.
            return state, (_silence(state, now),)
        case MemoryRead():
            # It reads and reports: whatever went wrong before is over.
            return replace(state, sidecar_failures=0), (_silence(state, now),)
        case _ if isinstance(event, SidecarEvent):
            return state, (_silence(state, now),)
    return state, ()


def _silence(state: State, now: float) -> SetDeadline:
    return SetDeadline("sidecar_silent", now + state.limits.sidecar_silence_seconds)


def _lost(state: State, reason: str, now: float) -> Step:
    state, said = _failed(state, reason)
    wait = min(0.5 * 2.0 ** min(state.sidecar_failures - 1, 10), _MAX_WAIT_SECONDS)
    again = SetDeadline("sidecar_start", now + wait)
    return state, (CancelDeadline("sidecar_silent"), again, *said)


def _silent(state: State, now: float) -> Step:
    state, said = _failed(state, "the sidecar fell silent")
    return state, (StartSidecar(), _silence(state, now), *said)


def _failed(state: State, reason: str) -> tuple[State, tuple[Action, ...]]:
    state = replace(state, sidecar_failures=state.sidecar_failures + 1)
    if state.sidecar_failures != _SAID_AT_FAILURE:
        return state, ()
    return state, (ShowNotice(messages.sidecar_lost(reason)),)
