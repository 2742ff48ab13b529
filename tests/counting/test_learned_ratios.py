"""What answers teach: ratios that rise, and what a template adds, shown or estimated."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.types import Count
from aider_guard.counting.counter import Kind, kind_of
from aider_guard.counting.learned import (
    FIRST_ERROR,
    FIRST_RATIOS,
    LEAST_ERROR,
    MAX_RATIO,
    Overhead,
    Ratios,
)

TOKENS = st.dictionaries(st.sampled_from(get_args(Kind)), st.integers(1, 20_000), min_size=1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "prose"),
        (" \n\t", "prose"),
        ("a" * 80 + "é" * 20, "prose"),
        ("a" * 79 + "é" * 21, "strange"),
        ("中" * 50 + "é" * 50, "strange"),
        ("中" * 51 + "é" * 49, "wide"),
        ("a " * 7 + "1\t" * 3, "prose"),
        ("a\n" * 69 + "1 " * 31, "data"),
        ("a " * 92 + "; " * 8, "prose"),
        ("a " * 91 + "; " * 9, "code"),
    ],
)
def test_the_kind_of_a_text_is_that_of_its_signs(text: str, kind: Kind) -> None:
    """More than a fifth beyond ASCII, mostly wide or not; more than 30 per cent digits, more than 8 of code."""
    assert kind_of(text) == kind


@given(TOKENS, st.integers(1, 9), st.floats(0.5, 4))
def test_ratios_only_rise(tokens: dict[str, int], messages: int, factor: float) -> None:
    """With any measurement; and never above their bound."""
    before = Ratios()
    after = before.learn(tokens, messages, round(sum(tokens.values()) * factor))
    assert all(after.by_kind[kind] >= ratio for kind, ratio in before.by_kind.items())
    assert max(after.by_kind.values()) <= MAX_RATIO


@given(TOKENS, st.floats(1.7, 3))
def test_the_same_prompt_is_estimated_better_each_time(
    tokens: dict[str, int], factor: float
) -> None:
    """Up to the measurement, and not beyond."""
    true_tokens = round(sum(tokens.values()) * factor) + 50
    learned, last = Ratios(), 0
    for _ in range(12):
        estimate = learned.estimate(tokens, 1).tokens
        assert last <= estimate <= true_tokens + 1
        learned, last = learned.learn(tokens, 1, true_tokens), estimate


def test_digits_teach_about_digits() -> None:
    """A kind that was not in the prompt keeps its ratio."""
    learned = Ratios().learn({"data": 5000}, 1, 10_000)
    assert learned.by_kind["data"] == pytest.approx(2.0, rel=0.01)
    assert learned.by_kind["code"] == FIRST_RATIOS["code"]


@pytest.mark.parametrize(
    ("tokens", "messages", "true_tokens", "ratios", "error"),
    [
        # Too few by 60 tokens; 60 of cl100k count half.
        ({"code": 60}, 1, 137, {"code": 1.7}, 43.8),
        # The larger part is raised by more: 0.02 for each hundred tokens, and two thirds of it count.
        ({"prose": 40, "wide": 80}, 0, 132 + 120, {"prose": 1.5, "wide": 1.9}, 47.62),
        ({"code": 60}, 1, 77, {}, 0.0),
        ({"code": 60}, 1, 76, {}, 1.32),
        ({}, 2, 20, {}, 50.0),
        ({"code": 0}, 2, 20, {}, 50.0),
        ({"data": 60}, 0, 6000, {"data": 8.0}, 98.4),
        ({"other": 60}, 0, 72 + 60, {"other": 1.7}, 45.45),
        ({"code": 1}, 0, 1, {}, 20.0),
    ],
)
def test_a_measurement_raises_the_ratios_of_its_kinds(
    tokens: dict[str, int],
    messages: int,
    true_tokens: int,
    ratios: dict[str, float],
    error: float,
) -> None:
    """By what was missing, shared out by their parts; and it is noted how far the estimate was off, in per cent."""
    learned = Ratios().learn(tokens, messages, true_tokens)
    assert learned.by_kind == pytest.approx({**FIRST_RATIOS, **ratios})
    assert learned.errors_percent == (error,)


@pytest.mark.parametrize(
    ("errors", "error"),
    [
        ((), 35.0),
        ((1.0, 1.0), 35.0),
        ((30.0,), 37.5),
        ((1.0, 1.0, 1.0), 3.0),
        ((4.0, 2.0, 1.0), 5.0),
        ((2.43, 0.0, 0.0, 0.0), 3.0),
        ((2.53, 0.0, 0.0, 0.0), 3.2),
    ],
)
def test_an_estimate_is_off_by_the_worst_of_the_last_and_a_quarter(
    errors: tuple[float, ...], error: float
) -> None:
    """By 35 % at least as long as fewer than three are known, then by 3 %."""
    count = Ratios(errors_percent=errors).estimate({"code": 100, "data": 10}, 2)
    assert count == Count(120 + 16 + 10, exact=False, error_percent=error)


def test_sixteen_errors_are_remembered() -> None:
    """The next one takes the place of the first."""
    learned = Ratios().learn({"code": 1000}, 0, 1000)
    for _ in range(15):
        learned = learned.learn({"code": 1000}, 0, 1200)
    assert learned.error_percent == 25.0
    assert learned.learn({"code": 1000}, 0, 1200).error_percent == LEAST_ERROR


def test_short_texts_say_little() -> None:
    """Six tokens for one of cl100k raise a ratio by little."""
    assert Ratios().learn({"prose": 1}, 1, 6 + 5).by_kind["prose"] < 1.2


def test_the_error_is_that_of_the_last_estimates() -> None:
    """Large as long as few are known; then the worst, with a margin."""
    learned = Ratios()
    assert learned.estimate({"code": 100}, 1).error_percent == FIRST_ERROR
    for _ in range(3):
        learned = learned.learn({"code": 1000}, 0, 1200)
    assert learned.error_percent == LEAST_ERROR
    learned = learned.learn({"code": 1000}, 0, 1000)
    assert learned.error_percent == pytest.approx(25, abs=0.1)
    for _ in range(16):
        learned = learned.learn({"code": 1000}, 0, 1200)
    assert learned.error_percent == LEAST_ERROR


def overhead(*samples: tuple[tuple[int, ...], int]) -> Overhead:
    """What these measurements teach."""
    learned = Overhead()
    for roles, tokens in samples:
        learned = learned.learn(roles, tokens)
    return learned


def test_what_a_template_adds_is_shown_by_measurements_that_agree() -> None:
    """Three tokens once, four for a system prompt, five for each other message: a session of Aider's, turn by turn."""
    turns = [((1, 1 + n, n), 3 + 4 + 5 * (1 + 2 * n)) for n in range(6)]
    for known in range(4):
        assert overhead(*turns[:known]).exactly(turns[known][0]) is None
    for known in (4, 5):
        assert overhead(*turns[:known]).exactly(turns[known][0]) == turns[known][1]


