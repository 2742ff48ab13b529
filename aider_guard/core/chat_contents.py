"""What the window is filled with, in tokens of the model, and what would make room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aider_guard.core.actions import Handoff
from aider_guard.core.drop_advice import Advice, advise
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    LastRequest,
    ModelsReading,
    Unavailable,
    age_seconds,
)
from aider_guard.core.state import State


def scaled(rows: Sequence[ContextRow], factor: float) -> tuple[ContextRow, ...]:
    """The rows in other tokens."""
    return tuple(replace(row, tokens=round(row.tokens * factor)) for row in rows)


def rows_of_request(
    parts: Sequence[ContextRow], prompt_tokens: int, answer_tokens: int
) -> tuple[ContextRow, ...]:
    """What a prompt was made of, so that it sums up to what its server counted, and the answer, which is history now.

    Nothing where it is not known what the prompt was made of.
    """
    total = sum(row.tokens for row in parts)
    if total <= 0:
        return ()
    return (*scaled(parts, prompt_tokens / total), ContextRow("history", "", answer_tokens))


def newest_rows(state: State) -> tuple[ContextRow, ...]:
    """What the newest request or table says the chat is made of; nothing when neither does."""
    if isinstance(state.last_request, LastRequest) and state.last_request.rows:
        return state.last_request.rows
    if isinstance(state.context, Unavailable):
        return ()
    return scaled(state.context.rows, state.tokens_per_estimate)


def file_names(state: State) -> tuple[str, ...]:
    """The files in the chat, as far as the newest request or table tells."""
    return tuple(dict.fromkeys(row.name for row in newest_rows(state) if row.kind == "file"))


def as_reading(
    rows: tuple[ContextRow, ...], used_tokens: int, window_tokens: int
) -> ContextReading:
    """Rows of a request as if they were a table."""
    return ContextReading("", rows, used_tokens, window_tokens, 0.0)


def advise_room(
    state: State, rows: tuple[ContextRow, ...], used_tokens: int, window_tokens: int
) -> Advice | None:
    """What to take out of the chat so that the next warning is some way off; None when nothing can be."""
    return advise(
        as_reading(rows, used_tokens, window_tokens),
        window_tokens=window_tokens,
        used_tokens=used_tokens,
        last_seen=state.last_seen,
        turn=state.turns,
        aim_percent=state.limits.warn_at_percent - state.limits.hysteresis_percent,
        root=state.root,
    )


# What a session holds at one moment: the models it brought in, and the files it could hand over.


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
    ours = (*state.models, *state.requested)
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
        return replace(state.handoff, mode=state.last_mode, multiline=state.last_multiline)
    files = [row for row in rows if row.kind == "file"]
    return Handoff(
        editable=tuple(row.name for row in files if not row.read_only),
        read_only=tuple(row.name for row in files if row.read_only),
        mode=state.last_mode,
        multiline=state.last_multiline,
    )
