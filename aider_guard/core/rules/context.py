"""How full the window is: what was measured and estimated, when to ask Aider, and when to warn."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from aider_guard.core import messages
from aider_guard.core.actions import CountFiles, RunHidden, ShowNotice
from aider_guard.core.chat.events import RequestFinished, RequestRefused
from aider_guard.core.chat.types import CONVERSATION
from aider_guard.core.chat_contents import (
    advise_room,
    as_reading,
    file_names,
    newest_rows,
    rows_of_request,
)
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    AiderStarted,
    ChatSaved,
    CommandNotTyped,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    Event,
    ExchangesCarried,
    FilesCounted,
    KeyTyped,
    ModelsChosen,
    NoticeShown,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    TurnFinished,
)
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ContextReading, LastRequest, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import (
    Phase,
    State,
    fill_percent,
    is_measured,
    used_tokens,
    window_tokens,
)

_MAX_TURNS_UNPROBED = 5
_MAX_FAILURES = 2
_CHANGED = Unavailable("the chat changed since the last request")


def watch_fill(state: State, event: Event, _now: float) -> Step:
    """Keep the fill up to date, and warn each time it crosses the limit."""
    match event:
        case TurnFinished():
            return _warn_and_probe(state, file_names(state))
        case FilesCounted(tokens):
            counted = {name: size for name, size in tokens.items() if isinstance(size, int)}
            sizes = state.file_sizes
            growth = sum(size - sizes[name] for name, size in counted.items() if name in sizes)
            state = replace(state, file_growth_tokens=growth, counted_sizes=counted)
            return _warn_and_probe(state)
        case PromptSettled():
            return _probe(state)
        case ContextRead(reading, dropped):
            shown = (ShowNotice(messages.files_dropped(dropped)),) if dropped else ()
            state, more = _take_table(state, reading)
            return state, (*shown, *more)
    return state, ()


def _take_table(state: State, reading: ContextReading | Unavailable) -> Step:
    if isinstance(reading, ContextReading):
        return _warn(_with_table(state, reading))
    state = replace(state, probe_failures=state.probe_failures + 1)
    if state.probe_failures == _MAX_FAILURES:
        return state, (ShowNotice(messages.probing_off(reading.reason)),)
    return state, ()


def probe_due(state: State) -> bool:
    """Whether a hidden ``/tokens`` now could change a warning or what a restart would keep.

    A chat that the door measured needs no table until it changes.
    """
    if state.limits.probe == "never" or state.restored or state.probe_failures >= _MAX_FAILURES:
        return False
    if state.open_requests:
        return False  # the request's own numbers will come
    if state.limits.probe == "always":
        return state.context_changed or state.files_changed or state.turns_since_probe > 0
    has_request = isinstance(state.last_request, LastRequest)
    unknown = isinstance(state.context, Unavailable) and not has_request
    if state.files_changed or (state.context_changed and unknown):
        return True
    fill = fill_percent(state)
    near = (
        isinstance(fill, float)
        and fill >= state.limits.warn_at_percent - state.limits.probe_margin_percent
    )
    overdue = not has_request and state.turns_since_probe >= _MAX_TURNS_UNPROBED
    return state.context_changed and (near or overdue)


def _warn_and_probe(state: State, to_count: tuple[str, ...] = ()) -> Step:
    """Warn by measured numbers, have files counted, and ask Aider where its own numbers are needed."""
    state, warning = _warn(state) if isinstance(state.last_request, LastRequest) else (state, ())
    state, probe = _probe(state)
    counting = (CountFiles(state.root, to_count),) if to_count else ()
    return state, (*warning, *counting, *probe)


def _probe(state: State) -> Step:
    is_free = state.phase is Phase.RUNNING and state.settled and not state.hidden
    if not is_free or not probe_due(state):
        return state, ()
    names = file_names(state) if state.root else ()
    needs = tuple(posixpath.join(state.root, name) for name in names)
    return replace(state, hidden="tokens"), (RunHidden("tokens", needs),)


def _with_table(state: State, reading: ContextReading) -> State:
    """Keep a table; it replaces the last request only where the chat changed since."""
    newer = state.context_changed or state.files_changed
    return replace(
        state,
        context=reading,
        last_request=_CHANGED if newer else state.last_request,
        context_changed=False,
        files_changed=False,
        file_sizes={row.name: row.tokens for row in reading.rows if row.kind == "file"},
        file_growth_tokens=0,
        turns_since_probe=0,
        probe_failures=0,
    )


def _warn(state: State) -> Step:
    fill, limits = fill_percent(state), state.limits
    used, window = used_tokens(state), window_tokens(state)
    if not (isinstance(fill, float) and isinstance(used, int) and isinstance(window, int)):
        return state, ()
    if fill < limits.warn_at_percent - limits.hysteresis_percent:
        return replace(state, warned=False), ()
    if state.warned or fill < limits.warn_at_percent:
        return state, ()
    rows = newest_rows(state)
    notice = messages.context_filling(
        as_reading(rows, used, window),
        used,
        window,
        advise_room(state, rows, used, window),
        is_measured=is_measured(state),
    )
    return replace(state, warned=True), (ShowNotice(notice),)


# The fill as measured at the door.
#
# From the first measured request on the fill is measured. Aider's own estimate counts again where the door has nothing
# newer: after an ``/add``, ``/drop`` or ``/clear``, and after a turn that passed the door unmeasured. It is then scaled
# by the ratio of the two for the last request.

_PASSED_BY = Unavailable("the last message was not measured")
_LEAST, _MOST = 0.5, 3.0
"""The bounds of how many tokens a model counts for one of Aider's: 0.8 on Chinese to 2 on digits were seen."""


