"""Keeps the sidecar alive: starts it again when it is lost, with a growing wait, or when it falls silent."""

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
_REPORTED_FAILURE = 2


def watch(state: State, event: Event, now: float) -> Step:
    """Start the sidecar again when it is lost or silent."""
    match event:
        case SidecarLost(reason):
            state, notices = _count_failure(state, reason)
            wait = min(2 ** (state.sidecar_failures - 1), 2 * _MAX_WAIT_SECONDS) / 2
            again = SetDeadline("sidecar_start", now + wait)
            return state, (CancelDeadline("sidecar_silent"), again, *notices)
        case DeadlinePassed("sidecar_silent"):
            state, notices = _count_failure(state, "the sidecar fell silent")
            return state, (StartSidecar(), _silence(state, now), *notices)
        case DeadlinePassed("sidecar_start"):
            return state, (StartSidecar(), _silence(state, now))
        case AiderStarted():
            # The first sidecar starts beside the first Aider: it may never say a word.
            return state, (_silence(state, now),)
        case MemoryRead():
            # It reads and reports again: earlier failures no longer count.
            return replace(state, sidecar_failures=0), (_silence(state, now),)
        case _ if isinstance(event, SidecarEvent):
            return state, (_silence(state, now),)
    return state, ()


def _silence(state: State, now: float) -> SetDeadline:
    return SetDeadline("sidecar_silent", now + state.limits.sidecar_silence_seconds)


def _count_failure(state: State, reason: str) -> tuple[State, tuple[Action, ...]]:
    state = replace(state, sidecar_failures=state.sidecar_failures + 1)
    if state.sidecar_failures != _REPORTED_FAILURE:
        return state, ()
    return state, (ShowNotice(messages.sidecar_lost(reason)),)
