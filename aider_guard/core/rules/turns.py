"""Counting turns: from one main prompt to the next, if a message went to a model between them.

A message that the door refused is no turn: nothing reached the model, no window fills and no model grows old by it, so
it counts neither towards ``max-turns`` nor as sent, though Aider's log says that it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

from aider_guard.core.actions import Announce, RingBell
from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chat.types import CONVERSATION
from aider_guard.core.events import (
    AiderLogged,
    AiderStarted,
    ConfirmShown,
    DeadlinePassed,
    Event,
    JobContinued,
    PromptClosed,
    PromptShown,
    SidecarLost,
    SidecarStarted,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State, TurnReports, fill_percent

_ON_ITS_OWN = ("commit", "summary")
"""What Aider asks for without a message of the user's."""
_Number = TypeVar("_Number", int, float)


def note_reports(state: State, event: Event, _now: float) -> Step:
    """Keep what the door and Aider report of the turn up to date. The door's may come a moment after the prompt."""
    turn = state.turn
    match event:
        case RequestStarted(number=number, purpose=purpose) if purpose in CONVERSATION:
            return replace(state, open_requests=state.open_requests | {number}), ()
        case RequestFinished():
            return _closed(state, event, _finished(turn, event)), ()
        case RequestRefused(number=0):
            pass  # not for text, and not Aider's: a program's that runs inside
        case RequestRefused():
            is_message = event.purpose not in _ON_ITS_OWN
            return _closed(state, event, replace(turn, refused=turn.refused or is_message)), ()
        case SidecarStarted() | SidecarLost() | DeadlinePassed("sidecar_silent") | PromptClosed():
            # No report on these comes any more, or too late for what was waited for; the message went out all the same.
            lost = replace(turn, lost=turn.lost or bool(state.open_requests))
            return replace(state, open_requests=frozenset(), turn=lost), ()
        case AiderStarted():
            return replace(state, open_requests=frozenset(), turn=TurnReports()), ()
        case TurnFinished():
            return replace(state, last_turn=event), ()
        case TurnStarted():
            return replace(state, turn=replace(turn, started=True)), ()
        case AiderLogged():
            # The main prompt is back. Without a message, what was reported since the last one belongs to no turn.
            if event.requests or state.open_requests or turn.answered:
                return replace(state, turn=replace(turn, started=False, logged=event)), ()
            return replace(state, turn=TurnReports()), ()
    return state, ()


def _closed(state: State, event: RequestFinished | RequestRefused, turn: TurnReports) -> State:
    return replace(state, open_requests=state.open_requests - {event.number}, turn=turn)


def _finished(turn: TurnReports, event: RequestFinished) -> TurnReports:
    totals = turn.totals
    return replace(
        turn,
        reached=turn.reached or event.purpose not in _ON_ITS_OWN,
        answered=turn.answered or (event.purpose in CONVERSATION and event.outcome == "answered"),
        totals=replace(
            totals,
            requests=totals.requests + 1,
            prompt_tokens=_sum(totals.prompt_tokens, event.prompt_tokens),
            cached_tokens=_sum(totals.cached_tokens, event.cached_tokens),
            read_tokens=_sum(totals.read_tokens, event.read_tokens),
            answer_tokens=_sum(totals.answer_tokens, event.answer_tokens),
            load_seconds=_sum(totals.load_seconds, event.load_seconds),
            prefill_seconds=_sum(totals.prefill_seconds, event.prefill_seconds),
            generation_seconds=_sum(totals.generation_seconds, event.generation_seconds),
        ),
    )


def _sum(total: _Number | Unavailable, number: _Number | Unavailable) -> _Number | Unavailable:
    """Of what is known; rounded to the microsecond, so that a sum of seconds stays readable."""
    if isinstance(number, Unavailable):
        return total
    return round(number if isinstance(total, Unavailable) else total + number, 6)


def ring(state: State, event: Event, now: float) -> Step:
    """Ring when the user had to wait for long until a turn was over, or until Aider asks something in it."""
    since = state.working_since
    match event:
        case _ if not state.limits.notify_after_seconds:
            pass
        case PromptClosed():
            return replace(state, working_since=now, worked_seconds=0.0), ()
        case AiderStarted():
            return replace(state, working_since=None, worked_seconds=0.0), ()
        case JobContinued(stopped_seconds) if since is not None:
            return replace(state, working_since=since + stopped_seconds), ()
        case PromptShown() if since is not None:
            return replace(state, working_since=None, worked_seconds=now - since), ()
        case ConfirmShown() if since is not None and _is_turn(state):
            return _rung(replace(state, working_since=None), "question", now - since)
        case TurnFinished():
            return _rung(replace(state, worked_seconds=0.0), "turn_finished", state.worked_seconds)
    return state, ()


def _is_turn(state: State) -> bool:
    return state.turn.started or state.turn.reached or bool(state.open_requests)


def _rung(state: State, reason: Literal["turn_finished", "question"], seconds: float) -> Step:
    if seconds < state.limits.notify_after_seconds:
        return state, ()
    return state, (RingBell(reason, round(seconds, 1), state.main_model, fill_percent(state)),)


def has_begun(state: State, *, logged_requests: int) -> bool:
    """Whether a turn began that was not announced yet: Aider logged a request of it, or the door reported one."""
    return not state.turn.started and bool(logged_requests or state.open_requests)


def finish_turn(state: State, _event: Event, _now: float) -> Step:
    """Announce the end of a turn: the main prompt is back, and all of its requests were reported on.

    Reports may come a moment after the prompt. One that does not come at all is waited for until the user's next
    message.
    """
    turn, logged = state.turn, state.turn.logged
    if logged is None or state.open_requests or state.phase is Phase.ENDED:
        return state, ()
    state = replace(state, turn=TurnReports(started=turn.started))
    was_refused = turn.refused and not (turn.reached or turn.lost)
    if was_refused or not (logged.requests or turn.answered):
        return state, ()
    finished = replace(
        turn.totals,
        requests=turn.totals.requests or logged.requests,
        sent_tokens=logged.sent_tokens,
        received_tokens=logged.received_tokens,
        mentioned=logged.mentioned,
    )
    return state, (Announce(finished),)
