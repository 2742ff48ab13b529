"""The lines we print: wide and narrow, with and without colours, and commands in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.actions import Notice
from aider_guard.core.chat.request import PREFIX
from aider_guard.core.screen import ShownPrompt
from aider_guard.session import notices
from aider_guard.session.notices import render

DROP = '/drop "a file with a rather long name.py" other.py   (frees about 5,000 tokens, then 26 %)'
NOTICE = Notice("context_filling", ("context about 88 % full: 7,169 of 8,192 tokens", DROP))
PROSE = Notice(
    "restarted", ("Aider restarted in 4.3 s", "/undo no longer knows the commits", "and more")
)


def lines(notice: Notice, columns: int) -> list[str]:
    text = render(notice, columns, colour=False)
    assert text.endswith("\r\n")
    return text.split("\r\n")[:-1]


def test_on_a_wide_screen_each_line_is_one() -> None:
    """The first begins with our name, the others are set in."""
    assert lines(NOTICE, 120) == [f"{PREFIX}{NOTICE.lines[0]}", f"  {DROP}"]


def test_on_a_narrow_screen_prose_is_wrapped_at_words() -> None:
    """No line is longer than the screen, and what follows is set in."""
    shown = lines(NOTICE, 30)
    prose = shown[:-1]
    assert prose[0].startswith(PREFIX)
    assert all(len(line) <= 30 for line in prose)
    assert all(line.startswith("  ") for line in prose[1:])
    assert " ".join(line.strip() for line in prose) == PREFIX + NOTICE.lines[0]


@pytest.mark.parametrize("columns", [1, 10, 20, 33, 80, 500])
def test_a_command_is_never_wrapped(columns: int) -> None:
    """What is copied from the terminal is one line, however narrow it is."""
    assert lines(NOTICE, columns)[-1] == f"  {DROP}"


def test_colours_are_of_the_users_theme_and_only_on_our_name() -> None:
    """One of the sixteen, switched off again; without colours no escape at all."""
    plain, coloured = render(PROSE, 80, colour=False), render(PROSE, 80, colour=True)
    assert "\x1b" not in plain
    assert coloured == plain.replace(PREFIX, f"\x1b[33m{PREFIX}\x1b[0m")


def test_a_shells_line_ends_are_its_own() -> None:
    """After the session the terminal is cooked again."""
    assert "\r" not in render(PROSE, 20, colour=False, newline="\n")


LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp", "Cf", "Co", "Cn"])
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=12).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=3), st.integers(0, 200), st.booleans())
def test_nothing_of_a_notice_is_lost(lines: list[str], columns: int, colour: bool) -> None:
    """Every word is there, in order, whatever the width."""
    text = render(Notice("n", tuple(lines)), columns, colour=colour)
    text = text.replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert text.split() == (PREFIX + " ".join(lines)).split()


@given(WORDS, st.integers(25, 200))
def test_prose_fits_the_screen(words: str, columns: int) -> None:
    """Unless a single word is longer than it."""
    for line in lines(Notice("n", (words,)), columns):
        assert len(line) <= columns or " " not in line.strip().removeprefix(PREFIX)


GREETING = Notice(
    "greeting",
    ("guarded: offline (kernel) · window 8,192 · qwen3:8b · restart after 20 turns",),
    is_short=True,
)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (200, GREETING.lines[0]),
        (77, GREETING.lines[0]),
        (76, "guarded: offline (kernel) · window 8,192 · qwen3:8b"),
        (51, "guarded: offline (kernel) · window 8,192"),
        (1, "guarded: offline (kernel)"),
    ],
)
def test_a_short_notice_loses_its_last_parts_and_is_never_wrapped(columns: int, shown: str) -> None:
    """It stays below the width: a line that fills it makes some terminals wrap."""
    assert lines(GREETING, columns) == [shown]


def test_a_short_notice_is_measured_in_columns() -> None:
    """A wide character takes two."""
    wide = Notice("n", ("guarded: 漢字漢字漢字 · rest",), is_short=True)
    assert lines(wide, 29) == ["guarded: 漢字漢字漢字 · rest"]
    assert lines(wide, 28) == ["guarded: 漢字漢字漢字"]


def test_a_short_notice_where_only_ascii_is_shown_rightly() -> None:
    """Its parts are joined by hyphens; what it is about is coloured as our name is elsewhere."""
    text = render(GREETING, 80, colour=True, ascii_only=True)
    assert text.isascii()
    assert text.startswith("\x1b[33mguarded:\x1b[0m offline (kernel) - window 8,192 - ")


@pytest.mark.parametrize(
    ("environment", "is_ascii"),
    [
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "C.utf8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8", "LC_ALL": ""}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({}, True),
    ],
)
def test_the_locale_tells_what_the_terminal_shows(
    environment: dict[str, str], is_ascii: bool
) -> None:
    """The first of the three variables that is set counts (POSIX, 8.2)."""
    assert notices.is_ascii_only(environment) is is_ascii


@pytest.mark.parametrize("name", ["\x1b[2J", "a\rb", "a\nb", "\x07", "\x9b2J", "\u202e", "\udcff"])
def test_what_moves_the_cursor_is_not_printed(name: str) -> None:
    """A process, a model or a file may be called anything: control characters are shown as a replacement."""
    for lines in ((f"held by {name} (7)",), ("first", f"/drop {name}")):
        text = render(Notice("n", lines), 80, colour=False)
        assert name not in text.replace("\r\n", "")
        assert all(letter.isprintable() for letter in text.replace("\r\n", ""))
        assert "\ufffd" in text
        text.encode("utf-8")


def test_erasing_goes_up_to_the_rule_and_clears_below() -> None:
    """With the colours off, so that nothing of the prompt's is left on the cleared rows."""
    assert notices.erase(ShownPrompt(b"-\r\n", b"", 3)) == b"\r\x1b[3A\x1b[0m\x1b[J"
    assert notices.erase(ShownPrompt(b"-\r\n", b"", 0)) == b"\r\x1b[0m\x1b[J"


