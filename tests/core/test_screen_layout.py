"""Where prompt_toolkit's bytes put their letters, beside a terminal emulator."""

from __future__ import annotations

import pyte
import pytest
from core.recordings import GREEN, OPENED, drawn
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aider_guard.core.screen import Layout, Line, Recogniser, lay_out

ROWS, COLUMNS = 60, 300
RULE = "─".encode() * 20 + b"\r\n"
TOP = 20
"""The emulator's cursor begins here, so that it can go up and down."""

CASES: list[tuple[bytes, Layout]] = [
    (b"", Layout(("",), 0)),
    (b"> hello  ", Layout(("> hello",), 0)),
    (b"one\r\r\ntwo", Layout(("one", "two"), 1)),
    (b"one\ntwo", Layout(("one", "   two"), 1)),
    (b"abc\b\bX", Layout(("aXc",), 0)),
    (b"\b\bX", Layout(("X",), 0)),
    (b"abc\rX\x1b[2CY", Layout(("Xbc" + "Y",), 0)),
    (b"\x1b[3CX\x1b[2DY", Layout(("  YX",), 0)),
    (b"\x1b[DX", Layout(("X",), 0)),
    (b"a\r\nb\r\nc\x1b[2AX", Layout(("aX", "b", "c"), 0)),
    (b"a\x1b[2BX", Layout(("a", "", " X"), 2)),
    (b"\x1b[AX", Layout(("X",), 0)),
    (b"abc\r\ndef\x1b[A\r\x1b[CX\x1b[J", Layout(("aX",), 0)),
    (b"abc\r\ndef\x1b[A\r\x1b[C\x1b[K", Layout(("a", "def"), 0)),
    (b"abc\r\x1b[1K\x1b[2J\x1b[1J", Layout(("abc",), 0)),
    (GREEN + b"a\x1b[7mb\x1b[0m\x1b[?25l\x1b[?2004h\x1b[6nc\x1b=\x1b[5 qd", Layout(("abcd",), 0)),
    (b"a\x1b]0;title\x07b\x1b]0;title\x1b\\c", Layout(("abc",), 0)),
    ("文件 > ".encode(), Layout(("文件 >",), 0)),
    ("文件\r\x1b[4CX".encode(), Layout(("文件X",), 0)),
    ("größe─".encode(), Layout(("größe─",), 0)),
    (b"\xff\xfe> ", Layout(("\ufffd\ufffd>",), 0)),
    (b"a\r\nb\r\nc\x1b[AX", Layout(("a", "bX", "c"), 1)),
    (b"a\x1b[BX", Layout(("a", " X"), 1)),
    (b"abc\x1b[DX", Layout(("abX",), 0)),
    (b"a\x1b[CX", Layout(("a X",), 0)),
    ("ae\u0301b\x1b[2DX".encode(), Layout(("aXb",), 0)),
    (b"x" * 2001, Layout(("x" * 2000,), 0)),
    (b"\x1b[1999CX\bY\x1b[9999CZ", Layout((" " * 1999 + "Y",), 0)),
    (b"\n" * 499 + b"X", Layout(("",) * 499 + ("X",), 499)),
    (b"\n" * 500 + b"X", Layout(("",) * 499 + ("X",), 499)),
    (b"a\x1b", Layout(("a",), 0)),
    (b"a\x1b[", Layout(("a",), 0)),
]


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_letters_stand_where_the_bytes_put_them(data: bytes, expected: Layout) -> None:
    """Text, carriage returns, line feeds, backspaces and the few moves, each by itself."""
    layout = lay_out(data)
    assert Layout(layout.rows, layout.cursor_row) == expected


BEFORE_CURSOR = [
    (b"", ""),
    (b"> a b ", "> a b "),
    (b"> ab\x1b[2D", "> "),
    (b"> ab\r", ""),
    (b"\x1b[4Cx", "    x"),
    (b"> \xe6\x96\x87x", "> \u6587x"),
    (b"one\r\ntwo\x1b[A", "one"),
    (b"one\r\n", ""),
]


@pytest.mark.parametrize(("data", "expected"), BEFORE_CURSOR)
def test_what_stands_before_the_cursor(data: bytes, expected: str) -> None:
    """All of the cursor's row to its left, with its blanks."""
    assert lay_out(data).before_cursor == expected


LINES: list[tuple[str, Line | None]] = [
    ("> ", Line("", "", more_below=False)),
    ("ask> ", Line("", "", more_below=False)),
    ("a.py\r\nask multi> half", Line("half", "", more_below=False)),
    ("> half ", Line("half ", "", more_below=False)),
    ("> half\x1b[2D", Line("ha", "lf", more_below=False)),
    ("> one\r\n  two", Line("one  two", "", more_below=False)),
    ("> /to\r\n  /tokens\x1b[A\r\x1b[5C", Line("/to", "", more_below=True)),
    ("> one\r\n\x1b[A\r\x1b[5C", Line("one", "", more_below=False)),
    ("half", None),
    ("\r\n> half\x1b[A", None),
]


