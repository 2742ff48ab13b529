"""Words in findings: lists, and verbs that agree with them."""

from __future__ import annotations

import pytest

from aider_guard.core.findings import listed, verb


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", ""),
        ("a", "a"),
        ("aa", "a"),
        ("ab", "a and b"),
        ("abc", "a, b and c"),
        ("abcabd", "a, b, c and d"),
        ("abcde", "a, b, c, d and 1 more"),
        ("abcdefg", "a, b, c, d and 3 more"),
    ],
)
def test_a_list_in_a_sentence(words: str, text: str) -> None:
    """Each word once; of more than four the rest is counted."""
    assert listed(words) == text


def test_a_list_may_be_shorter() -> None:
    assert listed("abc", at_most=2) == "a, b and 1 more"
    assert listed("ab", at_most=2) == "a and b"


@pytest.mark.parametrize(("words", "form"), [("", "are"), ("a", "is"), ("aa", "is"), ("ab", "are")])
def test_the_verb_agrees(words: str, form: str) -> None:
    """One word is singular, also where it comes twice."""
    assert verb(words, "is", "are") == form