def note_requests(state: State, event: Event, _now: float) -> Step:
    """Keep the measured requests up to date; there are no actions here."""
    match event:
        case RequestFinished(purpose=purpose) if purpose in CONVERSATION:
            return _with_finished(state, event), ()
        case RequestRefused(purpose=purpose) if purpose in CONVERSATION:
            return _with_refused(state, event), ()
        case TurnFinished():
            return _end_turn(state, event), ()
        case AiderStarted():
            # The chat of the last Aider is forgotten.
            state = replace(
                state,
                last_request=Unavailable("no request was measured yet"),
                last_prompt_tokens=Unavailable("no request was measured yet"),
                file_sizes={},
                counted_sizes={},
                turn_measured=False,
                reported_in_turn=frozenset(),
            )
    return state, ()


def _is_of_main_model(state: State, event: RequestFinished | RequestRefused) -> bool:
    return event.role == "main" or same_model(event.model, state.main_model)


def _with_finished(state: State, event: RequestFinished) -> State:
    if not _is_of_main_model(state, event):
        return replace(
            state, last_prompt_tokens=Unavailable("the last request was another model's")
        )
    last_request = _request_of(event)
    if isinstance(last_request, Unavailable):
        # Cancelled in the middle: the part that stays in the chat was not counted.
        changed = state.context_changed or _is_known(state)
        return replace(state, last_prompt_tokens=last_request, context_changed=changed)
    state = replace(state, last_prompt_tokens=last_request.prompt_tokens)
    before = state.last_request if state.turn_measured else None
    match event.purpose, before:
        case "edit", LastRequest(used_tokens=used) if used >= last_request.used_tokens:
            # The editor saw the files and one proposal: the next prompt holds the larger one of the architect.
            return state
    return _with_request(state, last_request)


def _request_of(event: RequestFinished) -> LastRequest | Unavailable:
    if event.outcome != "answered":
        return Unavailable("the last request was not answered to its end")
    if isinstance(event.prompt_tokens, Unavailable):
        return event.prompt_tokens
    prompt, is_sure = _whole_prompt(event, event.prompt_tokens)
    answer = event.answer_tokens if isinstance(event.answer_tokens, int) else 0
    rows = rows_of_request(event.parts, prompt, answer)
    return LastRequest(prompt, answer, event.window_tokens, rows, is_sure)


def _whole_prompt(event: RequestFinished, evaluated: int) -> tuple[int, bool]:
    """Return the size of the prompt that was sent, and whether that is certain.

    For a prompt that was cut the server reports only the rest, and some versions of Ollama leave out cached tokens
    (before 0.4, and 0.30.0): then the count before the request says more.
    """
    was_cut = event.verdict.outcome == "cut" and event.verdict.stage != "generation"
    cut = event.verdict.cut_tokens if was_cut else 0
    reported = evaluated + (cut if isinstance(cut, int) else 0)
    if isinstance(event.counted_tokens, Unavailable):
        return reported, not was_cut
    if event.counted_exactly:
        return max(reported, event.counted_tokens), True
    at_least = event.counted_tokens * (1 - event.error_percent / 100)
    if reported >= at_least and isinstance(cut, int):
        return reported, not was_cut
    return max(reported, event.counted_tokens), False


def _with_refused(state: State, event: RequestRefused) -> State:
    """Keep the size of a prompt that was too large: it stays in the chat, and its advice is on the screen."""
    counted, measured = event.counted_tokens, state.turn_measured
    is_of_chat = event.reason == "overflow" and _is_of_main_model(state, event)
    if isinstance(counted, Unavailable) or not is_of_chat:
        return state
    last_request = LastRequest(counted, 0, event.window_tokens, is_sure=False)
    return replace(_with_request(state, last_request), warned=True, turn_measured=measured)


