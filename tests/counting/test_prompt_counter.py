"""A prompt's tokens by the best way there is, exact only where that was shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.vocabulary import tiny

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.chat.types import Count
from aider_guard.counting.counter import ModelCounter
from aider_guard.counting.learned import FIRST_ERROR, Learned, Overhead, Ratios, Sample
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


def with_first_token(prompt_format: PromptFormat) -> ModelCounter:
    """A counter for a model whose prompts all begin with one more token."""
    made = vocabulary_of({**tiny().facts(), "tokenizer.ggml.add_bos_token": True})
    assert isinstance(made, Vocabulary)
    return ModelCounter(prompt_format, made, None, Learned())


def knowing(prompt_format: PromptFormat, *samples: Sample, thinks: bool | None) -> ModelCounter:
    """A counter that has learned this about its template."""
    template = counter(prompt_format).learned.template
    learned = Learned(overhead=Overhead(samples), template=template, thinks=thinks)
    return counter(prompt_format, learned)


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
    with_first = with_first_token(PromptFormat(CHATML)).weigh(chat("a")).count
    assert with_first == Count(tokens(rendered("a")) + 1, exact=True)


def test_a_raw_prompt_has_no_template() -> None:
    """/api/generate with raw."""
    request = ChatRequest("generate", "m", (), stream=True, raw_prompt="the <|im_end|> dog")
    prompt_format = PromptFormat(CHATML, system="Be brief.")
    weighted = counter(prompt_format).weigh(request)
    assert weighted.count == Count(tokens("the <|im_end|> dog"), exact=True)
    assert not counter(prompt_format).learn(weighted, 99)
    more = with_first_token(prompt_format).weigh(request).count
    assert more == Count(tokens("the <|im_end|> dog") + 1, exact=True)


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest("generate", "m", (Message("user", "the dog"),), stream=True),
        ChatRequest("openai_text", "m", (), stream=True, raw_prompt="the dog"),
    ],
    ids=lambda request: request.form,
)
def test_other_prompts_have_the_template_and_the_models_own_messages(request_: ChatRequest) -> None:
    """/api/generate without raw, and /v1/completions, whose prompt is a message."""
    prompt_format = PromptFormat(CHATML, system="Be brief.")
    text = f"<|im_start|>system\nBe brief.<|im_end|>\n{rendered('the dog')}"
    assert counter(prompt_format).weigh(request_).count == Count(tokens(text), exact=True)


def test_an_answer_of_no_tokens_teaches_nothing() -> None:
    """A server that does not count reports 0; one token is a number like any other."""
    model_counter = counter(PromptFormat(CHATML))
    weighted = model_counter.weigh(chat("a"))
    assert not model_counter.learn(weighted, 0)
    assert model_counter.learn(weighted, 1)


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


def test_as_long_as_it_is_not_known_whether_a_model_thinks_the_larger_count_is_taken() -> None:
    """Its error covers the smaller one: 3 of 39 tokens are 7.7 per cent, and a tenth is added for rounding."""
    contents = "a b c d e f g h i j"
    assert (tokens(rendered(contents)), tokens(rendered(contents) + "a b")) == (36, 39)
    count = counter(PromptFormat(THINKING, thinks=True)).weigh(chat(contents)).count
    assert count == Count(39, exact=False, error_percent=7.8)


@pytest.mark.parametrize("thinks", [True, False])
def test_what_is_added_counts_from_the_prompt_that_the_model_gets(thinks: bool) -> None:
    """Ollama adds seven tokens, whether or not it lets the model think."""
    samples = [Sample((0, 1, 0), 7)] * 2
    model_counter = knowing(PromptFormat(THINKING, thinks=True), *samples, thinks=thinks)
    text = rendered("a") + ("a b" if thinks else "")
    assert model_counter.weigh(chat("a")).count == Count(tokens(text) + 7, exact=True)


def test_an_estimate_by_overhead_is_a_token_at_least() -> None:
    """The only measurement was far below; another number of messages may be off by ten tokens each, and two."""
    model_counter = knowing(PromptFormat(CHATML), Sample((0, 1, 0), -1000), thinks=None)
    count = model_counter.weigh(chat("a", "b", "c")).count
    assert count == Count(1, exact=False, error_percent=2200.0)


def test_a_first_estimate_without_a_template_has_what_is_usually_added() -> None:
    """Five tokens a message and the first one; it may be off by as much again and a system prompt."""
    model_counter = with_first_token(PromptFormat("", own_renderer=True))
    contents = ["the dog " * 11, "lazy", "fox"]
    counted = sum(map(tokens, contents)) + 1 + 15
    count = model_counter.weigh(chat(*contents)).count
    assert count == Count(counted, exact=False, error_percent=round(100 * 90 / counted, 1))


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


def test_files_of_earlier_sessions_stay_valid() -> None:
    """A template is named by the beginning of its hash, and by whether Ollama uses it."""
    assert counter(PromptFormat("x")).learned.template == "fb951806d724a139"


def test_more_than_text_is_an_estimate_that_teaches_nothing() -> None:
    """Tools are written into the prompt in ways that are not known here."""
    model_counter = counter(PromptFormat(CHATML))
    weighted = model_counter.weigh(chat("a", tools=[1]))
    assert (weighted.count.exact, weighted.count.error_percent) == (False, 15.0)
    assert not model_counter.learn(weighted, 5000)


@pytest.mark.parametrize(
    ("error", "text_only", "shown"),
    [(1.0, True, 3.0), (1.0, False, 15.0), (40.0, True, 50.0), (40.0, False, 50.0)],
)
def test_without_a_vocabulary_more_than_text_has_a_larger_error(
    error: float, text_only: bool, shown: float
) -> None:
    """Where the last estimates were better than that."""
    learned = Learned(Ratios(errors_percent=(error,) * 3))
    request = chat("word " * 100) if text_only else chat("word " * 100, tools=[1])
    weighted = counter(PromptFormat(CHATML), learned, exact=False).weigh(request)
    assert weighted.count.error_percent == shown
    assert weighted.teaches is text_only


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
    assert weighted.count == Count(1105, exact=False, error_percent=60.0)
    assert not model_counter.learn(weighted, 10_000)


def test_single_texts() -> None:
    """Without a template, and without the tokens that are added to a prompt."""
    assert counter(PromptFormat(CHATML)).text("the lazy dog") == tokens("the lazy dog")
    assert counter(PromptFormat(CHATML), exact=False).text("word " * 100) == 110
