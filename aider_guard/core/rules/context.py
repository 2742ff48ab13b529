"""How full the window is: when to ask Aider, and when to warn."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import sentences
from aider_guard.core.actions import CountFiles, RunHidden, ShowNotice
from aider_guard.core.events import ContextRead, Event, PromptSettled, TurnFinished
from aider_guard.core.filling import advise_room, as_reading, file_names, newest_rows
from aider_guard.core.measured import Measured
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.sidecar_events import FilesCounted
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


def watch(state: State, event: Event, now: float) -> Step:
    """Keep the fill up to date, and warn once a crossing."""
    del now
    match event:
        case TurnFinished():
            return _turn_over(state)
        case FilesCounted(tokens):
            return _files_counted(state, tokens)
        case PromptSettled():
            return _probe(state)
        case ContextRead(ContextReading() as reading):
            return _warn(_read(state, reading))
        case ContextRead(Unavailable(reason)):
            return _failed(state, reason)
    return state, ()


def probe_due(state: State) -> bool:
    """Whether a hidden ``/tokens`` now could change what the user is told or what a restart would keep.

    What the door measured needs no table; only what changed in the chat since does.
    """
    if state.limits.probe == "never" or state.restored or state.probe_failures >= _MAX_FAILURES:
        return False
    if state.open_requests:
        return False  # the request's own numbers are on their way
    if state.limits.probe == "always":
        return state.context_changed or state.files_changed or state.turns_since_probe > 0
    measured = isinstance(state.measured, Measured)
    unknown = isinstance(state.context, Unavailable) and not measured
    if state.files_changed or (state.context_changed and unknown):
        return True
    fill = fill_percent(state)
    near = (
        isinstance(fill, float)
        and fill >= state.limits.warn_at_percent - state.limits.probe_margin_percent
    )
    overdue = not measured and state.turns_since_probe >= _MAX_TURNS_UNPROBED
    return state.context_changed and (near or overdue)


def _turn_over(state: State) -> Step:
    """The turn's own numbers warn at once; its files are counted, and where it was not measured Aider is asked."""
    state, said = _warn(state) if isinstance(state.measured, Measured) else (state, ())
    state, asked = _probe(state)
    return state, (*said, *_count_files(state), *asked)


def _files_counted(state: State, tokens: dict[str, int | Unavailable]) -> Step:
    state = _grown(state, tokens)
    state, said = _warn(state) if isinstance(state.measured, Measured) else (state, ())
    state, asked = _probe(state)
    return state, (*said, *asked)


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
    paths = file_names(state)
    return (CountFiles(paths),) if paths else ()


def _grown(state: State, tokens: dict[str, int | Unavailable]) -> State:
    counted = {name: now for name, now in tokens.items() if isinstance(now, int)}
    sizes = state.file_sizes
    growth = sum(now - sizes[name] for name, now in counted.items() if name in sizes)
    return replace(state, file_growth_tokens=growth, counted_sizes=counted)


def _read(state: State, reading: ContextReading) -> State:
    """A table says more than the last request only where the chat changed since."""
    newer = state.context_changed or state.files_changed
    return replace(
        state,
        context=reading,
        measured=_CHANGED if newer else state.measured,
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
    if (
        isinstance(fill, Unavailable)
        or isinstance(used, Unavailable)
        or isinstance(window, Unavailable)
    ):
        return state, ()
    if fill < limits.warn_at_percent - limits.hysteresis_percent:
        return replace(state, warned=False), ()
    if state.warned or fill < limits.warn_at_percent:
        return state, ()
    rows = newest_rows(state)
    notice = sentences.context_filling(
        as_reading(rows, used, window),
        used,
        window,
        advise_room(state, rows, used, window),
        is_measured=is_measured(state),
    )
    return replace(state, warned=True), (ShowNotice(notice),)


def _failed(state: State, reason: str) -> Step:
    failures = state.probe_failures + 1
    state = replace(state, probe_failures=failures)
    if failures != _MAX_FAILURES:
        return state, ()
    return state, (ShowNotice(sentences.probing_off(reason)),)