def test_the_same_roles_twice_are_enough_for_the_same_roles() -> None:
    """And for no others."""
    learned = overhead(((1, 1, 0), 12), ((1, 1, 0), 12))
    assert learned.exactly((1, 1, 0)) == 12
    assert learned.exactly((1, 2, 1)) is None


def test_roles_of_another_kind_are_not_shown() -> None:
    """A session without a system prompt shows nothing of one."""
    turns = [((0, 1 + n, n), 3 + 5 * (1 + 2 * n)) for n in range(6)]
    assert overhead(*turns).exactly((0, 9, 8)) == 3 + 5 * 17
    assert overhead(*turns).exactly((1, 9, 8)) is None
    assert overhead(*turns).exactly((0, 9, 7)) is None


def test_sixteen_measurements_are_remembered() -> None:
    """A wrong one is forgotten when sixteen others came after it."""
    turns = [((n,), 3 * n) for n in range(2, 18)]
    assert overhead(((1,), 99), *turns[:15]).exactly((20,)) is None
    assert overhead(((1,), 99), *turns).exactly((20,)) == 60


def test_no_part_of_a_token_is_added() -> None:
    """Where three tokens came with each two messages, an odd number of messages is only estimated."""
    turns = [((2 * n,), 3 * n) for n in range(1, 5)]
    assert overhead(*turns).exactly((10,)) == 15
    assert overhead(*turns).exactly((3,)) is None


