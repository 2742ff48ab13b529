"""What the checks before the first prompt found, said once a session: two at most, and where the rest is."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import ShowNotice
from aider_guard.core.events import Event
from aider_guard.core.findings import Finding
from aider_guard.core.rules import Step
from aider_guard.core.state import State

_SAID_AT_MOST = 2


def note(state: State, event: Event, _now: float) -> Step:
    """Say a warning that was not said yet."""
    if not isinstance(event, Finding) or event.severity != "warn" or event.id in state.warned_of:
        return state, ()
    state = replace(state, warned_of=state.warned_of | {event.id})
    if len(state.warned_of) <= _SAID_AT_MOST:
        return state, (ShowNotice(sentences.found(event)),)
    if len(state.warned_of) == _SAID_AT_MOST + 1:
        return state, (ShowNotice(sentences.more_found()),)
    return state, ()
