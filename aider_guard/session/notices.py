"""Renders notices, and the bytes that put them where nothing is drawn over them.

A notice goes just above the rule line of the main prompt. When the prompt is shown already and its line is
untouched, the prompt is erased, the notice printed, and the prompt put back from the very bytes that drew it, but for
empty rows below it: they move relative to the cursor only, so they are right at the new place too, and the cursor query
among them makes prompt_toolkit learn where it now stands.

A prompt of plain text is one line, and its terminal may know no escape sequences: the notice is printed over it, and
the line printed again below.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress

from aider_guard.core.actions import PART, Notice
from aider_guard.core.chat.request import PREFIX
from aider_guard.core.printable import printable
from aider_guard.core.screen import ShownPrompt, columns_of

_CLEAR_BELOW = b"\x1b[J"
_EMPTY_ROWS = re.compile(
    # Only from where a run of rows begins: a program may print thousands, and each would be tried.
    rb"(?<![\r\n])(?P<rows>(?:\r+\n){4,})(?P<last>(?:\x1b\[[\d;]*[mC]| |\r)*)\x1b\[(?P<up>\d+)A"
)
_MAX_DIGITS = 6
_HIGHLIGHT = "\x1b[33m"  # a colour of the user's own theme
_RESET = "\x1b[0m"


def render(
    notice: Notice,
    columns: int,
    *,
    colour: bool,
    newline: str = "\r\n",
    ascii_only: bool = False,
) -> str:
    """Return the notice as it is printed, each line ended.

    Prose is wrapped at words; commands are not wrapped, so that what is copied from the terminal is one line. With
    *ascii_only*, parts of a short one are joined by a hyphen.
    """
    if notice.is_short:
        joint = " - " if ascii_only else PART
        lead, _, line = _fitting(printable(notice.lines[0]).replace(PART, joint), columns, joint)
        return (f"{_HIGHLIGHT}{lead}:{_RESET}{line}" if colour else f"{lead}:{line}") + newline
    # What moves the cursor is replaced: names of processes, models and files may hold it.
    first, *more = map(printable, notice.lines)
    lines = [_wrapped(PREFIX + first, columns)]
    lines += [
        _wrapped("  " + line, columns) if not line.startswith("/") else ["  " + line]
        for line in more
    ]
    text = newline.join(line for wrapped in lines for line in wrapped)
    if colour:
        text = text.replace(PREFIX, f"{_HIGHLIGHT}{PREFIX}{_RESET}", 1)
    return text + newline


def _fitting(line: str, columns: int, joint: str) -> tuple[str, str, str]:
    """Return a line without the parts at its end that would fill the screen's width, split at its colon."""
    while joint in line and sum(map(columns_of, line)) >= columns:
        line = line.rpartition(joint)[0]
    return line.partition(":")


def _wrapped(line: str, columns: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    width = max(columns, 10)
    return textwrap.wrap(
        line, width, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False
    )


def has_colour(environment: Mapping[str, str]) -> bool:
    """Whether the terminal may get colours: neither the user nor its type says otherwise."""
    is_dumb = environment.get("TERM", "").lower() in ("dumb", "unknown")
    return not environment.get("NO_COLOR") and not is_dumb


def is_ascii_only(environment: Mapping[str, str]) -> bool:
    """Whether the terminal may show other characters wrongly: the locale is not one of UTF-8."""
    locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return "utf8" not in locale.lower().replace("-", "")


def print_notices(notices: Sequence[Notice], columns: int) -> None:
    """Print notices to the standard error, when Aider has ended or has no prompt."""
    colour = has_colour(os.environ) and sys.stderr.isatty()
    for notice in notices:
        with suppress(OSError):  # the terminal or the reader has gone
            os.write(2, render(notice, columns, colour=colour, newline="\n").encode())


def erase(prompt: ShownPrompt) -> bytes:
    """Return the bytes that take the prompt and its rule off the screen; the cursor ends where the rule began."""
    if not prompt.rule:
        return b"\r" + b" " * len(prompt.drawn) + b"\r"
    up = f"\x1b[{prompt.rows_above_cursor}A" if prompt.rows_above_cursor else ""
    return b"\r" + up.encode() + b"\x1b[0m" + _CLEAR_BELOW


def above(prompt: ShownPrompt, text: str) -> bytes:
    """Return the bytes that put *text* above the prompt that is shown."""
    return erase(prompt) + text.encode("utf-8", "replace") + without_empty_rows(prompt.drawn)


def without_empty_rows(drawn: bytes) -> bytes:
    """Return what draws a prompt without going down to the end of the screen and up again.

    prompt_toolkit does so when the terminal has told how many rows there are below the prompt (renderer.py), to have
    room for menus. From below a notice it would go too far, and the screen scroll; room for a menu comes with the menu.
    """
    return _EMPTY_ROWS.sub(_cut, drawn)


def _cut(found: re.Match[bytes]) -> bytes:
    """Leave out empty rows, and go up by so many fewer."""
    up = int(found["up"][:_MAX_DIGITS]) - found["rows"].count(b"\n")
    return found["last"] + b"\x1b[%dA" % up if up > 0 else found[0]


def progress(text: str, columns: int) -> bytes:
    """Return the bytes of a line of progress, drawn over the last one."""
    return b"\r\x1b[2K" + printable(PREFIX + text)[: max(1, columns - 1)].encode("utf-8", "replace")


# The title of the terminal's window: the one that it has is kept on the terminal's own stack (XTWINOPS 22 and 23).

_TITLED = re.compile(
    r"(xterm|tmux|rxvt|alacritty|foot|contour|ghostty|kitty|konsole|gnome|vte|wezterm|mintty|iterm)"
)


def has_titles(environment: Mapping[str, str]) -> bool:
    """Whether the terminal's type is one that keeps and shows titles; others may print them."""
    term = environment.get("TERM", "").lower()
    in_tmux = term.startswith("screen") and bool(environment.get("TMUX"))
    return bool(_TITLED.match(term)) or in_tmux


def title(text: str, *, was_shown: bool) -> bytes:
    """Return the bytes that show a title, or give the terminal back the one that it had."""
    if not text:
        return b"\x1b[23;2t" if was_shown else b""
    kept = b"" if was_shown else b"\x1b[22;2t"
    return kept + b"\x1b]2;" + printable(text).encode("ascii", "replace") + b"\x1b\\"


PROGRESS_DONE = b"\r\x1b[2K"
