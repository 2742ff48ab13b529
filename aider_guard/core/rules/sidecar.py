"""Keeping the sidecar alive: started again with a growing wait, and when it falls silent."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import SetDeadline, ShowNotice, StartSidecar
from aider_guard.core.events import (
    DeadlinePassed,
    Event,
    FilesCounted,
    MemoryRead,
    ModelDescribed,
    ModelsRead,
    ModelsUnloaded,
    ServerRead,
    SidecarLost,
    SidecarStarted,
    TextsCounted,
)
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State

_HEARD = (
    SidecarStarted,
    ServerRead,
    ModelsRead,
    MemoryRead,
    ModelDescribed,
    FilesCounted,
    TextsCounted,
    ModelsUnloaded,
)
_MAX_WAIT_SECONDS = 30.0
_SAID_AT_FAILURE = 2


def watch(state: State, event: Event, now: float) -> Step:
    """Start the sidecar again when it is gone."""
    if state.phase in (Phase.ENDING, Phase.ENDED):
        return state, ()
    match event:
        case SidecarLost(reason):
            return _lost(state, reason, now)
        case DeadlinePassed("sidecar_start" | "sidecar_silent"):
            return state, (StartSidecar(),)
        case MemoryRead():
            # It reads and reports: whatever went wrong before is over.
            return replace(state, sidecar_failures=0), (_silence(state, now),)
        case _ if isinstance(event, _HEARD):
            return state, (_silence(state, now),)
    return state, ()


def _silence(state: State, now: float) -> SetDeadline:
    return SetDeadline("sidecar_silent", now + state.limits.sidecar_silence_seconds)


def _lost(state: State, reason: str, now: float) -> Step:
    failures = state.sidecar_failures + 1
    wait = min(0.5 * 2.0 ** (failures - 1), _MAX_WAIT_SECONDS)
    state = replace(state, sidecar_failures=failures)
    again = SetDeadline("sidecar_start", now + wait)
    if failures == _SAID_AT_FAILURE:
        return state, (again, ShowNotice(sentences.sidecar_lost(reason)))
    return state, (again,)
