"""What a session holds at one moment: the models it brought in, and the files it could hand over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aider_guard.core.actions import Handoff
from aider_guard.core.filling import newest_rows
from aider_guard.core.readings import ModelsReading, Unavailable, age_seconds
from aider_guard.core.state import State, same_model


def session_models(state: State, now: float) -> tuple[str, ...]:
    """The models that this session brought in: those it names or asked for, listed by Ollama or asked for since it was
    read, and not loaded before this session asked for anything.

    Nothing when Ollama was not read lately: an old reading never unloads anything.
    """
    if not isinstance(state.loaded, ModelsReading):
        return ()
    if age_seconds(state.loaded.taken_at, now) > state.limits.stale_after_seconds:
        return ()
    listed = tuple(model.name for model in state.loaded.models)
    ours = (*state.models, *state.asked_for)
    brought = tuple(name for name in listed if is_among(name, ours))
    loading = tuple(name for name in sorted(state.unlisted) if not is_among(name, listed))
    foreign = state.foreign_models or frozenset()
    return tuple(name for name in brought + loading if not is_among(name, foreign))


def is_among(name: str, others: Iterable[str]) -> bool:
    """Whether a model is one of these."""
    return any(same_model(name, other) for other in others)


def last_known_handoff(state: State) -> Handoff:
    """What can be handed over when Aider can no longer be asked: the files of the newest request or table, or before
    the first one what this Aider was given.
    """
    rows = newest_rows(state)
    if not rows and isinstance(state.context, Unavailable):
        return replace(state.handed_over, mode=state.last_mode, multiline=state.last_multiline)
    files = [row for row in rows if row.kind == "file"]
    return Handoff(
        editable=tuple(row.name for row in files if not row.read_only),
        read_only=tuple(row.name for row in files if row.read_only),
        mode=state.last_mode,
        multiline=state.last_multiline,
    )
