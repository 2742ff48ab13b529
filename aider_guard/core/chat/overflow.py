"""What is said when a prompt does not fit: by how much, and the one command that makes it fit."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from aider_guard.core.chat.size import Part
from aider_guard.core.chat.types import Count
from aider_guard.core.drop_advice import Advice, advise
from aider_guard.core.readings import ContextReading, ContextRow, Unavailable

_WINDOW_STEP_TOKENS = 1024


@dataclass(frozen=True)
class Overflow:
    """A prompt that is too large: what was counted, the window, and what of it is kept for the answer."""

    counted: Count
    window_tokens: int
    reserve_tokens: int

    @property
    def over_tokens(self) -> int:
        """By how much it is too large; 0 when it fits."""
        return max(0, self.counted.tokens + self.reserve_tokens - self.window_tokens)


def lines(
    overflow: Overflow, rows: Sequence[ContextRow], pieces: Sequence[Part]
) -> tuple[str, str]:
    """Two lines: how much too large, and what helps. ``rows`` are what the prompt is made of, in tokens; without any,
    nothing can be named.
    """
    about = "exactly" if overflow.counted.exact else "about"
    head = (
        f"not sent: {about} {overflow.over_tokens:,} tokens too large for the window of {overflow.window_tokens:,}"
        f" ({overflow.counted.tokens:,} and {overflow.reserve_tokens:,} for the answer)"
    )
    return head, _help(overflow, tuple(rows), pieces)


def _help(overflow: Overflow, rows: tuple[ContextRow, ...], pieces: Sequence[Part]) -> str:
    message = _current_tokens(rows, pieces)
    removable = tuple(_without_message(row, message) for row in rows)
    advice = _advice(overflow, removable, pieces)
    if advice is not None and advice.frees_tokens >= overflow.over_tokens:
        return f"{advice.command}   (frees {advice.frees_tokens:,} tokens; then send it again)"
    editable = sum(row.tokens for row in removable if row.kind in ("file", "history"))
    if editable and editable >= overflow.over_tokens:
        return (
            f"/reset   (drops all files and the history, {editable:,} tokens; then send it again)"
        )
    larger = _larger_window(overflow)
    mapped = sum(row.tokens for row in rows if row.kind == "map")
    if mapped and mapped + editable >= overflow.over_tokens:
        return f"the map of the repository takes {mapped:,} tokens: start with --map-tokens 0, or --num-ctx {larger}"
    if message > overflow.over_tokens:
        return f"a shorter message fits (this one has {message:,} tokens), or start with --num-ctx {larger}"
    return f"only a larger window helps: aider-guard --num-ctx {larger}"


def _advice(
    overflow: Overflow, rows: tuple[ContextRow, ...], pieces: Sequence[Part]
) -> Advice | None:
    if not overflow.window_tokens:
        return None
    used = overflow.counted.tokens + overflow.reserve_tokens
    reading = ContextReading("", rows, sum(row.tokens for row in rows), overflow.window_tokens, 0.0)
    return advise(
        reading,
        window_tokens=overflow.window_tokens,
        used_tokens=used - 1,  # what leaves the window exactly full does fit
        last_seen=_mentioned(rows, pieces),
        turn=1,
        aim_percent=100.0,
    )


def _mentioned(rows: Sequence[ContextRow], pieces: Sequence[Part]) -> dict[str, int]:
    """The files that the message names: they are wanted, so they are the last to be dropped."""
    text = " ".join(part.text for part in pieces if part.current)
    names = [row.name for row in rows if row.kind == "file"]
    return {name: 1 for name in names if name in text or posixpath.basename(name) in text}


def _current_tokens(rows: Sequence[ContextRow], pieces: Sequence[Part]) -> int:
    """What of the history is the message itself, by the share of its text: /clear does not make it smaller."""
    spoken = [part for part in pieces if part.kind == "history"]
    letters = sum(len(part.text) for part in spoken)
    mine = sum(len(part.text) for part in spoken if part.current)
    history = sum(row.tokens for row in rows if row.kind == "history")
    return round(history * mine / letters) if letters else 0


def _without_message(row: ContextRow, message_tokens: int) -> ContextRow:
    if row.kind != "history":
        return row
    return ContextRow("history", "", max(0, row.tokens - message_tokens))


def _larger_window(overflow: Overflow) -> int:
    """A window that holds the prompt and an answer, in steps of 1024."""
    need = overflow.counted.at_most + overflow.reserve_tokens
    return -(-need // _WINDOW_STEP_TOKENS) * _WINDOW_STEP_TOKENS


def unknown_lines(window_tokens: int | Unavailable) -> tuple[str, str]:
    """The same where the server refused, and nobody could count."""
    window = f" of {window_tokens:,} tokens" if isinstance(window_tokens, int) else ""
    return (
        f"not answered: the prompt is too large for the window{window}, says the server",
        "/tokens shows what takes how much; /drop FILE or /clear makes room",
    )
