"""What is known of a prompt's size without counting it."""

from __future__ import annotations

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import asked_of, body, chat, listing, message
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import FIRST_ERROR, LEARNED_ERROR, Sizes, bound_tokens, parts


def session(*said: str, files: dict[str, str] | None = None) -> ChatRequest:
    """A prompt with files in the chat."""
    listed = listing(prompts.CHAT_FILES, files or {"a.py": "x" * 30_000, "b.py": "y" * 4000})
    turns = [message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(said)]
    first = [message("system", prompts.DIFF), message("user", listed), message("assistant", "Ok.")]
    return asked_of("chat", body("chat", [*first, *turns]))


def taught(asked: ChatRequest, bytes_a_token: int, error_percent: float = 0.0) -> Sizes:
    """Every part of a prompt was counted."""
    sizes, texts = Sizes(), [part.text for part in parts(asked)]
    tokens = [len(text) // bytes_a_token for text in texts]
    sizes.note_counts(asked.model, texts, tokens, error_percent)
    return sizes


def test_only_what_is_new_counts_by_its_bytes() -> None:
    """A turn later the files are the same: there is no need to count 34 KB again."""
    before, after = session("fix it"), session("fix it", "Done.", "and the other one, too")
    bound = bound_tokens(after)
    assert bound is not None
    assert bound > 34_000
    assert not Sizes().fits(after, 15_000)
    assert taught(before, 4).fits(after, 10_000)
    assert not taught(before, 4).fits(after, 8000)
    changed = session("fix it", files={"a.py": "x" * 30_000, "b.py": "z" * 4000})
    assert taught(before, 4).fits(changed, 13_000)
    assert not taught(before, 4).fits(changed, 11_000)


def test_what_was_estimated_counts_with_its_error() -> None:
    """And only for the model whose tokens they are."""
    asked = session("fix it")
    room = 10_000
    assert taught(asked, 4).fits(asked, room)
    assert not taught(asked, 4, error_percent=20.0).fits(asked, room)
    other = asked_of("chat", body("chat", list(asked.body["messages"]), model="other"))
    assert not taught(asked, 4).fits(other, room)


@pytest.mark.parametrize(
    "asked",
    [
        asked_of("chat", body("chat", [message("user", "no system message")])),
        asked_of("chat", body("chat", [message("system", "s"), message("user", "u")], tools=[{}])),
    ],
)
def test_what_cannot_be_bounded_is_counted(asked: ChatRequest) -> None:
    """There is more to the prompt than its text."""
    assert not taught(asked, 4).fits(asked, 1_000_000)


@given(st.text(min_size=1, max_size=3000), st.integers(1, 8))
def test_a_bound_is_never_below_the_sum_of_what_was_counted(text: str, bytes_a_token: int) -> None:
    """Whatever the parts are."""
    asked = session(text)
    counted = sum(len(part.text) // bytes_a_token for part in parts(asked))
    assert not taught(asked, bytes_a_token).fits(asked, counted)


def test_a_guess_is_by_the_bytes_and_then_by_what_was_evaluated() -> None:
    """The most tokens for the bytes that were seen of this model."""
    sizes, asked = Sizes(), chat(said=("x" * 3500,))
    size = len(prompts.DIFF) + 3500
    assert (sizes.guess(asked).tokens, sizes.guess(asked).exact) == (-(-size * 2 // 7) + 10, False)
    assert sizes.guess(asked).error_percent == FIRST_ERROR
    for tokens in (size // 4, size // 2, size // 5):
        sizes.note_size(asked, tokens)
    assert abs(sizes.guess(asked).tokens - size // 2) <= 1
    assert sizes.guess(asked).error_percent == LEARNED_ERROR


@pytest.mark.parametrize(("others", "is_known"), [(1996, True), (1997, False)])
def test_two_thousand_texts_are_remembered(others: int, is_known: bool) -> None:
    """The newest: beyond them the first is counted by its bytes again."""
    asked = session("fix it", files={"a.py": "x" * 30_000})
    texts = [part.text for part in parts(asked)]
    largest = max(texts, key=len)
    texts.remove(largest)
    assert len(texts) == 4
    sizes = Sizes()
    for text in (largest, *texts, *(f"other {at}" for at in range(others - 1))):
        sizes.counted(asked.model, [text], [len(text) // 4], 0.0)
    assert sizes.fits(asked, 12_000) is is_known


def test_a_prompt_of_no_tokens_teaches_nothing() -> None:
    sizes, asked = Sizes(), chat(said=("x" * 3500,))
    sizes.measured(asked, 0)
    assert sizes.guess(asked).error_percent == FIRST_ERROR
    sizes.measured(asked, 1)
    assert sizes.guess(asked).error_percent == LEARNED_ERROR


def test_eight_prompts_are_remembered() -> None:
    """A dense one counts until eight came after it."""
    sizes, asked = Sizes(), chat(said=("x" * 3500,))
    sizes.measured(asked, 3000)
    for _ in range(7):
        sizes.measured(asked, 500)
    assert sizes.guess(asked).tokens >= 3000
    sizes.measured(asked, 500)
    assert sizes.guess(asked).tokens < 600


def test_a_bound_at_its_edge_is_enough() -> None:
    asked = session("fix it", files={"a.py": "x"})
    bound = bound_tokens(asked)
    assert bound is not None
    assert Sizes().fits(asked, bound)
    assert not Sizes().fits(asked, bound - 1)
