"""Recognises in Aider's output, in any chunking, what is shown: main prompt, confirm, another prompt, or none (busy).

Aider asks through prompt_toolkit, which switches bracketed paste on (``?2004h``) when a prompt opens and off
(``?2004l``) when it closes. What tells the prompts apart (aider/io.py 0.86.2, and recorded sessions):

* the main prompt follows a line of nothing but ``─`` (an empty line without colours), then its text ends in ``> ``;
* a confirm follows no such line and ends in ``(Y)es/(N)o … [Yes]: ``;
* a line of a ``{`` block opens directly after the last prompt closed, with nothing printed between;
* after a resize, the open prompt is erased and drawn again: the renderer leaves ``ESC[0m ESC[?7h`` before ``?2004l``
  where an accepted line leaves ``ESC[?12l ESC[?25h``.

Text alone proves nothing: a model can print all of this. Before acting on a prompt, the session also checks that the
child's terminal reads keys one by one (``session/aider_process.py``, ``LineModes``), which no text can imitate.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aider_guard.core.events import (
    ConfirmShown,
    ContinuationShown,
    PromptClosed,
    PromptRedrawn,
    PromptShown,
)

# The layout of a prompt that prompt_toolkit drew: rows of text, and the position of the cursor.
#
# prompt_toolkit draws relative to the row where the prompt begins, switches automatic wrapping off, and moves with
# carriage return, line feed, backspace and the CSI sequences A, B, C, D, J and K only (its renderer.py and
# output/vt100.py, 3.0.52). This small screen knows only these; all else changes no cell.

_TOKEN = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b."
    r"|(?P<control>[\x00-\x1f])"
    r"|(?P<text>[^\x00-\x1f\x1b]+)"
)
_MAX_ROWS = 500  # no terminal is taller; a hostile count must not cost memory
_MAX_COLUMNS = 2000
_MAX_DIGITS = 6


@dataclass(frozen=True)
class Layout:
    """Rows of a drawn prompt without trailing blanks, and the cursor's row, counted from the prompt's first.

    ``before_cursor`` is what stands to the left of the cursor on its row, trailing blanks included.
    """

    rows: tuple[str, ...]
    cursor_row: int
    before_cursor: str = ""


@dataclass(frozen=True)
class Line:
    """The line of an open main prompt: the text before the cursor, the text after it, and whether more is drawn below.

    Below the line stand its further lines, or a menu of completions.
    """

    before: str
    after: str
    more_below: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands on the line or below it."""
        return not (self.before.strip() or self.after or self.more_below)

    def is_only(self, text: str) -> bool:
        """Whether the line is this text and nothing else. Blanks do not count, as some are lost where it is wrapped."""
        return not self.after and "".join(self.before.split()) == "".join(text.split())


@dataclass
class _Cells:
    rows: list[dict[int, str]] = field(default_factory=lambda: [{}])
    row: int = 0
    column: int = 0

    def text(self, text: str) -> None:
        for character in text:
            columns = columns_of(character)
            if self.column < _MAX_COLUMNS:
                line = self.rows[self.row]
                line[self.column] = character
                if columns == 2:
                    line[self.column + 1] = ""  # the other half is no blank
            self.column += columns

    def go_to_row(self, row: int) -> None:
        self.row = max(0, min(row, _MAX_ROWS - 1))
        while len(self.rows) <= self.row:
            self.rows.append({})

    def control(self, character: str) -> None:
        match character:
            case "\r":
                self.column = 0
            case "\n":
                self.go_to_row(self.row + 1)
            case "\b":
                self.column = max(0, self.column - 1)

    def sequence(self, final: str, parameters: str) -> None:
        # Python refuses numbers of more than 4300 digits.
        count = int(parameters[:_MAX_DIGITS]) if parameters.isdigit() else 0
        match final:
            case "A":
                self.go_to_row(self.row - (count or 1))
            case "B":
                self.go_to_row(self.row + (count or 1))
            case "C":
                self.column = min(self.column + (count or 1), _MAX_COLUMNS)
            case "D":
                self.column = max(0, self.column - (count or 1))
            case "J" if not count:
                self.clear_right()
                del self.rows[self.row + 1 :]
            case "K" if not count:
                self.clear_right()

    def clear_right(self) -> None:
        line = self.rows[self.row]
        self.rows[self.row] = {at: cell for at, cell in line.items() if at < self.column}


