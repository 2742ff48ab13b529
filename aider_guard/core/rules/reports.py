"""Decides which notices on requests, on the air gap and on findings are shown, and how often."""

from __future__ import annotations

import re
from dataclasses import replace

from aider_guard.core import egress_messages, messages
from aider_guard.core.actions import Notice, SetDeadline, ShowNotice, ShowTitle
from aider_guard.core.chat import messages as chat_messages
from aider_guard.core.chat import rereading
from aider_guard.core.chat.events import (
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    ReloadSeen,
    RequestFinished,
    RequestRefused,
)
from aider_guard.core.chat.pace import title_words
from aider_guard.core.chat.types import CONVERSATION
from aider_guard.core.chat_contents import advise_room, newest_rows, rows_of_request
from aider_guard.core.drop_advice import Advice
from aider_guard.core.events import (
    AiderExited,
    AirGapChosen,
    DeadlinePassed,
    EgressAllowed,
    EgressBlocked,
    Event,
    LaunchForbidden,
    PromptShown,
    SidecarLost,
    TurnFinished,
)
from aider_guard.core.findings import ELSEWHERE, Finding
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import State, with_allowed, with_blocked

_NEAR = 0.75
"""The share of the window above which a prompt may have been cut: the rest of one rarely has fewer tokens."""

_LEFT_OUT = "left out"
"""Shown once after each refusal: the message stays in the chat, and does not fit the next time either."""

_DIGITS = re.compile(r"\d[\d.,]*")


def report_traffic(state: State, event: Event, _now: float) -> Step:
    """Report what the user cannot see: each once a turn, or once a session where a repetition says nothing new."""
    match event:
        case RequestFinished():
            state, broken = _report_broken(state, event)
            state, more = _report_request(state, event)
            return state, broken + more
        case ReloadSeen(cause=cause):
            # "it was not used for 31 minutes" and for 32 are one cause.
            once = f"reload: {_DIGITS.sub('', cause)}"
            return _report_once(state, once, chat_messages.reload_seen(event))
        case PromptReread(cause=cause):
            state, shown = _report_once(
                state, f"read again: {cause}", rereading.prompt_reread(event)
            )
            state, more = _note_map(state, event)
            return state, (*shown, *more)
        case TurnFinished():
            return replace(state, map_seconds=(*state.map_seconds, 0.0)[-rereading.MAP_TURNS :]), ()
        case RequestRefused(purpose="commit"):
            return _report_in_turn(state, "commit", chat_messages.request_refused(event))
        case RequestRefused(purpose="summary"):
            # Aider tries again after each turn.
            once = f"summary: {event.reason}"
            return _report_once(state, once, chat_messages.request_refused(event))
        case RequestRefused(reason="overflow"):
            return replace(state, reported=state.reported - {_LEFT_OUT}), ()
    return state, ()


def follow_reading(state: State, event: Event, _now: float) -> Step:
    """Keep how far a long prompt is read, and show it as the terminal's title until the answer begins."""
    match event:
        case ReadingEstimated():
            return replace(state, reading=event), (ShowTitle(title_words(event)),)
        case ReadingFinished(number) | RequestFinished(number) | RequestRefused(number):
            is_over = state.reading is not None and state.reading.number == number
        case SidecarLost() | DeadlinePassed("sidecar_silent") | PromptShown() | AiderExited():
            is_over = True  # Aider waits no longer, or no report on it comes any more
        case _:
            is_over = False
    if state.reading is None or not is_over:
        return state, ()
    return replace(state, reading=None), (ShowTitle(""),)


def _report_broken(state: State, event: RequestFinished) -> Step:
    if not event.broke_off:
        return state, ()
    notice = chat_messages.answer_broke_off(event)
    return _report_in_turn(state, f"broke off: {event.purpose}", notice)


def _report_request(state: State, event: RequestFinished) -> Step:
    is_of_the_user, window = event.purpose in CONVERSATION, event.window_tokens
    if event.verdict.outcome == "cut":
        notice = chat_messages.truncation_seen(event, _advice(state, event))
        if is_of_the_user and event.role == "main":
            state = replace(state, warned=True)  # the notice on a filling window would say less
        return _report_in_turn(state, f"{event.role} {event.purpose}", notice)
    is_near = isinstance(window, int) and any(n >= _NEAR * window for n in event.known_sizes)
    if event.verdict.outcome == "unknown" and is_near:
        notice = chat_messages.truncation_unknown(event, _advice(state, event))
        return _report_once(state, "unknown", notice)
    if event.left_out and is_of_the_user:
        return _report_once(state, _LEFT_OUT, chat_messages.message_left_out(event))
    return state, ()


