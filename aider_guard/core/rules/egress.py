"""The air gap: each attempt is counted, and the first one to a new destination is said at the next prompt."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import egress_sentences
from aider_guard.core.actions import SetDeadline, ShowNotice
from aider_guard.core.egress_events import AirGapChosen, EgressAllowed, EgressBlocked
from aider_guard.core.egress_ledger import with_allowed, with_blocked
from aider_guard.core.events import DeadlinePassed, Event, LaunchForbidden, PromptShown
from aider_guard.core.rules import Step
from aider_guard.core.state import State

GATHERED = "egress_gathered"
_GATHER_SECONDS = 1.0
"""Attempts come in bunches, a lookup and then the connection: at an open prompt they are said together."""
_SAID_AT_MOST = 5


def note(state: State, event: Event, now: float) -> Step:
    """Count; nothing is said here."""
    del now
    ledger = state.egress
    match event:
        case AirGapChosen(layer, because):
            return replace(state, egress=replace(ledger, layer=layer, because=because)), ()
        case EgressBlocked():
            return replace(state, egress=with_blocked(ledger, event)), ()
        case EgressAllowed():
            return replace(state, egress=with_allowed(ledger, event)), ()
        case LaunchForbidden():
            return replace(state, egress=replace(ledger, began=False)), ()
    return state, ()


def watch(state: State, event: Event, now: float) -> Step:
    """Count, and say what is new where a prompt is shown."""
    had_news = bool(state.egress.untold)
    state, _ = note(state, event, now)
    match event:
        case EgressBlocked() if state.egress.untold and not had_news and state.prompt is not None:
            return state, (SetDeadline(GATHERED, now + _GATHER_SECONDS),)
        case PromptShown():
            return _say(state)
        case DeadlinePassed("egress_gathered") if state.prompt is not None:
            return _say(state)
    return state, ()


def _say(state: State) -> Step:
    ledger = state.egress
    news = ledger.news()
    if not ledger.untold:
        return state, ()
    state = replace(state, egress=replace(ledger, untold=()))
    if not news or ledger.layer == "open" or ledger.notices > _SAID_AT_MOST:
        return state, ()
    state = replace(state, egress=replace(state.egress, notices=ledger.notices + 1))
    if ledger.notices == _SAID_AT_MOST:
        return state, (ShowNotice(egress_sentences.no_more()),)
    return state, (ShowNotice(egress_sentences.attempts(ledger, news)),)