def _with_request(state: State, last_request: LastRequest) -> State:
    """Keep a request as what the chat holds now; its report may come a moment after the next prompt."""
    is_late = state.prompt is not None
    if not last_request.rows and isinstance(state.last_request, LastRequest):
        # The files are most likely the same.
        last_request = replace(last_request, rows=state.last_request.rows)
    return replace(
        state,
        last_request=last_request,
        turn_measured=True,
        prompt_accounted=not is_late,
        context_changed=False,
        files_changed=is_late and state.prompt_files_changed,
        file_sizes={**state.file_sizes, **state.counted_sizes},
        file_growth_tokens=0,
    )


def _is_known(state: State) -> bool:
    return isinstance(state.context, ContextReading) or isinstance(state.last_request, LastRequest)


def _end_turn(state: State, event: TurnFinished) -> State:
    ratio = state.tokens_per_estimate
    match state.last_prompt_tokens, event.sent_tokens:
        # Where both are equal Aider took over the server's number (``--no-stream``): nothing is learned.
        case int() as counted, int() as estimated if estimated > 0 and counted != estimated:
            ratio = min(max(counted / estimated, _LEAST), _MOST)
    # Where neither the door nor Aider counted the turn, an old measurement is the best there is.
    passed_by = not state.turn_measured and isinstance(event.sent_tokens, int)
    return replace(
        state,
        tokens_per_estimate=ratio,
        last_request=_PASSED_BY if passed_by else state.last_request,
        last_prompt_tokens=Unavailable("no request was measured since"),
        turn_measured=False,
        reported_in_turn=frozenset(),
    )


# Bookkeeping of the prompt, of turns and of models; it has no actions.


def note_prompt(state: State, event: Event, _now: float) -> Step:
    """Keep what Aider shows and reports."""
    return _after_event(state, event), ()


def _after_event(state: State, event: Event) -> State:
    match event:
        case AiderStarted(launch):
            return replace(
                state, launch=launch, prompt=None, settled=False, hidden="", turns_in_launch=0
            )
        case ModelsChosen(main=main, models=models, window_tokens=window, root=root):
            state = replace(
                state, plain_input=event.plain_input, map_follows_words=event.map_follows_words
            )
            return replace(state, main_model=main, models=models, pinned_tokens=window, root=root)
        case PromptShown():
            return _prompt_shown(state, event)
        case PromptRedrawn(empty) if state.prompt:
            return replace(
                state, prompt=replace(state.prompt, empty=empty), settled=state.settled and empty
            )
        case ConfirmShown() | ContinuationShown() | PromptClosed() | AiderExited() | AiderRetired():
            return replace(state, prompt=None, settled=False)
        case KeyTyped():
            return replace(state, settled=False)
        case PromptSettled():
            may_type = not state.plain_input and state.prompt is not None and state.prompt.empty
            return replace(state, settled=may_type)
        case TurnFinished():
            return _turn_finished(state, event)
        case ContextRead() | ChatSaved():
            return replace(state, hidden="")
        case CommandNotTyped():
            return replace(state, hidden="", settled=False)
        case ExchangesCarried(exchanges) if state.restart:
            return replace(state, restart=replace(state.restart, exchanges=exchanges))
        case NoticeShown(name) if name != "greeting":
            return replace(state, last_notice=name)
    return state


def _prompt_shown(state: State, event: PromptShown) -> State:
    changed = state.prompt_files != event.files
    # A command may have changed anything: /clear, /run with its output added, /map-refresh.
    return replace(
        state,
        prompt=event,
        settled=False,
        prompt_files=event.files,
        prompt_files_changed=changed,
        files_changed=state.files_changed or changed,
        context_changed=state.context_changed or (_is_known(state) and not state.prompt_accounted),
        prompt_accounted=False,
        last_mode=event.mode,
        last_multiline=event.multiline,
    )


def _turn_finished(state: State, event: TurnFinished) -> State:
    turn = state.turns + 1
    sent, received = event.sent_tokens, event.received_tokens
    if isinstance(sent, int) and isinstance(received, int):
        sent += received
    return replace(
        state,
        turns=turn,
        turns_in_launch=state.turns_in_launch + 1,
        turns_since_probe=state.turns_since_probe + 1,
        turn_tokens=sent,
        context_changed=state.context_changed or not state.turn_measured,
        restored=False,
        last_seen={**state.last_seen, **dict.fromkeys(event.mentioned, turn)},
    )
