"""What the window is filled with, in tokens of the model, and what would make room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aider_guard.core.advice import Advice, advise
from aider_guard.core.measured import Measured
from aider_guard.core.readings import ContextReading, ContextRow, Unavailable
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
    if isinstance(state.measured, Measured) and state.measured.rows:
        return state.measured.rows
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
