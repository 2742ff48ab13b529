"""The user's keys, distinguished from the terminal's answers; and the key that suspends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aider_guard.core.events import Event, JobContinued
from aider_guard.core.state import Phase
from aider_guard.loop import Loop
from aider_guard.session import input as session_input
from aider_guard.session.escape_sequences import Keyboard, SuspendKey, Typed, without_answers

CTRL_Z = 0x1A

ANSWERS = [
    b"\x1b[12;1R",
    b"\x1b[24;80R",
    b"\x1b[?62;c",
    b"\x1b[?6c",
    b"\x1b[>0;276;0c",
    b"\x1b[=0c",
    b"\x1b[0n",
    b"\x1b[?2026;2$y",
    b"\x1b[I",
    b"\x1b[O",
    b"\x1b]11;rgb:0000/0000/0000\x07",
    b"\x1b]11;rgb:0000/0000/0000\x1b\\",
    b"\x1bP1+r544e\x1b\\",
]
KEYS = [
    b"a",
    b"\r",
    b"\x03",
    b"\x1a",
    b"\x1b",
    b"\x7f",
    "ä".encode(),
    b"\x1b[A",
    b"\x1bOA",
    b"\x1b[3~",
    b"\x1b[1;5C",
    b"\x1bx",
    b"\x1b\r",
    b"\x1b[200~pasted\x1b[201~",
    b"\x00",
    b"\xff",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_of_the_terminal_is_no_key(answer: bytes) -> None:
    """Cursor position, attributes, status, modes, focus, colours, capabilities."""
    assert not Keyboard().feed(answer).keys
    assert without_answers(answer) == b""


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_a_key(key: bytes) -> None:
    """Letters, control keys, arrows, Alt and pastes; alone, and around an answer."""
    assert Keyboard().feed(key) == Typed(keys=True)
    assert Keyboard().feed(b"\x1b[5;1R" + key) == Typed(keys=True, cursor_answer=b"\x1b[5;1R")
    assert Keyboard().feed(key + b"\x1b[5;1R").keys
    assert without_answers(key + b"\x1b[5;1R" + key) == key + key


def test_the_newest_position_is_reported() -> None:
    """Of several answers in one piece the last one counts."""
    assert Keyboard().feed(b"\x1b[5;1R\x1b[I\x1b[7;3R") == Typed(
        keys=False, cursor_answer=b"\x1b[7;3R"
    )


def fed(data: bytes, cuts: list[int]) -> list[Typed]:
    keyboard = Keyboard()
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [
        keyboard.feed(data[start:end])
        for start, end in zip([0, *ends], [*ends, len(data)], strict=True)
    ]


CUTS = st.lists(st.integers(1, 60), max_size=6)


@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), CUTS)
def test_answers_in_any_chunking_are_no_keys(answers: list[bytes], cuts: list[int]) -> None:
    """Cut anywhere but right after an escape, which by itself is a key."""
    data = b"".join(answers)
    cuts = [cut for cut in cuts if data[cut - 1 : cut] != b"\x1b"]
    pieces = fed(data, cuts)
    assert not any(typed.keys for typed in pieces)
    positions = [answer for answer in answers if answer.endswith(b"R")]
    assert [typed.cursor_answer for typed in pieces if typed.cursor_answer][-1:] == positions[-1:]


@given(st.lists(st.sampled_from(ANSWERS + KEYS), max_size=6), CUTS)
def test_keys_among_answers_are_seen_in_any_chunking(pieces: list[bytes], cuts: list[int]) -> None:
    """If a key was typed, some piece says so, at the latest when the next key comes."""
    assume(any(piece in KEYS for piece in pieces))
    assert any(typed.keys for typed in fed(b"".join(pieces) + b"x", cuts))


def test_the_start_of_an_answer_that_never_ends_is_keys() -> None:
    """What only began like an answer was typed."""
    keyboard = Keyboard()
    assert not keyboard.feed(b"\x1b[12").keys
    assert keyboard.feed(b"~").keys
    long = Keyboard()
    assert long.feed(b"\x1b]" + b"x" * 300).keys


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_any_bytes_are_taken(pieces: list[bytes]) -> None:
    """Nothing raises, and nothing is kept but the start of an answer."""
    keyboard = Keyboard()
    for piece in pieces:
        keyboard.feed(piece)
    assert keyboard.feed(b"x" * 300).keys


# The key that suspends


def suspends(*pieces: bytes, key: int = CTRL_Z) -> list[int]:
    """The positions of the key, piece by piece; what follows one is searched again, as the session does."""
    finder, positions = SuspendKey(), []
    for piece in pieces:
        rest, gone = piece, 0
        while (at := finder.find(rest, key)) >= 0:
            positions.append(gone + at)
            gone += at + 1
            rest = rest[at + 1 :]
    return positions


PASTES: list[tuple[bytes, list[int]]] = [
    (b"\x1a", [0]),
    (b"ab\x1acd", [2]),
    (b"ab\x1ac\x1a", [2, 4]),
    (b"\x1b[200~a\x1ab\x1b[201~", []),
    (b"\x1b[200~a\x1ab\x1b[201~\x1a", [15]),
    (b"\x1a\x1b[200~\x1a\x1b[201~", [0]),
    (b"\x1b[200~\x1b[200~\x1a\x1b[201~\x1a", [19]),
    (b"\x1b[201~\x1a", [6]),
    (b"\x1b[200~\x1a", []),
]


@pytest.mark.parametrize(("data", "places"), PASTES)
def test_it_is_found_but_not_inside_a_paste(data: bytes, places: list[int]) -> None:
    """A paste may hold any byte; what comes after it is typed again."""
    assert suspends(data) == places


@pytest.mark.parametrize(("data", "places"), PASTES)
def test_a_paste_is_one_in_any_chunking(data: bytes, places: list[int]) -> None:
    """Also when its marks come in two pieces, or byte by byte."""
    for cut in range(1, len(data)):
        assert len(suspends(data[:cut], data[cut:])) == len(places), cut
    assert len(suspends(*(data[at : at + 1] for at in range(len(data))))) == len(places)


def test_without_such_a_key_nothing_suspends_and_pastes_are_still_followed() -> None:
    """A program with the whole terminal has no such key; the paste that began then is known later."""
    finder = SuspendKey()
    assert finder.find(b"\x1a\x1b[200~\x1a", -1) == -1
    assert finder.find(b"\x1a", CTRL_Z) == -1
    assert finder.find(b"\x1b[201~\x1a", CTRL_Z) == 6


@given(
    st.lists(
        st.sampled_from([b"a", b"\x1a", b"\x1b[200~", b"\x1b[201~", b"\x1b", b"[20"]), max_size=12
    ),
    CUTS,
)
def test_how_many_are_found_does_not_depend_on_the_chunks(
    pieces: list[bytes], cuts: list[int]
) -> None:
    """Whole or cut, with marks whole, torn and doubled."""
    data = b"".join(pieces)
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    chunks = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    assert len(suspends(*chunks)) == len(suspends(data))


def test_the_time_in_which_the_session_was_stopped_counts_for_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sidecar that reported meanwhile is not taken for silent before its reports are read."""
    clock, told, fired = SimpleNamespace(now=100.0), list[Event](), list[str]()

    def stopped_for_a_minute(*_: object) -> None:
        clock.now += 60.0

    monkeypatch.setattr(session_input, "suspend", stopped_for_a_minute)
    with Loop(lambda: clock.now) as loop:
        loop.after("sidecar_silent", 30.0, lambda: fired.append("silent"))
        relay = SimpleNamespace(read_terminal=lambda: b"\x1a")
        session_input.Input(
            terminal=cast("Any", None),
            relay=cast("Any", relay),
            console=cast("Any", None),
            aider=cast("Any", SimpleNamespace(child=None)),
            offer=cast("Any", None),
            loop=loop,
            state=lambda: cast("Any", SimpleNamespace(phase=Phase.RUNNING)),
            post=told.append,
            clock=lambda: clock.now,
        ).readable()
        loop.run_once(0)
        assert fired == []
        clock.now += 30.0
        loop.run_once(0)
    assert fired == ["silent"]
    assert told == [JobContinued(60.0)]
