"""What is known of the prompt, of turns and of models: plain bookkeeping, no action."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    Event,
    ExchangesCarried,
    KeyTyped,
    ModelsChosen,
    NoticeShown,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    TurnFinished,
)
from aider_guard.core.measured import Measured
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import State


def note(state: State, event: Event, now: float) -> Step:
    """Keep up with what Aider shows and says."""
    del now
    return _noted(state, event), ()


def _noted(state: State, event: Event) -> State:
    match event:
        case AiderStarted(launch):
            return replace(
                state, launch=launch, prompt=None, settled=False, hidden="", turns_in_launch=0
            )
        case ModelsChosen(main=main, models=models, window_tokens=window, root=root):
            return replace(state, main_model=main, models=models, pinned_tokens=window, root=root)
        case PromptShown():
            return _prompt_shown(state, event)
        case PromptRedrawn(empty) if state.prompt:
            return replace(
                state, prompt=replace(state.prompt, empty=empty), settled=state.settled and empty
            )
        case ConfirmShown() | ContinuationShown() | PromptClosed() | AiderExited():
            return replace(state, prompt=None, settled=False)
        case KeyTyped():
            return replace(state, settled=False)
        case PromptSettled():
            return replace(state, settled=state.prompt is not None and state.prompt.empty)
        case TurnFinished():
            return _turn_finished(state, event)
        case ContextRead() | ChatSaved():
            return replace(state, hidden="")
        case ExchangesCarried(exchanges) if state.restart:
            return replace(state, restart=replace(state.restart, exchanges=exchanges))
        case NoticeShown(name):
            return replace(state, last_notice=name)
    return state


def _prompt_shown(state: State, event: PromptShown) -> State:
    changed = state.prompt_files != event.files
    # A command may have changed anything: /clear, /run with its output added, /map-refresh.
    known = isinstance(state.context, ContextReading) or isinstance(state.measured, Measured)
    return replace(
        state,
        prompt=event,
        settled=False,
        prompt_files=event.files,
        prompt_files_changed=changed,
        files_changed=state.files_changed or changed,
        context_changed=state.context_changed or (known and not state.prompt_accounted),
        prompt_accounted=False,
        last_mode=event.mode,
        last_multiline=event.multiline,
    )


def _turn_finished(state: State, event: TurnFinished) -> State:
    turn = state.turns + 1
    seen = {**state.last_seen, **dict.fromkeys(event.mentioned, turn)}
    return replace(
        state,
        turns=turn,
        turns_in_launch=state.turns_in_launch + 1,
        turns_since_probe=state.turns_since_probe + 1,
        turn_tokens=_sum(event.sent_tokens, event.received_tokens),
        context_changed=state.context_changed or not state.turn_measured,
        restored=False,
        last_seen=seen,
    )


def _sum(left: int | Unavailable, right: int | Unavailable) -> int | Unavailable:
    if isinstance(left, Unavailable):
        return left
    return left + (right if isinstance(right, int) else 0)
