"""Words the door's answer to a prompt that is too large: by how much, and the one command that makes it fit."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aider_guard.core.chat.size import Part
from aider_guard.core.chat.types import Count
from aider_guard.core.drop_advice import Advice, advise
from aider_guard.core.other_servers import ServerName, larger_window
from aider_guard.core.readings import ContextReading, ContextRow, Unavailable

_WINDOW_STEP_TOKENS = 1024


@dataclass(frozen=True)
class Overflow:
    """A prompt that is too large: its size, the window, and the part of the window that is kept for the answer."""

    counted: Count
    window_tokens: int
    reserve_tokens: int
    server: ServerName | None = None
    """The kind of a server whose window ``--num-ctx`` alone does not change; None where it does."""
    model: str = ""

    @property
    def over_tokens(self) -> int:
        """By how many tokens it is too large; 0 when it fits."""
        return max(0, self.counted.tokens + self.reserve_tokens - self.window_tokens)


def lines(
    overflow: Overflow, rows: Sequence[ContextRow], pieces: Sequence[Part]
) -> tuple[str, str]:
    """Return two lines: by how much the prompt is too large, and what helps.

    ``rows`` are the parts of the prompt in tokens; without any, no file can be named.
    """
    about = "exactly" if overflow.counted.exact else "about"
    head = (
        f"not sent: {about} {overflow.over_tokens:,} tokens too large for the window of {overflow.window_tokens:,}"
        f" ({overflow.counted.tokens:,} and {overflow.reserve_tokens:,} for the answer)"
    )
    return head, _help(overflow, tuple(rows), pieces)


def _help(overflow: Overflow, rows: tuple[ContextRow, ...], pieces: Sequence[Part]) -> str:
    # /clear does not remove the newest message, which has its share of the history's text.
    texts = [part for part in pieces if part.kind == "history"]
    characters = sum(len(part.text) for part in texts)
    current = sum(len(part.text) for part in texts if part.current)
    history = sum(row.tokens for row in rows if row.kind == "history")
    message = round(history * current / characters) if characters else 0
    removable = tuple(
        replace(row, tokens=row.tokens - message) if row.kind == "history" else row for row in rows
    )
    advice = _advice(overflow, removable, pieces)
    if advice is not None and advice.frees_tokens >= overflow.over_tokens:
        return f"{advice.command}   (frees {advice.frees_tokens:,} tokens; then send it again)"
    editable = sum(row.tokens for row in removable if row.kind in ("file", "history"))
    if editable and editable >= overflow.over_tokens:
        return (
            f"/reset   (drops all files and the history, {editable:,} tokens; then send it again)"
        )
    need = overflow.counted.at_most + overflow.reserve_tokens
    larger = -(-need // _WINDOW_STEP_TOKENS) * _WINDOW_STEP_TOKENS
    at_start, alone = f"start with --num-ctx {larger}", f"aider-guard --num-ctx {larger}"
    if overflow.server is not None:
        at_start = alone = larger_window(overflow.server, overflow.model, larger)
    mapped = sum(row.tokens for row in rows if row.kind == "map")
    if mapped and mapped + editable >= overflow.over_tokens:
        return f"the map of the repository takes {mapped:,} tokens: {_map_help(overflow, larger)}"
    if message > overflow.over_tokens:
        return f"a shorter message fits (this one has {message:,} tokens), or {at_start}"
    return f"only a larger window helps: {alone}"


def _map_help(overflow: Overflow, tokens: int) -> str:
    if overflow.server is None:
        return f"start with --map-tokens 0, or --num-ctx {tokens}"
    return f"start with --map-tokens 0, or {larger_window(overflow.server, overflow.model, tokens)}"


def _advice(
    overflow: Overflow, rows: tuple[ContextRow, ...], pieces: Sequence[Part]
) -> Advice | None:
    if not overflow.window_tokens:
        return None
    used = overflow.counted.tokens + overflow.reserve_tokens
    # The files that the message names are needed, so they are dropped last.
    text = " ".join(part.text for part in pieces if part.current)
    names = [row.name for row in rows if row.kind == "file"]
    mentioned = {name: 1 for name in names if name in text or posixpath.basename(name) in text}
    reading = ContextReading("", rows, sum(row.tokens for row in rows), overflow.window_tokens, 0.0)
    return advise(
        reading,
        window_tokens=overflow.window_tokens,
        used_tokens=used - 1,  # what leaves the window exactly full does fit
        last_seen=mentioned,
        turn=1,
        aim_percent=100.0,
    )


def unknown_lines(window_tokens: int | Unavailable) -> tuple[str, str]:
    """Return the two lines for a prompt that the server refused and that was not counted."""
    window = f" of {window_tokens:,} tokens" if isinstance(window_tokens, int) else ""
    return (
        f"not answered: the prompt is too large for the window{window}, says the server",
        "/tokens shows what takes how much; /drop FILE or /clear makes room",
    )
