"""What a killed child left on in the terminal, and how it is switched off."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.session.escape_sequences import OutputModes

LEFT_ON = {
    "nothing": (b"text \xe2\x94\x80 \r\n\x1b[2K\x1b[1A\x1b[6n", b""),
    "bracketed paste": (b"\x1b[?2004h", b"\x1b[?2004l"),
    "bracketed paste, off again": (b"\x1b[?2004h> \x1b[?2004l", b""),
    "cursor": (b"\x1b[?25l", b"\x1b[?25h"),
    "autowrap": (b"\x1b[?7l", b"\x1b[?7h"),
    "several at once": (b"\x1b[?7;25l", b"\x1b[?7h\x1b[?25h"),
    "alternate screen 1049": (b"\x1b[?1049h", b"\x1b[?1049l"),
    "alternate screen 47": (b"\x1b[?47h", b"\x1b[?47l"),
    "mouse": (b"\x1b[?1000h\x1b[?1006h", b"\x1b[?1006l\x1b[?1000l"),
    "mouse moves": (b"\x1b[?1002;1003h", b"\x1b[?1003l\x1b[?1002l"),
    "focus": (b"\x1b[?1004h", b"\x1b[?1004l"),
    "application cursor keys": (b"\x1b[?1h\x1b=", b"\x1b[?1l\x1b>"),
    "kitty keyboard, twice": (b"\x1b[>1u\x1b[>5u", b"\x1b[<2u"),
    "kitty keyboard, popped": (b"\x1b[>1u\x1b[<u", b""),
    "kitty keyboard, set": (b"\x1b[=1;1u", b"\x1b[<1u"),
    "kitty keyboard, asked for": (b"\x1b[?u", b""),
    "a stack on each screen": (
        b"\x1b[>1u\x1b[?1049h\x1b[>1u",
        b"\x1b[<1u\x1b[?1049l\x1b[<1u",
    ),
    "modifyOtherKeys": (b"\x1b[>4;2m", b"\x1b[>4m"),
    "cursor shape": (b"\x1b[6 q", b"\x1b[0 q"),
    "cursor shape, default": (b"\x1b[6 q\x1b[0 q", b""),
    "colour": (b"\x1b[0;38;5;40m> ", b"\x1b[0m"),
    "colour, ended": (b"\x1b[31mred\x1b[0m \x1b[1mbold\x1b[m", b""),
    "scroll region": (b"\x1b[3;20r", b"\x1b7\x1b[r\x1b8"),
    "line drawing": (b"\x1b(0qqq", b"\x1b(B"),
    "full reset": (b"\x1b[?2004h\x1b[?25l\x1b[1m\x1bc", b""),
    "soft reset": (b"\x1b[?1h\x1b[?25l\x1b[1m\x1b[!p", b""),
    "only spoken of in a title": (b"\x1b]0;\x1b[?25l\x07", b"\x1b[?25h"),
    "inside an OSC string": (b"\x1b]0;[?25l title", b"\x1b\\"),
    "inside a DCS string with BEL": (b"\x1bPtmux;\x07[?25l\x1b\\", b""),
    "half a sequence": (b"\x1b[?20", b"\x18"),
    "half a sequence, aborted by another": (b"\x1b[?20\x1b[?25l", b"\x1b[?25h"),
    "too long to be one": (b"\x1b[?" + b"1;" * 40 + b"25l", b""),
}


@pytest.mark.parametrize(("written", "reset"), LEFT_ON.values(), ids=LEFT_ON.keys())
def test_what_is_left_on_is_switched_off(written: bytes, reset: bytes) -> None:
    """Exactly what a child left on is switched off, whole or one byte at a time."""
    whole, single = OutputModes(), OutputModes()
    whole.feed(written)
    for byte in written:
        single.feed(bytes([byte]))

    assert whole.resets() == reset
    assert single.resets() == reset


PIECES = st.one_of(
    st.sampled_from([written for written, _reset in LEFT_ON.values()]),
    st.sampled_from([b"\x1b", b"[", b"]", b"?", b"25", b";", b"l", b"h", b"\x07", b"\x18", b"P"]),
    st.binary(max_size=6),
)
STREAMS = st.lists(PIECES, max_size=12).map(b"".join)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_chunking_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    """Where the reads happen to end makes no difference, inside a sequence included."""
    whole, pieces = OutputModes(), OutputModes()
    whole.feed(stream)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(edges):
        pieces.feed(stream[start:end])

    assert pieces.resets() == whole.resets()
    assert pieces.changed == whole.changed


@given(stream=STREAMS)
def test_after_the_reset_nothing_is_left(stream: bytes) -> None:
    """The reset, read by the same recogniser, leaves nothing on."""
    modes = OutputModes()
    modes.feed(stream)
    modes.feed(modes.resets())

    assert modes.resets() == b""
