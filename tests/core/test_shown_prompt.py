"""Taking the main prompt off the screen and putting it back, with and without lines above it, on real sessions."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pyte
import pytest
from core.recordings import (
    ACCEPTED,
    ERASED,
    NAMES,
    OPENED,
    SHOWN,
    confirm,
    drawn,
    main_prompt,
    recorded,
    rule,
    size,
)

from aider_guard.core.actions import Notice
from aider_guard.core.screen import Recogniser, ShownPrompt
from aider_guard.session import notices

# pyte has no second screen, which vim uses; after a resize the place of the rule is unknown.
REPLAYED = [name for name in NAMES if name not in ("vim", "resize")]
NOTICES = {
    0: "",
    1: "one line\r\n",
    2: "a line\r\n  /drop some_file.py\r\n",
    4: "a\r\nb\r\nc\r\nd\r\n",
}


class Glass:
    """A terminal with everything that scrolled off its top."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self._screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.5)

    def feed(self, data: bytes) -> None:
        pyte.ByteStream(self._screen).feed(data)

    def copy(self) -> Glass:
        return copy.deepcopy(self)

    @property
    def lines(self) -> list[str]:
        """All lines, those that scrolled off first, without blanks at their ends."""
        screen = self._screen
        gone = ["".join(row[at].data for at in range(screen.columns)) for row in screen.history.top]
        lines = [line.rstrip() for line in [*gone, *screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cursor(self) -> tuple[int, int]:
        """Its line among all lines, and its column."""
        return len(self._screen.history.top) + self._screen.cursor.y, self._screen.cursor.x

    @property
    def row_on_screen(self) -> int:
        """The cursor's row, counted from the screen's top."""
        return int(self._screen.cursor.y)

    @property
    def cells(self) -> list[list[object]]:
        """Every cell of the screen, with its colours; a blank without a background has none."""
        return [[self._cell(x, y) for x in range(self._screen.columns)] for y in range(self.rows)]

    def _cell(self, x: int, y: int) -> object:
        cell = self._screen.buffer[y][x]
        is_seen = cell.data != " " or cell.reverse or cell.underscore or cell.bg != "default"
        return cell if is_seen else " "


def moments(data: bytes, glass: Glass) -> Iterator[ShownPrompt]:
    """Every moment at which a main prompt was drawn, or drawn again with another text, with *glass* showing it."""
    screen = Recogniser()
    for piece in data.replace(SHOWN, SHOWN + b"\0").split(b"\0"):
        screen.feed(piece)
        glass.feed(piece)
        shown = screen.shown_prompt()
        if piece.endswith(SHOWN) and shown is not None:
            yield shown


def scrolled_off(shown: ShownPrompt, glass: Glass) -> int:
    """How many of the prompt's rows, the rule first, a low screen has no room for."""
    return max(0, shown.rows_above_cursor - glass.row_on_screen)


@pytest.mark.parametrize("name", REPLAYED)
def test_erased_and_drawn_again_the_screen_is_as_it_was(name: str) -> None:
    """Cell by cell, colours and cursor too, at every moment of a session."""
    glass = Glass(*size(name))
    count = 0
    for shown in moments(recorded(name), glass):
        if scrolled_off(shown, glass):
            continue
        count += 1
        again = glass.copy()
        again.feed(notices.above(shown, ""))
        assert again.cells == glass.cells
        assert (again.lines, again.cursor) == (glass.lines, glass.cursor)
    assert count or name == "tiny_files"


@pytest.mark.parametrize("lines", NOTICES)
@pytest.mark.parametrize("name", REPLAYED)
def test_a_notice_stands_above_the_rule_and_moves_the_rest_down(name: str, lines: int) -> None:
    """Everything above the rule stays, the notice follows, then the rule and the prompt as they were; the screen may
    scroll for it. What had scrolled off a low screen already is drawn once more.
    """
    glass = Glass(*size(name))
    for shown in moments(recorded(name), glass):
        before, (row, column) = glass.lines, glass.cursor
        at = row - shown.rows_above_cursor
        again = glass.copy()
        again.feed(notices.above(shown, NOTICES[lines]))
        notice, off = NOTICES[lines].splitlines(), scrolled_off(shown, glass)
        assert again.lines == [*before[: at + off], *notice, *before[at:]]
        assert again.cursor == (row + off + len(notice), column)


SIZES = [(24, 80), (5, 20), (6, 20), (12, 33), (60, 200)]


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("above", [0, 3, 100])
def test_a_rendered_notice_fits_any_screen(rows: int, columns: int, above: int) -> None:
    """Wherever the prompt stands, at the bottom too: the notice in full above it, and the prompt's lines below."""
    notice = Notice(
        "n", ("context about 82 % full: 6,700 of 8,192 tokens", "/drop calc.py   (frees 9)")
    )
    text = notices.render(notice, columns, colour=True)
    room = min(3, rows - 3)
    glass = Glass(rows, columns)
    screen = Recogniser()
    prompt = rule(columns) + drawn("a.py\nask> ", rows_below=room - 1)
    for data in (b"text\r\n" * above, prompt):
        glass.feed(data)
        screen.feed(data)
    shown = screen.shown_prompt()
    assert shown is not None
    before, cursor = glass.lines, glass.cursor
    glass.feed(notices.above(shown, text))
    said = "".join(line.strip() + " " for line in glass.lines[above:-3])
    wanted = " ".join(" ".join(notice.lines).split())
    assert wanted.replace(" ", "") in said.replace(" ", "")
    assert glass.lines[-3:] == before[-3:] == [rule(columns)[10:-6].decode(), "a.py", "ask>"]
    assert glass.cursor[1] == cursor[1]


def shown_after(*data: bytes) -> ShownPrompt | None:
    screen = Recogniser()
    for piece in data:
        screen.feed(piece)
    return screen.shown_prompt()


def test_the_prompt_on_the_screen_is_its_rule_and_what_was_drawn() -> None:
    """The bytes from the rule on, and how far above the cursor the rule stands: typed text is part of it."""
    prompt = main_prompt("a.py\n> ")
    shown = shown_after(b"text\r\n" + prompt)
    assert shown == ShownPrompt(prompt[: prompt.index(OPENED)], prompt, 2)
    typed = shown_after(prompt, b"hello")
    assert typed is not None
    assert typed.drawn == prompt + b"hello"


@pytest.mark.parametrize(
    "data",
    [
        (b"",),
        (main_prompt(), ACCEPTED),
        (main_prompt(), ERASED, drawn("> ")),
        (main_prompt(), ERASED),
        (confirm(),),
        (drawn("> "),),
        (rule() + OPENED,),
        (main_prompt(), OPENED),
        (main_prompt(), b"x" * 300_000),
    ],
)
def test_there_is_none_unless_it_can_be_put_back(data: tuple[bytes, ...]) -> None:
    """No prompt, another one, one drawn again after a resize, or one with more text than is kept."""
    assert shown_after(*data) is None


def test_a_recogniser_knows_its_cursor_row_for_every_prompt() -> None:
    """Rows below the first of any open prompt, also after a resize; 0 when none is open."""
    screen = Recogniser()
    rows = [screen.cursor_row()]
    for data in (main_prompt("a\nb\n> "), ERASED + drawn("a\n> "), ACCEPTED, confirm()):
        screen.feed(data)
        rows.append(screen.cursor_row())
    assert rows == [0, 2, 1, 0, 0]