def _note_map(state: State, event: PromptReread) -> Step:
    """Add what a changed map cost to its turn, and report it when most turns pay for it."""
    if event.cause != "map" or isinstance(event.seconds, Unavailable):
        return state, ()
    *before, now = state.map_seconds
    state = replace(state, map_seconds=(*before, now + event.seconds))
    if not state.map_follows_words or not rereading.changes_often(state.map_seconds):
        return state, ()
    return _report_once(state, "map changes", rereading.map_changes(state.map_seconds))


def _report_once(state: State, what: str, notice: Notice) -> Step:
    if what in state.reported:
        return state, ()
    return replace(state, reported=state.reported | {what}), (ShowNotice(notice),)


def _report_in_turn(state: State, what: str, notice: Notice) -> Step:
    if what in state.reported_in_turn:
        return state, ()
    return replace(state, reported_in_turn=state.reported_in_turn | {what}), (ShowNotice(notice),)


def _advice(state: State, event: RequestFinished) -> Advice | None:
    """Return what the user could have dropped from the chat to make room for this request."""
    window = event.window_tokens
    known = event.known_sizes
    if event.purpose not in CONVERSATION or not isinstance(window, int) or window <= 0 or not known:
        return None
    answer = event.answer_tokens if isinstance(event.answer_tokens, int) else 0
    rows = rows_of_request(event.parts, max(known), answer) or newest_rows(state)
    return advise_room(state, rows, max(known) + answer, window)


# The air gap: each attempt is counted, and the first one to a new destination is reported at the next prompt.

GATHERED = "egress_gathered"
_GATHER_SECONDS = 1.0
"""Attempts come in bunches, a lookup and then the connection: at an open prompt they are reported together."""
_MOST_EGRESS_NOTICES = 5


def note_egress(state: State, event: Event, _now: float) -> Step:
    """Count attempts; nothing is reported here."""
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


def report_egress(state: State, event: Event, now: float) -> Step:
    """Count attempts, and report new destinations where a prompt is shown."""
    had_news = bool(state.egress.unreported)
    state, _ = note_egress(state, event, now)
    match event:
        case EgressBlocked() if state.egress.unreported and not had_news and state.prompt:
            return state, (SetDeadline(GATHERED, now + _GATHER_SECONDS),)
        case PromptShown():
            return _report_attempts(state)
        case DeadlinePassed("egress_gathered") if state.prompt:
            return _report_attempts(state)
    return state, ()


def _report_attempts(state: State) -> Step:
    ledger = state.egress
    news = ledger.news()
    if not ledger.unreported:
        return state, ()
    state = replace(state, egress=replace(ledger, unreported=()))
    if not news or ledger.layer == "open" or ledger.notices > _MOST_EGRESS_NOTICES:
        return state, ()
    state = replace(state, egress=replace(state.egress, notices=ledger.notices + 1))
    if ledger.notices == _MOST_EGRESS_NOTICES:
        return state, (ShowNotice(egress_messages.no_more()),)
    return state, (ShowNotice(egress_messages.attempts(ledger, news)),)


def greet(state: State, event: Event, _now: float) -> Step:
    """Say once, at the session's first prompt, what holds."""
    match event:
        case Finding(id=found, severity="info") if found in ELSEWHERE:
            return replace(state, leads_elsewhere=True), ()
        case PromptShown() if state.limits.greets:
            return _report_once(state, "greeting", messages.greeting(state))
    return state, ()


# Warnings of the checks before the first prompt: two are shown in a session, then where the others are.

_MOST_FINDINGS = 2


def report_finding(state: State, event: Event, _now: float) -> Step:
    """Report a warning that was not reported yet."""
    reported = state.reported_findings
    if not isinstance(event, Finding) or event.severity != "warn" or event.id in reported:
        return state, ()
    state = replace(state, reported_findings=reported | {event.id})
    if len(reported) < _MOST_FINDINGS:
        return state, (ShowNotice(messages.finding_notice(event)),)
    if len(reported) == _MOST_FINDINGS:
        return state, (ShowNotice(messages.more_found()),)
    return state, ()
