"""Draws the screen of a terminal as a picture (SVG): text that can be read, searched and scaled, in a frame of its own.

The frame is dark whatever page it lies on. Nothing is loaded from elsewhere: rich's own pictures name fonts of a
server, which would be told who reads the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape, unescape
from itertools import groupby
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    from pyte.screens import Char

CELL_WIDTH, ROW_HEIGHT, FONT_SIZE, MARGIN = 8.4, 18, 14, 16
"""In pixels; a cell is as wide as most fonts of this size draw it, and ``textLength`` makes others fit."""
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BACKGROUND, FOREGROUND, FRAME = "#11151c", "#d7dce4", "#3a4250"
COLOURS = {
    "black": "#5c6675",
    "red": "#ff7b72",
    "green": "#6fd08c",
    "brown": "#e3b341",
    "blue": "#79b8ff",
    "magenta": "#d2a8ff",
    "cyan": "#5cd5e0",
    "white": FOREGROUND,
}
"""What a terminal calls its colours, as pyte names them, each readable on the frame."""
_ROW = re.compile(r"<g>(.*?)</g>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


def picture(shown: bytes, columns: int, rows: int, title: str) -> str:
    """Return what a terminal of this size shows after these bytes as the text of an SVG file.

    Rows that were scrolled out of it are drawn too; rows at its end that are empty are not.
    """
    screen = pyte.HistoryScreen(columns, rows, history=1000)
    pyte.ByteStream(screen).feed(shown)
    lines = [*screen.history.top, *(screen.buffer[row] for row in range(rows))]
    drawn = [[line[column] for column in range(columns)] for line in lines]
    while drawn and not _text(drawn[-1]).strip():
        drawn.pop()
    width = round(columns * CELL_WIDTH + 2 * MARGIN)
    height = len(drawn) * ROW_HEIGHT + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' font-family="{FONTS}" font-size="{FONT_SIZE}" fill="{FOREGROUND}">'
    )
    frame = (
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"'
        f' fill="{BACKGROUND}" stroke="{FRAME}"/>'
    )
    groups = ["<g>" + "".join(_runs(row, number)) + "</g>" for number, row in enumerate(drawn)]
    return "\n".join([head, f"<title>{escape(title)}</title>", frame, *groups, "</svg>", ""])


def words(svg: str) -> list[str]:
    """Return the rows of such a picture as text, without the blanks at their ends."""
    return [unescape(_TAG.sub("", row)).rstrip() for row in _ROW.findall(svg)]


def _text(cells: list[Char]) -> str:
    return "".join(cell.data for cell in cells)


def _runs(cells: list[Char], number: int) -> Iterator[str]:
    """Yield a text for each stretch of one style, blanks between them included, so that the words can be read again."""
    end = len(_text(cells).rstrip()) if not any(cell.reverse for cell in cells) else len(cells)
    baseline = MARGIN + number * ROW_HEIGHT + FONT_SIZE
    column = 0
    for style, run in groupby(cells[:end], key=_style):
        text = _text(list(run))
        x, length = MARGIN + column * CELL_WIDTH, len(text) * CELL_WIDTH
        colour, is_bold, is_reverse = style
        if is_reverse:
            top = MARGIN + number * ROW_HEIGHT
            yield f'<rect x="{x:.1f}" y="{top}" width="{length:.1f}" height="{ROW_HEIGHT}" fill="{colour}"/>'
        fill = BACKGROUND if is_reverse else colour
        shown = f' fill="{fill}"' if fill != FOREGROUND else ""
        weight = ' font-weight="bold"' if is_bold else ""
        yield (
            f'<text x="{x:.1f}" y="{baseline}" textLength="{length:.1f}" xml:space="preserve"{shown}{weight}>'
            f"{escape(text)}</text>"
        )
        column += len(text)


def _style(cell: Char) -> tuple[str, bool, bool]:
    """The colour, and whether it is bold, and reversed; a colour of 24 bits is six hexadecimal digits."""
    known = COLOURS.get(cell.fg.removeprefix("bright"))
    colour = known or (f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else FOREGROUND)
    return colour, cell.bold, cell.reverse
