"""How long a prompt will take to read follows from how long others took, and from how far it has come."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from aider_guard.core.chat.pace import (
    NO_PACE,
    ReadingPace,
    ReadingPaces,
    ReadingPosition,
    ReadingSample,
    about,
    progress_words,
    seconds_left,
)

EVEN = ReadingPace(even_tokens=math.inf)
"""Of a model whose attention takes no time."""


def takes(start: int, tokens: int, token: float, pair: float) -> ReadingSample:
    """A sample of a machine that needs so long for a token and for each pair that attention compares."""
    return ReadingSample(start, tokens, token * tokens + pair * tokens * (start + tokens / 2))


def pace(*samples: ReadingSample) -> ReadingPace:
    known = EVEN
    for sample in samples:
        known = known.with_sample(sample)
    return known


@pytest.mark.parametrize(("token", "pair"), [(0.01, 0.0), (0.01, 2e-6), (0.0, 1e-6)])
def test_two_prompts_of_different_length_tell_what_a_third_takes(token: float, pair: float) -> None:
    """Also behind a long beginning, where each token is compared with more."""
    known = pace(takes(0, 600, token, pair), takes(0, 4_000, token, pair))
    expected = takes(8_000, 2_000, token, pair).seconds
    assert known.seconds(8_000, 2_000) == pytest.approx(expected, rel=0.01)


def test_samples_of_one_kind_tell_of_the_tokens_only() -> None:
    """What attention costs cannot be told apart then, and nothing wild is concluded."""
    known = pace(*[ReadingSample(0, 1_000, seconds) for seconds in (9.9, 10.0, 10.1)])
    assert known.seconds(0, 3_000) == pytest.approx(30.0, rel=0.02)


def test_before_the_samples_tell_it_the_shape_of_the_model_says_that_later_tokens_take_longer() -> (
    None
):
    """Behind 1,000 tokens each takes twice as long as the first, where attention then takes as long as the weights."""
    known = replace(pace(ReadingSample(0, 1_000, 15.0)), even_tokens=1_000)
    assert known.seconds(1_000, 1_000) == pytest.approx(25.0)
    position = ReadingPosition(2_000, 0, 1_000, at_seconds=30.0)
    for some in (known, ReadingPace(even_tokens=1_000)):
        assert seconds_left(some, position, 30.0) == pytest.approx(50.0)


def piece(tokens: int, start: int = 0) -> ReadingSample:
    """A sample of a card: what a request takes anyway, and reads in whole pieces of 512 tokens, 0.4 s each."""
    return ReadingSample(start, tokens, 0.05 + 0.4 * math.ceil(tokens / 512))


@pytest.mark.parametrize("turns", [0, 1, 5, 11, 12, 40])
def test_turns_whose_prompt_was_read_ahead_do_not_spoil_the_pace(turns: int) -> None:
    """Each reads a hundred tokens or two behind a long beginning, in as long as a whole piece takes."""
    known = pace(*[piece(tokens) for tokens in (6_000, 3_000, 9_000)])
    for turn in range(turns):
        known = known.with_sample(piece(70 + turn * 37 % 150, start=6_000 + 200 * turn))
    assert known.seconds(0, 8_000) == pytest.approx(piece(8_000).seconds, rel=0.1)


def test_short_prompts_tell_what_they_can_until_a_longer_one_does() -> None:
    """On a fast machine all are read within a second."""
    known = pace(*[ReadingSample(0, 200, 0.1)] * 20)
    assert known.seconds(0, 2_000) == pytest.approx(1.0)
    assert known.with_sample(ReadingSample(0, 4_000, 1.0)).seconds(0, 2_000) == pytest.approx(0.5)


def test_noise_makes_no_time_negative() -> None:
    """A short prompt that took long, as the machine was busy, makes a longer one take no less."""
    known = pace(ReadingSample(0, 100, 9.0), ReadingSample(0, 5_000, 50.0))
    shorter, longer = known.seconds(0, 1_000), known.seconds(0, 5_000)
    assert isinstance(shorter, float)
    assert isinstance(longer, float)
    assert 0 < shorter < longer


def test_the_newest_samples_count_most() -> None:
    """The machine may have got more to do."""
    slower = pace(*[ReadingSample(0, 1_000, 10.0)] * 3, *[ReadingSample(0, 1_000, 20.0)] * 9)
    seconds = slower.seconds(0, 1_000)
    assert isinstance(seconds, float)
    assert 15 < seconds <= 20


@pytest.mark.parametrize("sample", [ReadingSample(0, 10, 1.0), ReadingSample(0, 500, 0.0)])
def test_what_says_nothing_is_not_learned(sample: ReadingSample) -> None:
    """A few tokens, or no time."""
    assert pace(sample).seconds(0, 500) == NO_PACE


def test_what_is_read_of_a_prompt_says_how_fast_the_machine_is_now() -> None:
    """Half was read in twice the usual time: the other half takes twice as long too, less what has passed since."""
    known = pace(ReadingSample(0, 1_000, 10.0))
    position = ReadingPosition(2_000, 0, 1_000, at_seconds=20.0)
    assert seconds_left(known, position, 20.0) == pytest.approx(20.0)
    assert seconds_left(known, position, 25.0) == pytest.approx(15.0)
    assert seconds_left(known, position, 90.0) == 0.0


def test_without_a_pace_the_prompt_itself_tells_once_a_piece_of_it_is_read() -> None:
    """Before that nothing is known, and nothing is said."""
    position = ReadingPosition(3_000, 1_000)
    assert seconds_left(EVEN, position, 5.0) == NO_PACE
    position = ReadingPosition(3_000, 1_000, 500, at_seconds=4.0)
    assert seconds_left(EVEN, position, 4.0) == pytest.approx(12.0)


def test_only_what_is_not_known_already_is_waited_for() -> None:
    """Tokens of the cache take no time."""
    known = pace(ReadingSample(0, 1_000, 10.0))
    assert seconds_left(known, ReadingPosition(4_000, 3_500), 0.0) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (8.4, "about 8 s"), (42.0, "about 40 s"), (150.0, "about 2 min")],
)
def test_a_time_is_said_as_exactly_as_it_is_known(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_what_is_shown_first_says_how_much_from_where_and_how_long() -> None:
    assert progress_words(ReadingPosition(4_400, 1_600), 41.0) == (
        "the model reads 2,800 tokens (1,600 more are known): about 40 s"
    )


def test_paces_are_kept_as_numbers_and_read_again() -> None:
    """The one learned last stands last; the oldest of many is forgotten."""
    paces = ReadingPaces()
    for number in range(45):
        paces = paces.learned(f"model-{number}", ReadingSample(0, 500, 5.0))
    paces = paces.learned("model-20", ReadingSample(100, 900, 10.0))
    kept = ReadingPaces.of_plain(paces.plain())
    assert list(kept.models)[-1] == "model-20"
    assert len(kept.models) == 40
    assert kept.of("model-20").samples == (
        ReadingSample(0, 500, 5.0),
        ReadingSample(100, 900, 10.0),
    )
    assert kept.of("model-0").samples == ()


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        [],
        {"m": 3},
        {"m": [[0, 500]]},
        {"m": [[True, 500, 1.0]]},
        {"m": [[0, 500, -1]]},
        {"m": [[0, 1 << 40, 1.0]]},
        {"m": ["abc"]},
        {"m": [[0, 500, float("inf")]]},
    ],
)
def test_a_file_of_garbage_says_nothing(garbage: object) -> None:
    assert ReadingPaces.of_plain(garbage).models == {}
