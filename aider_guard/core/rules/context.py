"""How full the window is: when to ask Aider, and when to warn."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import CountFiles, RunHidden, ShowNotice
from aider_guard.core.advice import advise
from aider_guard.core.events import ContextRead, Event, FilesCounted, PromptSettled, TurnFinished
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State, fill_percent, used_tokens, window_tokens

_MAX_TURNS_UNPROBED = 5
_MAX_FAILURES = 2


def watch(state: State, event: Event, now: float) -> Step:
    """Keep the fill up to date, and warn once a crossing."""
    del now
    match event:
        case TurnFinished():
            return state, _count_files(state)
        case FilesCounted(tokens):
            return _probe(_grown(state, tokens))
        case PromptSettled():
            return _probe(state)
        case ContextRead(ContextReading() as reading):
            return _warn(_read(state, reading))
        case ContextRead(Unavailable(reason)):
            return _failed(state, reason)
    return state, ()


def probe_due(state: State) -> bool:
    """Whether a hidden ``/tokens`` now could change what the user is told or what a restart would keep."""
    if state.limits.probe == "never" or state.restored or state.probe_failures >= _MAX_FAILURES:
        return False
    if state.limits.probe == "always":
        return state.context_changed or state.files_changed
    if state.files_changed or (state.context_changed and isinstance(state.context, Unavailable)):
        return True
    fill = fill_percent(state)
    near = (
        isinstance(fill, float)
        and fill >= state.limits.warn_at_percent - state.limits.probe_margin_percent
    )
    return state.context_changed and (near or state.turns_since_probe >= _MAX_TURNS_UNPROBED)


def _probe(state: State) -> Step:
    if (
        state.phase is not Phase.RUNNING
        or not state.settled
        or state.hidden
        or not probe_due(state)
    ):
        return state, ()
    return replace(state, hidden="tokens"), (RunHidden("tokens"),)


def _count_files(state: State) -> tuple[CountFiles, ...]:
    paths = tuple(_sizes(state))
    return (CountFiles(paths),) if paths else ()


def _sizes(state: State) -> dict[str, int]:
    if isinstance(state.context, Unavailable):
        return {}
    return {row.name: row.tokens for row in state.context.rows if row.kind == "file"}


def _grown(state: State, tokens: dict[str, int | Unavailable]) -> State:
    sizes = _sizes(state)
    growth = sum(
        now - sizes[name] for name, now in tokens.items() if isinstance(now, int) and name in sizes
    )
    return replace(state, file_growth_tokens=growth)


def _read(state: State, reading: ContextReading) -> State:
    return replace(
        state,
        context=reading,
        context_changed=False,
        files_changed=False,
        file_growth_tokens=0,
        turns_since_probe=0,
        probe_failures=0,
    )


def _warn(state: State) -> Step:
    fill, limits = fill_percent(state), state.limits
    used, window = used_tokens(state), window_tokens(state)
    if (
        isinstance(fill, Unavailable)
        or isinstance(used, Unavailable)
        or isinstance(window, Unavailable)
    ):
        return state, ()
    if fill < limits.warn_at_percent - limits.hysteresis_percent:
        return replace(state, warned=False), ()
    if state.warned or fill < limits.warn_at_percent or isinstance(state.context, Unavailable):
        return state, ()
    advice = advise(
        state.context,
        window_tokens=window,
        used_tokens=used,
        last_seen=state.last_seen,
        turn=state.turns,
        aim_percent=limits.warn_at_percent - limits.hysteresis_percent,
        root=state.root,
    )
    notice = sentences.context_filling(state.context, used, window, advice)
    return replace(state, warned=True), (ShowNotice(notice),)


def _failed(state: State, reason: str) -> Step:
    failures = state.probe_failures + 1
    state = replace(state, probe_failures=failures)
    if failures != _MAX_FAILURES:
        return state, ()
    return state, (ShowNotice(sentences.probing_off(reason)),)
