"""The question after Aider died: one key answers, and only an explicit y is consent."""

from __future__ import annotations

import pytest

from aider_guard.session.console import DEAF_SECONDS, RestartOffer


class Asking:
    """An offer with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: list[bool] = []
        self.offer = RestartOffer(self.answers.append, lambda: self.now)

    def type(self, data: bytes, *, after: float) -> list[bool]:
        self.now += after
        self.offer.typed(data)
        return self.answers


@pytest.fixture
def offer() -> Asking:
    asking = Asking()
    asking.offer.make()
    return asking


KEYS = [
    (b"y", True),
    (b"Y", True),
    (b"yes", True),
    (b"n", False),
    (b"\r", False),
    (b"\x03", False),
    (b"\x04", False),
    (b"\x1b", False),
    (b" y", False),
    (b"\x1b[A", False),
    (b"\xc3\xbf", False),
]


@pytest.mark.parametrize(("key", "accepted"), KEYS)
def test_one_key_answers(offer: Asking, key: bytes, accepted: bool) -> None:
    """y accepts, any other key leaves."""
    assert offer.type(key, after=1.0) == [accepted]


def test_what_was_typed_for_the_aider_that_died_is_no_answer(offer: Asking) -> None:
    """For a moment keys are ignored: the question appeared while the user typed."""
    assert offer.type(b"y", after=DEAF_SECONDS / 2) == []
    assert offer.type(b"n", after=DEAF_SECONDS) == [False]


def test_it_is_answered_once(offer: Asking) -> None:
    """Later keys are the next prompt's."""
    offer.type(b"y", after=1.0)
    assert offer.type(b"n", after=1.0) == [True]


def test_no_question_takes_no_answer() -> None:
    """Before it is on the screen, and after it was answered, until it is made again."""
    asking = Asking()
    assert asking.type(b"y", after=9.0) == []
    asking.offer.make()
    asking.type(b"n", after=1.0)
    asking.offer.make()
    assert asking.type(b"y", after=1.0) == [False, True]


@pytest.mark.parametrize(
    "answer", [b"", b"\x1b[5;1R", b"\x1b[I", b"\x1b[?62;c\x1b[5;1R", b"\x1b]11;rgb:0/0/0\x07"]
)
def test_the_terminals_answers_are_no_keys(offer: Asking, answer: bytes) -> None:
    """They come late, to queries of the Aider that died; the user's key still counts after them."""
    assert offer.type(answer, after=1.0) == []
    assert offer.type(answer + b"y", after=1.0) == [True]