def test_above_puts_the_prompt_back() -> None:
    """Erased, the text, and the very bytes that drew it."""
    shown = ShownPrompt(b"-\r\n", b"-\r\n> ", 1)
    assert (
        notices.above(shown, "größe\r\n")
        == notices.erase(shown) + "größe\r\n".encode() + b"-\r\n> "
    )


def test_a_prompt_of_plain_text_is_printed_over() -> None:
    """Without an escape sequence: the terminal may know none."""
    assert notices.above(ShownPrompt(b"", b"ask> ", 0), "text\r\n") == b"\r     \rtext\r\nask> "


def test_a_dumb_terminal_gets_no_colours() -> None:
    """Nor does one whose user wants none."""
    assert notices.has_colour({"TERM": "xterm-256color", "NO_COLOR": ""})
    assert not notices.has_colour({"TERM": "xterm-256color", "NO_COLOR": "1"})
    assert not any(notices.has_colour({"TERM": name}) for name in ("dumb", "Unknown"))


@pytest.mark.parametrize("columns", [1, 2, 20, 80])
def test_progress_is_one_line_that_is_drawn_over(columns: int) -> None:
    """It never reaches the last column, where a terminal would wrap; the end of it clears the line."""
    drawn = notices.progress("restarting Aider (20 turns): unloading the model, 3 s", columns)
    start = notices.PROGRESS_DONE
    assert drawn.startswith(start)
    shown = drawn.removeprefix(start).decode()
    assert len(shown) <= max(1, columns - 1)
    assert (PREFIX + "restarting Aider").startswith(shown[:20])


def test_a_long_word_is_left_whole() -> None:
    """A path that is broken in two is no path."""
    long = "/" + "x" * 60
    assert any(long in line for line in lines(Notice("n", (f"see {long} for details",)), 20))


GROWN = (
    b"> \x1b[0m\r\r\n\r\r\n\x1b[2A\x1b[3C"
    + b"\r\r\n" * 28
    + b"\x1b[0;38;5;40m  \r\x1b[159C \r\x1b[31A\x1b[5C"
)
"""A prompt, and how prompt_toolkit goes to the end of the screen and back when it knows where that is."""


def test_a_prompt_that_moves_does_not_go_to_the_end_of_the_screen() -> None:
    """From further down it would scroll the screen; the cursor ends where it would have."""
    small = (
        b"> \x1b[0m\r\r\n\r\r\n\x1b[2A\x1b[3C" + b"\x1b[0;38;5;40m  \r\x1b[159C \r\x1b[3A\x1b[5C"
    )
    assert notices.without_empty_rows(GROWN) == small
    moved = notices.above(ShownPrompt(b"-\r\n", b"-\r\n" + GROWN, 1), "text\r\n")
    assert moved == notices.erase(ShownPrompt(b"-\r\n", b"", 1)) + b"text\r\n-\r\n" + small


@pytest.mark.parametrize(
    "drawn",
    [
        b"",
        b"> \r\r\n\r\r\n\r\r\n \x1b[3A",  # the room that each prompt has
        b"\r\n\r\n\r\n\r\n\r\ntext\x1b[5A",
        b"\r\n\r\n\r\n\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\x1b[4A",  # it would not go up any more
        b"\r\n\r\n\r\n\r\n\x1b[999999999999999999A"[:-1],
    ],
)
def test_other_rows_stay(drawn: bytes) -> None:
    assert notices.without_empty_rows(drawn) == drawn
