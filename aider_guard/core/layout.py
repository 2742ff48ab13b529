"""What a prompt drawn by prompt_toolkit looks like: rows of text, and where the cursor stands.

prompt_toolkit draws relative to the row where the prompt begins, switches automatic wrapping off, and moves with
carriage return, line feed, backspace and the CSI sequences A, B, C, D, J and K only (its renderer.py and
output/vt100.py, 3.0.52). That is all this small screen knows; everything else changes no cell.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

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
    """Rows of a drawn prompt without trailing blanks, and the cursor's row, counted from the prompt's first."""

    rows: tuple[str, ...]
    cursor_row: int


@dataclass
class _Cells:
    rows: list[dict[int, str]] = field(default_factory=lambda: [{}])
    row: int = 0
    column: int = 0

    def text(self, text: str) -> None:
        for character in text:
            columns = _columns_of(character)
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
    """The layout after *drawn*, the bytes that drew a prompt from the first column of its first row on.

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
    return Layout(tuple(_line(row) for row in cells.rows), cells.row)


def _line(cells: dict[int, str]) -> str:
    if not cells:
        return ""
    line = (cells.get(column, " ") for column in range(max(cells) + 1))
    return "".join(line).rstrip()


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
