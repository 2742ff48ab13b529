"""The title of the terminal's window: shown between Aider's own bytes, and given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.session import notices
from aider_guard.session.console import Console, ends_in_character

KEPT, BACK = b"\x1b[22;2t", b"\x1b[23;2t"


def shown(text: bytes) -> bytes:
    return b"\x1b]2;" + text + b"\x1b\\"


def console(*, titles: bool = True) -> tuple[Console, bytearray]:
    """A console, and what its terminal got."""
    screen = bytearray()
    relay = SimpleNamespace(to_terminal=screen.extend, to_child=lambda _data: None)
    made = Console(
        cast("Any", relay),
        post=lambda _event: None,
        held=lambda _event: None,
        line_modes=lambda: None,
        columns=lambda: 80,
        colour=False,
        titles=titles,
    )
    return made, screen


def test_the_terminals_own_title_is_kept_and_given_back() -> None:
    """It is kept once, however often another is shown."""
    made, screen = console()
    for text in ("one", "two", "two", "", ""):
        made.set_title(text)
    assert bytes(screen) == KEPT + shown(b"one") + shown(b"two") + BACK


def test_a_terminal_that_knows_no_titles_gets_none() -> None:
    made, screen = console(titles=False)
    made.set_title("one")
    made.set_title("")
    assert not screen


def test_it_is_given_back_when_the_session_ends() -> None:
    made, screen = console()
    made.set_title("one")
    made.leave(killed=False)
    assert screen.endswith(BACK)


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"a\x1b[3", b"2mb"),
        (b"\x1b]8;;http", b"://x\x07"),
        ("é".encode()[:1], "é".encode()[1:]),
        ("日".encode()[:2], "日".encode()[2:]),
        (b"\xf0\x9f\x98", b"\x80"),
        (b"\x1b", b"[m"),
    ],
)
def test_it_waits_until_nothing_is_cut_apart_by_it(first: bytes, rest: bytes) -> None:
    """A sequence or a character that came in two pieces."""
    made, screen = console()
    made.child_wrote(first)
    made.set_title("one")
    assert bytes(screen) == first
    made.child_wrote(rest)
    assert bytes(screen) == first + rest + KEPT + shown(b"one")


def test_it_is_not_shown_while_all_is_held_back() -> None:
    """What stands on the screen then is the guard's own line of progress."""
    made, screen = console()
    made.begin_hold("restart")
    made.set_title("one")
    assert not screen
    made.release_hold()
    made.child_wrote(b"x")
    assert screen.endswith(shown(b"one"))


@given(st.text(max_size=30), st.integers(0, 40))
def test_whether_bytes_end_inside_a_character(text: str, cut: int) -> None:
    data = text.encode("utf-8", "surrogatepass")[:cut]
    try:
        data.decode("utf-8", "surrogatepass")
        is_whole = True
    except UnicodeDecodeError:
        is_whole = False
    assert ends_in_character(data) == (not is_whole)


@pytest.mark.parametrize(
    ("environment", "knows"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "tmux-256color"}, True),
        ({"TERM": "screen-256color", "TMUX": "/tmp/x"}, True),
        ({"TERM": "screen"}, False),
        ({"TERM": "linux"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_which_terminals_know_titles(environment: dict[str, str], knows: bool) -> None:
    assert notices.has_titles(environment) == knows


def test_a_title_holds_only_what_can_be_printed() -> None:
    assert notices.title("a\x07b\x1b[c", was_shown=True).count(b"\x1b") == 2