@pytest.mark.parametrize(("text", "expected"), LINES)
def test_the_line_as_it_is_drawn(text: str, expected: Line | None) -> None:
    """Before the cursor, after it, and whether more stands below; None where no prompt's line can be told."""
    recogniser = Recogniser()
    recogniser.feed(RULE + OPENED + b"> \x1b[?25h")
    assert recogniser.line() == Line("", "", more_below=False)
    recogniser.feed(b"\r\x1b[J" + text.encode())
    assert recogniser.line() == expected
    recogniser.feed(b"\x1b[?12l\x1b[?25h\x1b[?2004l\r\n")
    assert recogniser.line() is None


IS_ONLY = [
    (Line("/tokens", "", more_below=True), True),
    (Line("/to kens ", "", more_below=False), True),
    (Line("half/tokens", "", more_below=False), False),
    (Line("/tokens", "half", more_below=False), False),
    (Line("/token", "", more_below=False), False),
]


@pytest.mark.parametrize(("line", "expected"), IS_ONLY)
def test_a_line_is_only_a_text(line: Line, *, expected: bool) -> None:
    """Blanks may be lost at the end of a row; a menu may be below."""
    assert line.is_only("/tokens") is expected


EMPTY = [
    (Line("", "", more_below=False), True),
    (Line(" ", "", more_below=False), True),
    (Line("x", "", more_below=False), False),
    (Line("", "x", more_below=False), False),
    (Line("", "", more_below=True), False),
]


@pytest.mark.parametrize(("line", "expected"), EMPTY)
def test_a_line_is_empty(line: Line, *, expected: bool) -> None:
    """Nothing stands before the cursor, after it, or below."""
    assert line.is_empty is expected


def test_a_drawn_prompt_is_laid_out() -> None:
    """The lines of files, the prompt's own, and the cursor in the prompt's row."""
    layout = lay_out(drawn("Readonly: a.md\nEditable: b.py\nask> ")[len(OPENED) :])
    assert layout.rows[:3] == ("Readonly: a.md", "Editable: b.py", "ask>")
    assert not any(layout.rows[3:])
    assert layout.cursor_row == 2


MOVES = st.sampled_from(list("ABCD")).flatmap(
    lambda final: st.sampled_from(["", "0", "1", "2", "5"]).map(lambda n: f"\x1b[{n}{final}")
)
DRAWING = st.lists(
    st.text("ab >─é", min_size=1, max_size=8)
    | MOVES
    | st.sampled_from(
        ["\r", "\n", "\b", "\r\r\n", "\x1b[J", "\x1b[K", "\x1b[0K", "\x1b[31m", "\x1b[?25l"]
    ),
    max_size=30,
).map("".join)


def emulated(text: str) -> tuple[list[str], int]:
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    stream.feed(f"\x1b[?7l\x1b[{TOP + 1};1H{text}")
    rows = [row.rstrip() for row in screen.display[TOP:]]
    return rows, screen.cursor.y - TOP


@given(DRAWING)
@example("a\x1b[B\x1b[Ab")
@example("\x1b[A\n")
def test_it_draws_as_a_terminal_does(text: str) -> None:
    """Letters and the cursor are where a terminal emulator has them."""
    assume(not _goes_above(text))
    layout = lay_out(text.encode())
    rows, cursor_row = emulated(text)
    assert layout.cursor_row == cursor_row
    assert list(layout.rows) + [""] * (len(rows) - len(layout.rows)) == rows


def _goes_above(text: str) -> bool:
    """Whether the text leaves the prompt's rows upwards, where a terminal has rows and a prompt has none."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    stream.feed(f"\x1b[{TOP + 1};1H")
    for character in text:
        stream.feed(character)
        if screen.cursor.y < TOP:
            return True
    return False


@given(
    st.binary(max_size=300) | st.text("\x1b[0123456789;?ABCDJKmh \n", max_size=200).map(str.encode)
)
@example(b"\x1b[" + b"9" * 5000 + b"A")
@example(b"\x1b[" + b"9" * 5000 + b"B")
@example(b"\x1b[99999999CX")
def test_it_never_raises_and_stays_within_bounds(data: bytes) -> None:
    """Any bytes have a layout, and no count makes it larger than a terminal can be."""
    layout = lay_out(data)
    assert 0 <= layout.cursor_row < len(layout.rows) <= 500
    assert all(len(row) <= 2001 for row in layout.rows)
