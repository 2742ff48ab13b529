"""What passed the door: how full the window is by the newest request, and what of it a turn changed.

From the first measured request on the fill is measured. Aider's own estimate counts again where the door has nothing
newer: after an ``/add``, ``/drop`` or ``/clear``, and after a turn that passed it unmeasured. It is then scaled by
what the last request was measured with.
"""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.events import AiderStarted, DeadlinePassed, Event, PromptClosed, TurnFinished
from aider_guard.core.filling import rows_of_request
from aider_guard.core.measured import Measured
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.sidecar_events import SidecarLost, SidecarStarted
from aider_guard.core.state import State, same_model
from aider_guard.core.traffic.events import (
    RequestFinished,
    RequestRefused,
    RequestStarted,
)

CONVERSATION = ("chat", "edit")
_PASSED_BY = Unavailable("the last message was not measured")
_LEAST, _MOST = 0.5, 3.0
"""Between these lies what models count for one token of Aider's: 0.8 on Chinese to 2 on digits were seen."""


def watch(state: State, event: Event, now: float) -> Step:
    """Keep what was measured up to date; nothing is done about it here."""
    del now
    match event:
        case RequestStarted(number=number, purpose=purpose) if purpose in CONVERSATION:
            return replace(state, open_requests=state.open_requests | {number}), ()
        case RequestFinished(purpose=purpose) if purpose in CONVERSATION:
            return _finished(_closed(state, event.number), event), ()
        case RequestRefused(purpose=purpose) if purpose in CONVERSATION:
            return _refused(_closed(state, event.number), event), ()
        case TurnFinished():
            return _turn_over(state, event), ()
        case AiderStarted():
            return _anew(state), ()
        case SidecarStarted() | SidecarLost() | DeadlinePassed("sidecar_silent") | PromptClosed():
            # Nobody will report on these any more, or too late for what was waited for.
            return replace(state, open_requests=frozenset()), ()
    return state, ()


def _closed(state: State, number: int) -> State:
    return replace(state, open_requests=state.open_requests - {number})


def _anew(state: State) -> State:
    """The next Aider begins with another chat."""
    return replace(
        state,
        measured=Unavailable("no request was measured yet"),
        last_prompt_tokens=Unavailable("no request was measured yet"),
        open_requests=frozenset(),
        file_sizes={},
        counted_sizes={},
        turn_measured=False,
        prompt_accounted=False,
        told_this_turn=frozenset(),
    )


def _is_mains(state: State, event: RequestFinished | RequestRefused) -> bool:
    return event.role == "main" or same_model(event.model, state.main_model)


def _finished(state: State, event: RequestFinished) -> State:
    if not _is_mains(state, event):
        other = Unavailable("the last request was another model's")
        return replace(state, last_prompt_tokens=other)
    measured = _measured(event)
    if isinstance(measured, Unavailable):
        # Given up in the middle: what stays of it in the chat was counted by nobody.
        state = replace(state, last_prompt_tokens=measured, prompt_accounted=False)
        return replace(state, context_changed=state.context_changed or _is_known(state))
    state = replace(state, last_prompt_tokens=measured.prompt_tokens)
    if event.purpose == "edit" and _used_in_turn(state) >= measured.used_tokens:
        # It saw the files and one proposal: the next prompt holds what the architect was sent.
        return state
    return _take(state, measured)


def _used_in_turn(state: State) -> int:
    if not state.turn_measured or isinstance(state.measured, Unavailable):
        return 0
    return state.measured.used_tokens


def _measured(event: RequestFinished) -> Measured | Unavailable:
    if event.outcome != "answered":
        return Unavailable("the last request was not answered to its end")
    if isinstance(event.prompt_tokens, Unavailable):
        return event.prompt_tokens
    prompt, is_sure = _whole_prompt(event, event.prompt_tokens)
    answer = event.answer_tokens if isinstance(event.answer_tokens, int) else 0
    rows = rows_of_request(event.parts, prompt, answer)
    return Measured(prompt, answer, event.window_tokens, rows, is_sure)


def _whole_prompt(event: RequestFinished, evaluated: int) -> tuple[int, bool]:
    """What was sent, and whether that is sure.

    Of a prompt that was cut the server tells only what was left, and some versions of Ollama leave out what they had
    cached (before 0.4, and 0.30.0): what was counted before says more then.
    """
    was_cut = event.verdict.outcome == "cut" and event.verdict.stage != "generation"
    cut = event.verdict.cut_tokens if was_cut else 0
    told = evaluated + (cut if isinstance(cut, int) else 0)
    if isinstance(event.counted_tokens, Unavailable):
        return told, not was_cut
    if event.counted_exactly:
        return max(told, event.counted_tokens), True
    at_least = event.counted_tokens * (1 - event.error_percent / 100)
    if told >= at_least and isinstance(cut, int):
        return told, not was_cut
    return max(told, event.counted_tokens), False


def _refused(state: State, event: RequestRefused) -> State:
    """What was too large stays in the chat: the fill is that of the next request. Its advice is on the screen."""
    if event.reason != "overflow" or isinstance(event.counted_tokens, Unavailable):
        return state
    if not _is_mains(state, event):
        return state
    measured = Measured(event.counted_tokens, 0, event.window_tokens, is_sure=False)
    return replace(_take(state, measured), warned=True, turn_measured=state.turn_measured)


def _take(state: State, measured: Measured) -> State:
    """This is what the chat holds now. Its report may come a moment after the prompt that it belongs to."""
    is_late = state.prompt is not None
    if not measured.rows and isinstance(state.measured, Measured):
        measured = replace(measured, rows=state.measured.rows)  # the files are most likely the same
    return replace(
        state,
        measured=measured,
        turn_measured=True,
        prompt_accounted=not is_late,
        context_changed=False,
        files_changed=is_late and state.prompt_files_changed,
        file_sizes={**state.file_sizes, **state.counted_sizes},
        file_growth_tokens=0,
    )


def _is_known(state: State) -> bool:
    return isinstance(state.context, ContextReading) or isinstance(state.measured, Measured)


def _turn_over(state: State, event: TurnFinished) -> State:
    ratio = _ratio(state, event)
    # Where neither the door nor Aider counted the turn, an old measurement is the best there is.
    passed_by = not state.turn_measured and isinstance(event.sent_tokens, int)
    return replace(
        state,
        tokens_per_estimate=ratio,
        measured=_PASSED_BY if passed_by else state.measured,
        last_prompt_tokens=Unavailable("no request was measured since"),
        turn_measured=False,
        told_this_turn=frozenset(),
    )


def _ratio(state: State, event: TurnFinished) -> float:
    """Tokens of the model for each of Aider's, for the very request that both counted.

    Where both say the same Aider took over the server's number (``--no-stream``), which tells nothing.
    """
    match state.last_prompt_tokens, event.sent_tokens:
        case int() as counted, int() as estimated if estimated > 0 and counted != estimated:
            return min(max(counted / estimated, _LEAST), _MOST)
    return state.tokens_per_estimate
