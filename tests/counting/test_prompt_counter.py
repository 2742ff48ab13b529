"""A prompt's tokens by the best way there is, exact only where that was shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.vocabulary import tiny

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.chat.types import Count
from aider_guard.counting.counter import NO_ENCODING_ERROR, ModelCounter
from aider_guard.counting.learned import FIRST_ERROR, Learned, Overhead, Ratios
from aider_guard.counting.prompt import PromptFormat
from aider_guard.counting.vocabulary import Vocabulary, vocabulary_of

CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
THINKING = CHATML + "{{ if .IsThinkSet }}{{ if .Think }}a b{{ else }}c{{ end }}{{ end }}"


def counter(
    card: PromptFormat, learned: Learned | None = None, *, exact: bool = True
) -> ModelCounter:
    """A counter on the fake models' vocabulary, or on one token a word."""
    made = vocabulary_of(tiny().facts())
    assert isinstance(made, Vocabulary)
    words = len if exact else lambda text: len(text.split())
    return ModelCounter(card, made if exact else None, words, learned or Learned())


def asked(*contents: str, think: bool | None = None, **body: Any) -> ChatRequest:
    """A chat that the user begins."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], content) for n, content in enumerate(contents))
    return ChatRequest("chat", "m", messages, stream=True, body={"think": think, **body})


def tokens(text: str) -> int:
    """As the fake Ollama counts."""
    return len(tiny().encode(text))


def rendered(*contents: str) -> str:
    """The prompt of CHATML."""
    marks = [
        f"<|im_start|>{('user', 'assistant')[n % 2]}\n{text}<|im_end|>\n"
        for n, text in enumerate(contents)
    ]
    return "".join(marks) + "<|im_start|>assistant\n"


def test_with_vocabulary_and_template_every_count_is_exact() -> None:
    """The first one, too; and what is added to every prompt is in it."""
    count = counter(PromptFormat(CHATML)).weigh(asked("def f():", "the log", "  x\n\n")).count
    assert count == Count(tokens(rendered("def f():", "the log", "  x\n\n")), exact=True)
    made = vocabulary_of({**tiny().facts(), "tokenizer.ggml.add_bos_token": True})
    assert isinstance(made, Vocabulary)
    with_first = ModelCounter(PromptFormat(CHATML), made, None, Learned()).weigh(asked("a")).count
    assert with_first == Count(tokens(rendered("a")) + 1, exact=True)


def test_a_raw_prompt_has_no_template() -> None:
    """/api/generate with raw."""
    request = ChatRequest("generate", "m", (), stream=True, raw_prompt="the <|im_end|> dog")
    assert counter(PromptFormat(CHATML)).weigh(request).count == Count(
        tokens("the <|im_end|> dog"), exact=True
    )


def test_a_count_that_was_wrong_is_exact_no_more() -> None:
    """Another version of Ollama renders otherwise: from then on an estimate, until enough agrees again."""
    counting = counter(PromptFormat(CHATML))
    for turn in range(6):
        request = asked(*["the dog"] * (2 * turn + 1))
        weighed = counting.weigh(request)
        truth = tokens(rendered(*["the dog"] * (2 * turn + 1))) + 7
        assert weighed.count.exact is (turn == 0 or turn >= 4)
        if turn >= 4:
            assert weighed.count.tokens == truth
        elif turn:
            assert weighed.count.at_least <= truth <= weighed.count.at_most
        counting.learn(weighed, truth)


def test_a_count_that_was_right_leaves_nothing_to_remember() -> None:
    """No file is written for it."""
    counting = counter(PromptFormat(CHATML))
    before = counting.learned
    weighed = counting.weigh(asked("a"))
    assert not counting.learn(weighed, weighed.count.tokens)
    assert counting.learned == before


@pytest.mark.parametrize("thinks", [True, False])
def test_whether_ollama_lets_a_model_think_is_learned(thinks: bool) -> None:
    """Newer versions do unless told otherwise: the first answer shows it, and every count after it is exact."""
    counting = counter(PromptFormat(THINKING, thinks=True))
    bare = tokens(rendered("a"))
    first = counting.weigh(asked("a"))
    truth = tokens(rendered("a") + "a b") if thinks else bare
    assert not first.count.exact
    assert first.count.at_least <= truth <= first.count.at_most
    assert counting.learn(first, truth)
    assert counting.learned.thinks is thinks
    assert counting.weigh(asked("a")).count == Count(truth, exact=True)
    said = counting.weigh(asked("a", think=False)).count
    assert said == Count(tokens(rendered("a") + "c"), exact=True)


def test_a_model_that_does_not_think_has_one_way() -> None:
    """Though its template could."""
    assert counter(PromptFormat(THINKING)).weigh(asked("a")).count == Count(
        tokens(rendered("a")), exact=True
    )


def test_without_a_template_its_overhead_is_learned() -> None:
    """An estimate at first, exact when four turns were as predicted by the same sum."""
    counting = counter(PromptFormat("", own_renderer=True))
    for turn in range(7):
        contents = ["the dog", "lazy"] * turn + ["fox"]
        weighed = counting.weigh(asked(*contents))
        truth = tokens(rendered(*contents))
        assert weighed.count.exact is (turn >= 4)
        assert turn < 4 or weighed.count.tokens == truth
        assert weighed.count.at_least <= truth <= weighed.count.at_most
        counting.learn(weighed, truth)


def test_what_was_learned_of_another_template_is_forgotten() -> None:
    """Ratios stay: they are the vocabulary's."""
    counting = counter(PromptFormat("x{{ .Prompt }}"))
    counting.learn(counting.weigh(asked("a")), 99)
    kept = replace(counting.learned, ratios=Ratios({"code": 2.0}))
    assert counter(PromptFormat("x{{ .Prompt }}"), kept).learned == kept
    other = counter(PromptFormat(CHATML), kept).learned
    assert (other.overhead, other.ratios) == (Overhead(), kept.ratios)


def test_more_than_text_is_an_estimate_that_teaches_nothing() -> None:
    """Tools are written into the prompt in ways that are not known here."""
    counting = counter(PromptFormat(CHATML))
    weighed = counting.weigh(asked("a", tools=[1]))
    assert (weighed.count.exact, weighed.count.error_percent > 0) == (False, True)
    assert not counting.learn(weighed, 5000)


def test_without_a_vocabulary_cl100k_times_what_was_learned() -> None:
    """Always an estimate, with its error."""
    counting = counter(PromptFormat(CHATML), exact=False)
    text = "word " * 1000
    first = counting.weigh(asked(text))
    assert first.count == Count(1105, exact=False, error_percent=FIRST_ERROR)
    assert counting.learn(first, 1505)
    assert counting.weigh(asked(text)).count.tokens == pytest.approx(1500, abs=30)


def test_without_any_encoding_a_guess_by_the_bytes() -> None:
    """It says how bad it may be, and learns nothing that another base would be multiplied with."""
    counting = ModelCounter(PromptFormat(CHATML), None, None, Learned())
    weighed = counting.weigh(asked("word " * 700))
    assert weighed.count.error_percent == NO_ENCODING_ERROR
    assert weighed.count.at_least < 700 < weighed.count.at_most
    assert not counting.learn(weighed, 10_000)


def test_single_texts() -> None:
    """Without a template, and without what is added to a prompt."""
    assert counter(PromptFormat(CHATML)).text("the lazy dog") == tokens("the lazy dog")
    assert counter(PromptFormat(CHATML), exact=False).text("word " * 100) == 110
