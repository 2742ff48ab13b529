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
    prompt_format: PromptFormat, learned: Learned | None = None, *, exact: bool = True
) -> ModelCounter:
    """A counter on the fake models' vocabulary, or on one token a word."""
    made = vocabulary_of(tiny().facts())
    assert isinstance(made, Vocabulary)
    words = len if exact else lambda text: len(text.split())
    return ModelCounter(prompt_format, made if exact else None, words, learned or Learned())


def chat(*contents: str, think: bool | None = None, **body: Any) -> ChatRequest:
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
    """The first one, too; the tokens that are added to every prompt are in it."""
    count = counter(PromptFormat(CHATML)).weigh(chat("def f():", "the log", "  x\n\n")).count
    assert count == Count(tokens(rendered("def f():", "the log", "  x\n\n")), exact=True)
    made = vocabulary_of({**tiny().facts(), "tokenizer.ggml.add_bos_token": True})
    assert isinstance(made, Vocabulary)
    with_first = ModelCounter(PromptFormat(CHATML), made, None, Learned()).weigh(chat("a")).count
    assert with_first == Count(tokens(rendered("a")) + 1, exact=True)


def test_a_raw_prompt_has_no_template() -> None:
    """/api/generate with raw."""
    request = ChatRequest("generate", "m", (), stream=True, raw_prompt="the <|im_end|> dog")
    assert counter(PromptFormat(CHATML)).weigh(request).count == Count(
        tokens("the <|im_end|> dog"), exact=True
    )


def test_a_count_that_was_wrong_is_exact_no_more() -> None:
    """Another version of Ollama renders otherwise: from then on an estimate, until enough agrees again."""
    model_counter = counter(PromptFormat(CHATML))
    for turn in range(6):
        request = chat(*["the dog"] * (2 * turn + 1))
        weighted = model_counter.weigh(request)
        truth = tokens(rendered(*["the dog"] * (2 * turn + 1))) + 7
        assert weighted.count.exact is (turn == 0 or turn >= 4)
        if turn >= 4:
            assert weighted.count.tokens == truth
        elif turn:
            assert weighted.count.at_least <= truth <= weighted.count.at_most
        model_counter.learn(weighted, truth)


def test_a_count_that_was_right_leaves_nothing_to_remember() -> None:
    """No file is written for it."""
    model_counter = counter(PromptFormat(CHATML))
    before = model_counter.learned
    weighted = model_counter.weigh(chat("a"))
    assert not model_counter.learn(weighted, weighted.count.tokens)
    assert model_counter.learned == before


@pytest.mark.parametrize("thinks", [True, False])
def test_whether_ollama_lets_a_model_think_is_learned(thinks: bool) -> None:
    """Newer versions do unless a request forbids it: the first answer shows it, and every count after it is exact."""
    model_counter = counter(PromptFormat(THINKING, thinks=True))
    bare = tokens(rendered("a"))
    first = model_counter.weigh(chat("a"))
    truth = tokens(rendered("a") + "a b") if thinks else bare
    assert not first.count.exact
    assert first.count.at_least <= truth <= first.count.at_most
    assert model_counter.learn(first, truth)
    assert model_counter.learned.thinks is thinks
    assert model_counter.weigh(chat("a")).count == Count(truth, exact=True)
    explicit = model_counter.weigh(chat("a", think=False)).count
    assert explicit == Count(tokens(rendered("a") + "c"), exact=True)


def test_a_model_that_does_not_think_has_one_way() -> None:
    """Though its template could."""
    assert counter(PromptFormat(THINKING)).weigh(chat("a")).count == Count(
        tokens(rendered("a")), exact=True
    )


def test_without_a_template_its_overhead_is_learned() -> None:
    """An estimate at first, exact when four turns were as predicted by the same sum."""
    model_counter = counter(PromptFormat("", own_renderer=True))
    for turn in range(7):
        contents = ["the dog", "lazy"] * turn + ["fox"]
        weighted = model_counter.weigh(chat(*contents))
        truth = tokens(rendered(*contents))
        assert weighted.count.exact is (turn >= 4)
        assert turn < 4 or weighted.count.tokens == truth
        assert weighted.count.at_least <= truth <= weighted.count.at_most
        model_counter.learn(weighted, truth)


def test_what_was_learned_of_another_template_is_forgotten() -> None:
    """Ratios stay: they are the vocabulary's."""
    model_counter = counter(PromptFormat("x{{ .Prompt }}"))
    model_counter.learn(model_counter.weigh(chat("a")), 99)
    kept = replace(model_counter.learned, ratios=Ratios({"code": 2.0}))
    assert counter(PromptFormat("x{{ .Prompt }}"), kept).learned == kept
    other = counter(PromptFormat(CHATML), kept).learned
    assert (other.overhead, other.ratios) == (Overhead(), kept.ratios)


def test_more_than_text_is_an_estimate_that_teaches_nothing() -> None:
    """Tools are written into the prompt in ways that are not known here."""
    model_counter = counter(PromptFormat(CHATML))
    weighted = model_counter.weigh(chat("a", tools=[1]))
    assert (weighted.count.exact, weighted.count.error_percent > 0) == (False, True)
    assert not model_counter.learn(weighted, 5000)


def test_without_a_vocabulary_cl100k_times_what_was_learned() -> None:
    """Always an estimate, with its error."""
    model_counter = counter(PromptFormat(CHATML), exact=False)
    text = "word " * 1000
    first = model_counter.weigh(chat(text))
    assert first.count == Count(1105, exact=False, error_percent=FIRST_ERROR)
    assert model_counter.learn(first, 1505)
    assert model_counter.weigh(chat(text)).count.tokens == pytest.approx(1500, abs=30)


def test_without_any_encoding_a_guess_by_the_bytes() -> None:
    """It has a large error, and learns nothing that another base would be multiplied with."""
    model_counter = ModelCounter(PromptFormat(CHATML), None, None, Learned())
    weighted = model_counter.weigh(chat("word " * 700))
    assert weighted.count.error_percent == NO_ENCODING_ERROR
    assert weighted.count.at_least < 700 < weighted.count.at_most
    assert not model_counter.learn(weighted, 10_000)


def test_single_texts() -> None:
    """Without a template, and without the tokens that are added to a prompt."""
    assert counter(PromptFormat(CHATML)).text("the lazy dog") == tokens("the lazy dog")
    assert counter(PromptFormat(CHATML), exact=False).text("word " * 100) == 110
