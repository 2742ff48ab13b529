"""What a session holds at one moment: the models it brought in, and the files it could hand over."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.actions import Handoff
from aider_guard.core.readings import ModelsReading, Unavailable, age_seconds
from aider_guard.core.state import State, same_model


def session_models(state: State, now: float) -> tuple[str, ...]:
    """The loaded models that this session brought in: its own, and not loaded before its first turn.

    Nothing when Ollama was not read lately: an old reading never unloads anything.
    """
    if not isinstance(state.loaded, ModelsReading):
        return ()
    if age_seconds(state.loaded.taken_at, now) > state.limits.stale_after_seconds:
        return ()
    foreign = state.foreign_models or frozenset()
    return tuple(
        model.name
        for model in state.loaded.models
        if model.name not in foreign and any(same_model(model.name, ours) for ours in state.models)
    )


def last_known_handoff(state: State) -> Handoff:
    """What can be handed over when Aider can no longer be asked: the files of the newest table, or before the first
    one what this Aider was given.
    """
    if isinstance(state.context, Unavailable):
        return replace(state.handed_over, mode=state.last_mode, multiline=state.last_multiline)
    files = [row for row in state.context.rows if row.kind == "file"]
    return Handoff(
        editable=tuple(row.name for row in files if not row.read_only),
        read_only=tuple(row.name for row in files if row.read_only),
        mode=state.last_mode,
        multiline=state.last_multiline,
    )
