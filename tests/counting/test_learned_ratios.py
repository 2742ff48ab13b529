"""What answers teach: ratios that rise, and what a template adds, shown or estimated."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