@pytest.mark.parametrize(
    ("samples", "messages", "about"),
    [
        ([], 0, (0, 60)),
        ([], 3, (15, 90)),
        # One measurement: five tokens for each message more, and ten for each that they may be off.
        ([(3, 20)], 3, (20, 2)),
        ([(3, 20)], 5, (30, 22)),
        ([(3, 20)], 1, (10, 22)),
        ([(3, 20), (3, 22)], 4, (27, 14)),
        # Two that differ say what a message has:
        ([(2, 10), (4, 18)], 6, (26, 2)),
        ([(4, 18), (2, 10)], 6, (26, 2)),
        ([(2, 10), (4, 18), (4, 19)], 6, (28, 3)),
        ([(2, 10), (5, 11)], 6, (11, 2)),
        # What the last four say else shows how far it may be off:
        ([(1, 99), (1, 6), (3, 14), (2, 10), (4, 18)], 6, (26, 2)),
        ([(1, 9), (3, 14), (2, 10), (4, 18)], 6, (26, 5)),
        ([(1, 2), (3, 14), (2, 10), (4, 18)], 6, (26, 6)),
    ],
)
def test_what_is_not_shown_is_estimated_from_the_last_measurement(
    samples: list[tuple[int, int]], messages: int, about: tuple[int, int]
) -> None:
    """And by how many tokens it may be off."""
    learned = overhead(*(((0, count), tokens) for count, tokens in samples))
    assert learned.about((1, messages - 1)) == about


def test_measurements_that_contradict_each_other_show_nothing() -> None:
    """A template that cuts blanks off adds now this, now that: an estimate, and by how much it may be off."""
    turns = [((1, 1 + n, n), 5 * (2 + 2 * n) - n % 2) for n in range(8)]
    learned = overhead(*turns)
    assert learned.exactly((1, 9, 8)) is None
    once = [((1, 1 + n, n), 5 * (2 + 2 * n) + (n == 4)) for n in range(9)]
    assert overhead(*once).exactly((1, 20, 19)) is None
    tokens, off = learned.about((1, 9, 8))
    assert abs(tokens - 5 * 18) <= off < 10


def test_with_nothing_known_a_guess_with_its_error() -> None:
    """Some tokens a message."""
    assert Overhead().about((1, 2, 1)) == (20, 100)
    assert Overhead().nothing
    assert overhead(((1, 0, 0), 0), ((1, 1, 0), 0)).nothing
    assert not overhead(((1, 0, 0), 0), ((1, 1, 0), 1)).nothing
    assert not overhead(((1, 0, 0), 3)).nothing


def test_samples_of_another_form_are_left_aside() -> None:
    """As an older version may have kept them."""
    assert overhead(((1, 1), 4), ((1, 1), 4)).exactly((1, 1, 0)) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The guard says in the log what the model has seen of it.", "prose"),
        ("def price(item, count):\n    return item.price * count\n", "code"),
        ('{"a": [1, null], "b": {"c": "d"}}', "code"),
        ("1,22,333\n4444,55555,6\n", "data"),
        ("收银台计算每件商品的价格。", "wide"),
        ("日本語のテキスト", "wide"),
        ("ελληνικά και русский", "strange"),
        ("\ufffd\ufffda\ufffd\x00", "strange"),
        ("", "prose"),
    ],
)
def test_kinds_of_text(text: str, kind: str) -> None:
    """By the signs that most of it is made of."""
    assert kind_of(text) == kind