def lay_out(drawn: bytes) -> Layout:
    """Return the layout after *drawn*, the bytes that drew a prompt from the first column of its first row on.

    Bytes that are no UTF-8 count as one column each. Never raises.
    """
    cells = _Cells()
    for token in _TOKEN.finditer(drawn.decode("utf-8", "replace")):
        if token["text"]:
            cells.text(token["text"])
        elif token["control"]:
            cells.control(token["control"])
        elif token["final"]:
            cells.sequence(token["final"], token["parameters"])
    rows = tuple(_text(row, max(row, default=-1) + 1).rstrip() for row in cells.rows)
    return Layout(rows, cells.row, _text(cells.rows[cells.row], cells.column))


def _text(cells: dict[int, str], columns: int) -> str:
    return "".join(cells.get(column, " ") for column in range(columns))


def columns_of(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


ScreenEvent = PromptShown | ConfirmShown | ContinuationShown | PromptClosed | PromptRedrawn

OPENED: Final = b"\x1b[?2004h"
CLOSED: Final = b"\x1b[?2004l"
_ERASED: Final = b"\x1b[0m\x1b[?7h"
KEPT_BYTES: Final = 16 * 1024  # a rule across 1000 columns is 3 kB
_MAX_PROMPT_BYTES: Final = 256 * 1024

# Bounded, and tried once for each run of ─, as a model could print text that makes it slow otherwise.
_BEFORE_MAIN = re.compile(
    rb"(?P<line>(?:\x1b\[[0-9;]*m){0,4}(?<!\xe2\x94\x80)(?:\xe2\x94\x80)+(?:\x1b\[[0-9;]*m){0,4}\r\n"
    rb"|(?<=\n)\r\n|(?<=\x1b\[\?2004l)\r\n|\A\r\n)\x07?(?:\x1b\[6n)?\Z"
)
_BEFORE_CONTINUATION = re.compile(rb"\x1b\[\?2004l(?:\x1b\[6n)?\Z")
_MAIN_LINE = re.compile(r"(?P<mode>[a-z][a-z-]*)?(?: ?(?P<multi>multi))?(?P<sign>>) ?(?P<typed>.*)")
# Where a prompt is drawn or given up, and where another prompt opens or this one closes.
_DRAWN = re.compile(rb"\x1b\[\?(?:25h|2004l)")
_SWITCHED = re.compile(rb"\x1b\[\?2004[hl]")
_CHOICE: Final = "(Y)es/(N)o"
_DEFAULT = re.compile(r"\[(?:Yes|No)\]:")


class _Phase(Enum):
    BUSY = "no prompt is open"
    DRAWING = "a prompt opened and is being drawn"
    OPEN = "a prompt waits for the user"


@dataclass(frozen=True)
class ShownPrompt:
    """The bytes that put the main prompt on the screen, and how many rows its rule stands above the cursor.

    ``rule`` is their beginning: what stands above the prompt proper. It is empty where the prompt is one line of plain
    text (core/plain_screen.py).
    """

    rule: bytes
    drawn: bytes
    rows_above_cursor: int


class Recogniser:
    """Turns Aider's output into events, one for each prompt that opens or closes, equal for every chunking."""

    def __init__(self) -> None:
        self._phase = _Phase.BUSY
        self._buffer = b""
        self._lead = b""
        self._redraws: type[ScreenEvent] | None = None
        self._kind: type[ScreenEvent] | None = None

    @property
    def main_prompt_open(self) -> bool:
        """Whether the last prompt shown is a main prompt that was not answered yet."""
        return self._phase is _Phase.OPEN and self._kind is PromptShown

    def shown_prompt(self) -> ShownPrompt | None:
        """Return the main prompt on the screen from its rule on; None when none is open.

        Also None when it was drawn again after a resize, as the terminal may have moved the rule.
        """
        if not self.main_prompt_open or not self._lead:
            return None
        return ShownPrompt(
            self._lead, self._lead + self._buffer, self.cursor_row() + self._lead.count(b"\n")
        )

    @property
    def prompt_open(self) -> bool:
        """Whether any prompt is open."""
        return self._phase is _Phase.OPEN

    def cursor_row(self) -> int:
        """Return the rows from the first row of the open prompt to the cursor; 0 when none is open."""
        if not self.prompt_open or not self._buffer.startswith(OPENED):
            return 0
        return lay_out(self._buffer[len(OPENED) :]).cursor_row

    def line(self) -> Line | None:
        """Return the line of the main prompt as it is drawn now; None when none is open, or it cannot be told."""
        if not self.main_prompt_open or not self._buffer.startswith(OPENED):
            return None
        layout = lay_out(self._buffer[len(OPENED) :])
        found = _find_main_line(layout.rows)
        if found is None or found[0] > layout.cursor_row:
            return None
        at, match = found
        before = "".join(layout.rows[at : layout.cursor_row]) + layout.before_cursor
        after = layout.rows[layout.cursor_row][len(layout.before_cursor) :]
        more_below = any(layout.rows[layout.cursor_row + 1 :])
        return Line(before[match.end("sign") + 1 :], after, more_below)

    def feed(self, data: bytes) -> tuple[ScreenEvent, ...]:
        """Return the events of the next bytes, in order. Never raises, whatever the bytes are."""
        self._buffer += data
        events: list[ScreenEvent] = []
        while self._step(events):
            pass
        return tuple(events)

    def _step(self, events: list[ScreenEvent]) -> bool:
        match self._phase:
            case _Phase.BUSY:
                return self._look_for_opening()
            case _Phase.DRAWING:
                return self._look_for_drawn(events)
            case _Phase.OPEN:
                return self._look_for_closing(events)

    def _look_for_opening(self) -> bool:
        at = self._buffer.find(OPENED)
        if at < 0:
            self._buffer = self._buffer[-KEPT_BYTES:]
            return False
        before = self._buffer[max(0, at - KEPT_BYTES) : at]
        main = _BEFORE_MAIN.search(before)
        if not _BEFORE_CONTINUATION.search(before):
            self._redraws = None
        self._lead = before[main.start("line") :] if main else b""
        self._buffer = self._buffer[at:]
        self._phase = _Phase.DRAWING
        return True

    def _look_for_drawn(self, events: list[ScreenEvent]) -> bool:
        end = _DRAWN.search(self._buffer, len(OPENED), _MAX_PROMPT_BYTES)
        if end is None:
            if len(self._buffer) < _MAX_PROMPT_BYTES:
                return False
            self._lead = b""
        elif end.group() == CLOSED:
            # It never waited for the user.
            self._close(end.start())
            return True
        drawn = self._buffer[: end.start() if end else _MAX_PROMPT_BYTES]
        event = self._classify(drawn.removeprefix(OPENED))
        self._kind = self._redraws or type(event)
        events.append(
            PromptRedrawn(event.empty)
            if self._redraws and isinstance(event, PromptShown)
            else event
        )
        self._phase = _Phase.OPEN
        return True

    def _classify(self, drawn: bytes) -> PromptShown | ConfirmShown | ContinuationShown:
        rows = lay_out(drawn).rows
        text = "".join(rows)
        _, choice, rest = text.partition(_CHOICE)
        if choice and _DEFAULT.search(rest):
            return ConfirmShown()
        prompt = main_prompt(rows)
        if prompt is None or not (self._lead or self._redraws is PromptShown):
            return ContinuationShown()
        return prompt

    def _look_for_closing(self, events: list[ScreenEvent]) -> bool:
        switch = _SWITCHED.search(self._buffer, len(OPENED))
        if switch is None:
            if len(self._buffer) > _MAX_PROMPT_BYTES:
                # After long typing the prompt can no longer be restored from its bytes: only its end matters.
                self._lead = b""
                self._buffer = self._buffer[-KEPT_BYTES:]
            return False
        if switch.group() == OPENED:
            # Something else asks now; the prompt that was shown was text, or a program runs in front of it.
            self._kind = None
            self._phase = _Phase.BUSY
            self._buffer = self._buffer.removeprefix(OPENED)
            return True
        at = switch.start()
        if self._buffer[:at].endswith(_ERASED):
            self._redraws = self._kind
        else:
            self._redraws = None
            events.append(PromptClosed())
        self._close(at)
        return True

    def _close(self, at: int) -> None:
        self._buffer = self._buffer[at:]
        self._lead = b""
        self._kind = None
        self._phase = _Phase.BUSY


def _find_main_line(rows: tuple[str, ...]) -> tuple[int, re.Match[str]] | None:
    """Return the first row that is a main prompt's, with its parts; None when no row is."""
    matches = ((at, _MAIN_LINE.fullmatch(row)) for at, row in enumerate(rows))
    return next(((at, match) for at, match in matches if match), None)


def main_prompt(rows: tuple[str, ...]) -> PromptShown | None:
    """Return the prompt in *rows*, None when no row is a main prompt's."""
    found = _find_main_line(rows)
    if found is None:
        return None
    at, match = found
    empty = not match["typed"] and not any(rows[at + 1 :])
    mode = match["mode"] or ""
    multiline = bool(match["multi"]) or mode == "multi"
    return PromptShown("" if mode == "multi" else mode, multiline, empty, rows[:at])
