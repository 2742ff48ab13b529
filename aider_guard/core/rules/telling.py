"""What is said of the traffic: prompts that were cut, models loaded again, and what was refused out of sight."""

from __future__ import annotations

import re
from dataclasses import replace

from aider_guard.core.actions import Notice, ShowNotice
from aider_guard.core.advice import Advice
from aider_guard.core.events import (
    Event,
)
from aider_guard.core.filling import advise_room, newest_rows, rows_of_request
from aider_guard.core.readings import ContextRow
from aider_guard.core.rules import Step
from aider_guard.core.rules.traffic import CONVERSATION
from aider_guard.core.state import State
from aider_guard.core.traffic import sentences
from aider_guard.core.traffic.events import (
    ReloadSeen,
    RequestFinished,
    RequestRefused,
)

_NEAR = 0.75
"""Of the window: whole messages are dropped until the rest fits, and the rest is then rarely smaller than this."""

_LEFT_OUT = "left out"
"""Said once after each refusal: the message stays in the chat, and does not fit the next time either."""

_DIGITS = re.compile(r"\d[\d.,]*")


def watch(state: State, event: Event, now: float) -> Step:
    """Say what the user cannot see: each once a turn, or once a session where it says nothing new."""
    del now
    match event:
        case RequestFinished():
            return _finished(state, event)
        case ReloadSeen(cause=cause):
            # "It was not used for 31 min" and for 32 are one cause.
            return _say(state, f"reload: {_DIGITS.sub('', cause)}", sentences.reload_seen(event))
        case RequestRefused(purpose="commit"):
            return _say_in_turn(state, "commit", sentences.request_refused(event))
        case RequestRefused(purpose="summary"):
            # Aider tries it again after each turn.
            return _say(state, f"summary: {event.reason}", sentences.request_refused(event))
        case RequestRefused(reason="overflow"):
            return replace(state, told=state.told - {_LEFT_OUT}), ()
    return state, ()


def _finished(state: State, event: RequestFinished) -> Step:
    if event.verdict.outcome == "cut":
        return _cut(state, event)
    if event.verdict.outcome == "unknown" and _is_near(event):
        return _say(state, "unknown", sentences.truncation_unknown(event, _advice(state, event)))
    if event.left_out and event.purpose in CONVERSATION:
        return _say(state, _LEFT_OUT, sentences.message_left_out(event))
    return state, ()


def _cut(state: State, event: RequestFinished) -> Step:
    what = f"{event.role} {event.purpose}"
    notice = sentences.truncation_seen(event, _advice(state, event))
    if event.purpose in CONVERSATION and event.role == "main":
        state = replace(state, warned=True)  # this says more than that the window fills up
    return _say_in_turn(state, what, notice)


def _say(state: State, what: str, notice: Notice) -> Step:
    if what in state.told:
        return state, ()
    return replace(state, told=state.told | {what}), (ShowNotice(notice),)


def _say_in_turn(state: State, what: str, notice: Notice) -> Step:
    if what in state.told_this_turn:
        return state, ()
    return replace(state, told_this_turn=state.told_this_turn | {what}), (ShowNotice(notice),)


def _is_near(event: RequestFinished) -> bool:
    """Whether the prompt was so large that something may have been cut."""
    window = event.window_tokens
    known = [n for n in (event.prompt_tokens, event.counted_tokens) if isinstance(n, int)]
    return isinstance(window, int) and any(number >= _NEAR * window for number in known)


def _advice(state: State, event: RequestFinished) -> Advice | None:
    """What would have made room for this very request; only what the user can take out of the chat."""
    window = event.window_tokens
    known = [n for n in (event.prompt_tokens, event.counted_tokens) if isinstance(n, int)]
    if event.purpose not in CONVERSATION or not isinstance(window, int) or window <= 0 or not known:
        return None
    answer = event.answer_tokens if isinstance(event.answer_tokens, int) else 0
    rows: tuple[ContextRow, ...] = rows_of_request(event.parts, max(known), answer)
    return advise_room(state, rows or newest_rows(state), max(known) + answer, window)
