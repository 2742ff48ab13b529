"""What is held back while a hidden command runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aider_guard.session.console import Hold
from aider_guard.session.escape_sequences import CURSOR_QUERY


def held(*pieces: bytes) -> tuple[Hold, int]:
    """The hold after the child wrote this, and how many of its queries were answered."""
    answers: list[None] = []
    hold = Hold("tokens", None, lambda: answers.append(None))
    for piece in pieces:
        hold.child_wrote(piece)
    return hold, len(answers)


def test_the_childs_bytes_are_kept_in_order() -> None:
    """They are let out as they came if the command fails."""
    hold, _ = held(b"one ", b"\x1b[6n", b"\xfftwo")
    assert bytes(hold.output) == b"one \x1b[6n\xfftwo"


def test_each_query_for_the_cursor_is_answered_once() -> None:
    """prompt_toolkit waits for an answer to each, and says that the terminal has none when it does not come."""
    assert held(b"text")[1] == 0
    assert held(CURSOR_QUERY, b"text", b"a" + CURSOR_QUERY + CURSOR_QUERY)[1] == 3


@given(
    st.lists(
        st.sampled_from([CURSOR_QUERY, b"\x1b[6", b"\x1b[", b"\x1b", b"n", b"x"]), max_size=12
    ),
    st.lists(st.integers(1, 30), max_size=8),
)
def test_queries_are_counted_in_any_chunking(pieces: list[bytes], cuts: list[int]) -> None:
    """As many answers as queries, also when one comes in pieces."""
    data = b"".join(pieces)
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    chunks = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    hold, answers = held(*chunks)
    assert answers == data.count(CURSOR_QUERY)
    assert bytes(hold.output) == data


def test_the_next_aiders_queries_are_answered_after_the_lasts_output_was_forgotten() -> None:
    """A restart drops what the Aider before it wrote, and the new one asks as well."""
    answers: list[None] = []
    hold = Hold("restart", None, lambda: answers.append(None))
    hold.child_wrote(CURSOR_QUERY * 2)
    hold.output.clear()
    hold.child_wrote(b"\x1b[38;5;40m\r\n" + CURSOR_QUERY)
    assert len(answers) == 3
