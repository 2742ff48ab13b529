"""Parses Aider's ``/tokens`` table in its chat history file.

The file is read and not the screen, because there no line is wrapped. Aider 0.86.2 writes each line as ``> ``, the line
without outer blanks, and two blanks (io.py ``append_chat_history``); the table is that of commands.py ``cmd_tokens``::

    > Approximate context window usage for {model}, in tokens:
    > $ 0.0000    1,948 system messages
    > $ 0.0000       29 chat history         use /clear to clear
    > $ 0.0000       53 repository map       use --map-tokens to resize
    > $ 0.0000      249 calc.py              /drop to remove
    > $ 0.0000       25 notes.md (read-only) /drop to remove
    > ==================
    > $ 0.0000    2,304 tokens total
    > 5,888 tokens remaining in context window
    > 8,192 tokens max context window size

The rows for the history and the map may be absent, and so are the last two lines when Aider knows no maximum.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aider_guard.core.readings import ContextReading, ContextRow, RowKind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER = re.compile(r"> Approximate context window usage for (.*), in tokens:\s*", re.DOTALL)
_ROW = re.compile(r"> \$ *[0-9]+\.[0-9]+ +([0-9][0-9,]{0,18}) (.*)", re.DOTALL)
_TOTAL = re.compile(r"> \$ *[0-9]+\.[0-9]+ +([0-9][0-9,]{0,18}) tokens total\s*")
_REMAINING = re.compile(r"> -?[0-9][0-9,]* tokens remaining\b.*", re.DOTALL)
_MAX = re.compile(r"> ([0-9][0-9,]{0,18}) tokens max context window size\s*")
_RULE = re.compile(r"> =+\s*")
_SYSTEM = "system messages"
_READ_ONLY = " (read-only)"
# The kinds are told apart by their tips, because a file may well be called "chat history".
_TIPS: tuple[tuple[str, RowKind], ...] = (
    (" use /clear to clear", "history"),
    (" use --map-tokens to resize", "map"),
    (" /drop to remove", "file"),
)


def parse_context(text: str, taken_at: float) -> ContextReading | Unavailable:
    """Return the last complete ``/tokens`` table in a part of Aider's chat history file, read at ``taken_at``.

    It is ``Unavailable`` when no table is complete and adds up. A file whose own name ends in " (read-only)" cannot be
    told from a read-only file. Trailing blanks of a file's name are lost.
    """
    # An entry is written at once: only a file's name can hold a line break of its own.
    pieces = (piece.strip("\n") for piece in re.split(r"\n\n+|\n(?=> )", text))
    entries = tuple(piece for piece in pieces if piece)
    starts = [i for i, entry in enumerate(entries) if _HEADER.fullmatch(entry)]
    outcome: ContextReading | Unavailable = Unavailable("Aider printed no /tokens table")
    for start in reversed(starts):
        outcome = _parse_table(entries[start:], taken_at)
        if isinstance(outcome, ContextReading):
            return outcome
    return outcome


def parse_dropped(text: str) -> tuple[str, ...]:
    """Return the files that Aider took out of the chat, as it could not read them (base_coder.py,
    ``get_abs_fnames_content``), in a part of its chat history file.
    """
    return tuple(re.findall(r"^> Dropping (.+) from the chat\.\s*$", text, re.MULTILINE))


def _parse_table(entries: Sequence[str], taken_at: float) -> ContextReading | Unavailable:
    header = _HEADER.fullmatch(entries[0])
    rows: list[ContextRow] = []
    for place, entry in enumerate(entries[1:], start=1):
        if _RULE.fullmatch(entry):
            foot = _parse_foot(entries[place + 1 :])
            break
        row = _parse_row(entry, first=place == 1)
        if row is None:
            return Unavailable("a row of Aider's /tokens table has an unknown form")
        rows.append(row)
    else:
        return Unavailable("Aider's /tokens table has no end")
    if header is None or foot is None or not rows:
        return Unavailable("Aider's /tokens table is not complete")
    total_tokens, max_tokens = foot
    # Every number is cut to an integer on its own, so each row may be off by one.
    if abs(sum(row.tokens for row in rows) - total_tokens) > len(rows):
        return Unavailable("the rows of Aider's /tokens table do not add up to its total")
    return ContextReading(header[1], tuple(rows), total_tokens, max_tokens, taken_at)


def _parse_row(entry: str, *, first: bool) -> ContextRow | None:
    match = _ROW.fullmatch(entry.rstrip(" "))
    if match is None:
        return None
    tokens, rest = _number(match[1]), match[2]
    if first:
        return ContextRow("system", "", tokens) if rest == _SYSTEM else None
    for tip, kind in _TIPS:
        if rest.endswith(tip):
            name = rest.removesuffix(tip).rstrip(" ")
            if kind != "file":
                return ContextRow(kind, "", tokens)
            is_read_only = name.endswith(_READ_ONLY)
            return ContextRow("file", name.removesuffix(_READ_ONLY), tokens, is_read_only)
    return None


def _parse_foot(entries: Sequence[str]) -> tuple[int, int | Unavailable] | None:
    """Return the total and the maximum."""
    total = _TOTAL.fullmatch(entries[0]) if entries else None
    if total is None:
        return None
    if len(entries) > 1 and _REMAINING.fullmatch(entries[1]):
        maximum = _MAX.fullmatch(entries[2]) if len(entries) > 2 else None
        return (_number(total[1]), _number(maximum[1])) if maximum else None
    return _number(total[1]), Unavailable("Aider knows no maximum for this model")


def _number(digits: str) -> int:
    return int(digits.replace(",", ""))
