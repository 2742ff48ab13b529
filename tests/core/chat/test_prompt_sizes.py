"""Bounds and guesses of a prompt's size without counting it."""

from __future__ import annotations

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, chat, listing, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.chat.size import (
    FIRST_ERROR,
    LEARNED_ERROR,
    Sizes,
    bound_tokens,
    parts,
    prompt_bytes,
    reply_reserve,
)
from aider_guard.core.chat.types import Count


def session(*said: str, files: dict[str, str] | None = None) -> ChatRequest:
    """A prompt with files in the chat."""
    listed = listing(prompts.CHAT_FILES, files or {"a.py": "x" * 30_000, "b.py": "y" * 4000})
    turns = [message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(said)]
    first = [message("system", prompts.DIFF), message("user", listed), message("assistant", "Ok.")]
    return request_of("chat", body("chat", [*first, *turns]))


def sizes_with(chat_request: ChatRequest, bytes_a_token: int, error_percent: float = 0.0) -> Sizes:
    """Sizes that know every part of a prompt."""
    sizes, texts = Sizes(), [part.text for part in parts(chat_request)]
    tokens = [len(text) // bytes_a_token for text in texts]
    sizes.note_counts(chat_request.model, texts, tokens, error_percent)
    return sizes


def test_only_what_is_new_counts_by_its_bytes() -> None:
    """A turn later the files are the same: there is no need to count 34 KB again."""
    before, after = session("fix it"), session("fix it", "Done.", "and the other one, too")
    bound = bound_tokens(after)
    assert bound is not None
    assert bound > 34_000
    assert not Sizes().fits(after, 15_000)
    assert sizes_with(before, 4).fits(after, 10_000)
    assert not sizes_with(before, 4).fits(after, 8000)
    changed = session("fix it", files={"a.py": "x" * 30_000, "b.py": "z" * 4000})
    assert sizes_with(before, 4).fits(changed, 13_000)
    assert not sizes_with(before, 4).fits(changed, 11_000)


def test_what_was_estimated_counts_with_its_error() -> None:
    """An estimate counts with its error, and only for its own model."""
    chat_request = session("fix it")
    room = 10_000
    assert sizes_with(chat_request, 4).fits(chat_request, room)
    assert not sizes_with(chat_request, 4, error_percent=20.0).fits(chat_request, room)
    other = request_of("chat", body("chat", list(chat_request.body["messages"]), model="other"))
    assert not sizes_with(chat_request, 4).fits(other, room)


@pytest.mark.parametrize(
    "chat_request",
    [
        request_of("chat", body("chat", [message("user", "no system message")])),
        request_of(
            "chat", body("chat", [message("system", "s"), message("user", "u")], tools=[{}])
        ),
    ],
)
def test_what_cannot_be_bounded_is_counted(chat_request: ChatRequest) -> None:
    """Such a prompt has more tokens than its text."""
    assert not sizes_with(chat_request, 4).fits(chat_request, 1_000_000)


@given(st.text(min_size=1, max_size=3000), st.integers(1, 8))
def test_a_bound_is_never_below_the_sum_of_what_was_counted(text: str, bytes_a_token: int) -> None:
    """This holds for any parts."""
    chat_request = session(text)
    counted = sum(len(part.text) // bytes_a_token for part in parts(chat_request))
    assert not sizes_with(chat_request, bytes_a_token).fits(chat_request, counted)


def test_a_guess_is_by_the_bytes_and_then_by_what_was_evaluated() -> None:
    """After measurements, the highest ratio of tokens to bytes of this model is used."""
    sizes, chat_request = Sizes(), chat(said=("x" * 3500,))
    size = len(prompts.DIFF) + 3500
    assert sizes.guess(chat_request) == Count(-(-size * 2 // 7) + 10, False, 60.0)
    for tokens in (size // 4, size // 2, size // 5):
        sizes.note_size(chat_request, tokens)
    assert sizes.guess(chat_request) == Count(size // 2, False, 35.0)
    other = chat(said=("x" * 3500,), model="other")
    assert sizes.guess(other).error_percent == FIRST_ERROR


@pytest.mark.parametrize(("others", "is_known"), [(1996, True), (1997, False)])
def test_two_thousand_texts_are_remembered(others: int, is_known: bool) -> None:
    """The newest: beyond them the first is counted by its bytes again."""
    chat_request = session("fix it", files={"a.py": "x" * 30_000})
    texts = [part.text for part in parts(chat_request)]
    largest = max(texts, key=len)
    texts.remove(largest)
    assert len(texts) == 4
    sizes = Sizes()
    for text in (largest, *texts, *(f"other {at}" for at in range(others - 1))):
        sizes.note_counts(chat_request.model, [text], [len(text) // 4], 0.0)
    assert sizes.fits(chat_request, 12_000) is is_known


def test_a_prompt_of_no_tokens_teaches_nothing() -> None:
    sizes, chat_request = Sizes(), chat(said=("x" * 3500,))
    sizes.note_size(chat_request, 0)
    assert sizes.guess(chat_request).error_percent == FIRST_ERROR
    sizes.note_size(chat_request, 1)
    assert sizes.guess(chat_request).error_percent == LEARNED_ERROR


def test_eight_prompts_are_remembered() -> None:
    """A dense one counts until eight came after it."""
    sizes, chat_request = Sizes(), chat(said=("x" * 3500,))
    sizes.note_size(chat_request, 3000)
    for _ in range(7):
        sizes.note_size(chat_request, 500)
    assert sizes.guess(chat_request).tokens >= 3000
    sizes.note_size(chat_request, 500)
    assert sizes.guess(chat_request).tokens < 600


def test_a_bound_at_its_edge_is_enough() -> None:
    chat_request = session("fix it", files={"a.py": "x"})
    bound = bound_tokens(chat_request)
    assert bound is not None
    assert Sizes().fits(chat_request, bound)
    assert not Sizes().fits(chat_request, bound - 1)


def test_an_empty_prompt_teaches_nothing() -> None:
    """It has no ratio that another size could be guessed by."""
    sizes, empty = Sizes(), ChatRequest("chat", "qwen3:8b", (), stream=True)
    sizes.note_size(empty, 7)
    assert sizes.guess(chat()).error_percent == FIRST_ERROR
    assert sizes.guess(empty).tokens == 0


@pytest.mark.parametrize(
    ("chat_request", "bound"),
    [
        (chat("s\u00e9", ("u", "aa")), 6 + 64 + 3 * 16),
        (ChatRequest("chat", "m", (Message("system", "s"),), stream=True), 1 + 64 + 16),
        (ChatRequest("chat", "m", (Message("user", "s"),), stream=True), None),
        (
            ChatRequest("chat", "m", (Message("system", "s"), Message("user", "", False)), True),
            None,
        ),
        (ChatRequest("generate", "m", (), stream=True, raw_prompt="s\u00e9"), 3 + 64),
        (ChatRequest("generate", "m", (), stream=True, raw_prompt=""), 64),
        (ChatRequest("generate", "m", (), stream=True, raw_prompt="x", has_tools=True), None),
    ],
)
def test_a_bound_is_the_bytes_and_what_a_template_adds(
    chat_request: ChatRequest, bound: int | None
) -> None:
    """No token is shorter than a byte; a template adds some for the prompt, and some for each message."""
    assert bound_tokens(chat_request) == bound
    room = 1_000_000 if bound is None else bound
    assert Sizes().fits(chat_request, room) is (bound is not None)
    assert not Sizes().fits(chat_request, room - 1)


def test_a_raw_prompt_has_no_pieces_that_are_known() -> None:
    """It fits by its bytes or not at all."""
    raw = ChatRequest("generate", "m", (), stream=True, raw_prompt="x" * 1000)
    sizes = Sizes()
    sizes.note_counts("m", ["x" * 1000], [10], 0.0)
    assert not sizes.fits(raw, 1000)


def test_known_pieces_fit_to_the_last_token() -> None:
    """A piece has at most four tokens more beside others, and an estimate as many as its error allows, rounded up."""
    chat_request = chat("s" * 20_000, ("u" * 1000,))
    sizes = Sizes()
    sizes.note_counts("qwen3:8b", ["s" * 20_000], [10_001], 50.0)
    room = 64 + 2 * 16 + 15_002 + 4 + 1000
    assert sizes.fits(chat_request, room)
    assert not sizes.fits(chat_request, room - 1)
    sizes.note_counts("qwen3:8b", ["u" * 1000], [100], 0.0)
    assert sizes.fits(chat_request, room - 1000 + 104)
    assert not sizes.fits(chat_request, room - 1000 + 103)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        sizes.note_counts("qwen3:8b", ["a", "b"], [1], 0.0)


@pytest.mark.parametrize(
    ("chat_request", "size"),
    [
        (chat("s\u00e9", ("u", "aa")), 6),
        (ChatRequest("generate", "m", (), stream=True, raw_prompt="\u00e9"), 2),
        (ChatRequest("generate", "m", (), stream=True), 0),
    ],
)
def test_the_bytes_of_a_prompt(chat_request: ChatRequest, size: int) -> None:
    assert prompt_bytes(chat_request) == size


@pytest.mark.parametrize(
    ("window", "reserve"),
    [(100, 50), (512, 256), (2055, 256), (2056, 257), (16_383, 2047), (16_384, 2048), (90_000, 2048)],
)  # fmt: skip
def test_an_eighth_of_the_window_is_kept_for_an_answer(window: int, reserve: int) -> None:
    """Within its bounds, and half of a tiny window."""
    assert reply_reserve(ChatRequest("chat", "m", (), stream=True), window) == reserve
