"""Tokens of texts: as many as llama.cpp's own tokeniser makes of them, for every pre-tokeniser that is known."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from counting import all_pairs
from fakes.vocabulary import tiny
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.counting import counter
from aider_guard.counting import vocabulary as counting_vocabulary
from aider_guard.counting.vocabulary import SPLITTINGS, Specials, Vocabulary, vocabulary_of

# Counted by llama.cpp's server (/tokenize) of October 2026 on a model with the vocabulary of all_pairs.py.
RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("llama_cpp.json").read_bytes())
NAMES = [name for recorded in RECORDED["recorded"] for name in recorded["names"]]
_made: dict[str, Vocabulary] = {}


def vocabulary(pre: str) -> Vocabulary:
    """The vocabulary of all pairs, cut up in this way. Made once for all names that cut alike."""
    key = repr(SPLITTINGS[pre])
    if key not in _made:
        made = vocabulary_of(all_pairs.facts(pre))
        assert isinstance(made, Vocabulary)
        _made[key] = made
    return _made[key]


@pytest.mark.parametrize("recorded", RECORDED["recorded"], ids=lambda entry: entry["names"][0])
def test_as_many_tokens_as_llama_cpp_makes(recorded: dict[str, Any]) -> None:
    """Every text, special tokens parsed, and the tokens that are added to each prompt."""
    for name in recorded["names"]:
        counted = [vocabulary(name).count(text) for text in RECORDED["texts"]]
        assert dict(zip(RECORDED["texts"], counted, strict=True)) == dict(
            zip(RECORDED["texts"], recorded["tokens"], strict=True)
        )
        assert vocabulary(name).added == recorded["added"]


def test_every_known_name_was_compared() -> None:
    """Each pattern in the table was compared; the name "" stands for a model without one."""
    assert set(NAMES) == set(SPLITTINGS) - {""}


@given(st.text(max_size=300), st.sampled_from(sorted(SPLITTINGS)))
def test_nothing_of_a_text_is_lost_in_cutting(text: str, pre: str) -> None:
    """The words of a text are the text."""
    assert "".join(vocabulary(pre).words(text)) == text


_LINE = st.sampled_from(
    [
        "def f():\n",
        "x = 'a'\n",
        "\n",
        "  \n",
        "word",
        " two\n",
        "7\n",
        "'\n",
        "s\n",
        "中文\r\n",
        "A",
    ]
)


@given(st.lists(_LINE, max_size=40).map("".join), st.sampled_from(sorted(SPLITTINGS)))
def test_a_text_in_pieces_has_the_tokens_of_the_text(text: str, pre: str) -> None:
    """No token reaches over a cut, in any way of cutting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counter, "PIECE_CHARACTERS", 3)
        parts = list(counter.pieces(text))
    assert "".join(parts) == text
    assert sum(map(vocabulary(pre).count_plain, parts)) == vocabulary(pre).count_plain(text)


def test_pieces_end_with_the_first_line_after_2000_characters() -> None:
    """Where the next line begins with a letter; an empty text has none."""
    assert list(map(len, counter.pieces("a\n" * 3001))) == [2000, 2000, 2000, 2]
    assert list(map(len, counter.pieces("abc\n" * 300 + "   d\n" * 300 + "e"))) == [2700, 1]
    assert list(counter.pieces("")) == []


def test_equal_beginnings_have_equal_pieces() -> None:
    """What was counted once is found again when something is added at the end."""
    text = "def price(item):\n    return item\n" * 500
    before, after = list(counter.pieces(text)), list(counter.pieces(f"{text}print('new')\n"))
    assert len(before) > 5
    assert before[:-1] == after[: len(before) - 1]


@given(st.text("ab", max_size=60), st.integers(1, 90), st.integers(0, 9999))
def test_long_words_are_merged_like_short_ones(text: str, listed: int, seed: int) -> None:
    """The heap of long words finds the same as the plain search, for any pairs in any order."""
    symbols = ["".join(letters) for size in (1, 2, 3) for letters in product("ab", repeat=size)]
    pairs = [f"{one} {two}" for one in symbols for two in symbols]
    order = random.Random(seed).sample(pairs, listed)
    ranks = {pair: rank for rank, pair in enumerate(order)}
    assert counting_vocabulary._merge_long(list(text), ranks) == counting_vocabulary.merge(
        list(text), ranks
    )


def test_pairs_that_are_not_listed_are_not_joined() -> None:
    """ "abc" is a token, made of "ab" and "c"; "a" and "bc" do not make it. tiktoken would join them."""
    ranks = {"b c": 0, "a b": 1, "ab c": 2}
    assert counting_vocabulary.merge(list("abc"), ranks) == ["a", "bc"]


def test_the_leftmost_of_equal_pairs_is_joined_first() -> None:
    """Three times the same letter."""
    assert counting_vocabulary.merge(list("aaa"), {"a a": 0}) == ["aa", "a"]
    assert counting_vocabulary.merge(list("aaa") * 100, {"a a": 0}) == ["aa"] * 150


def test_nothing_is_joined_with_what_is_beyond_a_word() -> None:
    """Though a file may list a pair with an empty half."""
    for size in (1, 100):
        ranks = {" a": 0, "b ": 1, "a b": 2}
        assert counting_vocabulary.merge(list("ab") * size, ranks) == ["ab"] * size


def test_a_byte_that_the_vocabulary_lacks_is_no_token() -> None:
    """As in llama.cpp, which drops it."""
    made = Vocabulary(SPLITTINGS["gpt-2"], ["a b"], ["a", "b", "ab"], Specials(()))
    assert made.count("ab") == 1
    assert made.count("abc") == 1
    assert made.count("é") == 0
    assert made.added == 0


def test_every_byte_has_its_letter() -> None:
    """Also those that GPT-2 writes as another one."""
    made = vocabulary_of(tiny().facts())
    assert isinstance(made, Vocabulary)
    for text in map(chr, range(256)):
        assert made.count(text) == len(tiny().encode(text)) > 0


def test_words_are_merged_once_as_long_as_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one word more than may be kept, all are forgotten at the next text."""
    merged: list[str] = []

    def merge(symbols: list[str], _ranks: object) -> list[str]:
        merged.append("".join(symbols))
        return symbols

    monkeypatch.setattr(counting_vocabulary, "merge", merge)
    monkeypatch.setattr(counting_vocabulary, "_REMEMBERED", 2)
    made = Vocabulary(SPLITTINGS["gpt-2"], [], ["a", "1", "!"], Specials(()))
    for text in ("a1", "a1", "a1!", "a"):
        made.count_plain(text)
    assert merged == ["a", "1", "!", "a"]


def test_lone_surrogates_are_what_go_makes_of_them() -> None:
    """JSON may hold them; Ollama counts U+FFFD."""
    assert vocabulary("qwen2").count("a\ud800b") == vocabulary("qwen2").count("a\ufffdb")


def test_special_tokens_wherever_they_stand() -> None:
    """Longer ones first, each in all that is left of the text; nothing is joined over them."""
    specials = Specials.of(["<a>", "<a><b>", "<b>", "x"], [3, 4, 3, 1], {})
    assert list(specials.split("1<a><b>2<b><a>x")) == [
        ("1", False), ("<a><b>", True), ("2", False), ("<b>", True), ("<a>", True), ("x", False),
    ]  # fmt: skip
    assert list(specials.split("")) == []
    family = Specials.of(["<|x1|>", "<|x22|>", "<|x"], [3, 3, 3], {})
    pieces_found = list(family.split("<|x1|><|x22|><|x"))
    assert pieces_found == [("<|x1|>", True), ("<|x22|>", True), ("<|x", True)]
    assert list(Specials(["aaab"]).split("aaaab")) == [("a", False), ("aaab", True)]


def test_a_token_that_looks_special_is() -> None:
    """Some files call their end of a turn a normal token."""
    assert Specials.of(["<|im_end|>", "</s>"], [1, 1], {}).texts == ["<|im_end|>"]
    assert Specials.of(["<|im_end|>"], [], {}).texts == ["<|im_end|>"]


def test_unknown_control_and_user_defined_tokens_are_special() -> None:
    """Normal, unused and byte tokens are not, nor is one without a type; a type without a token is left alone."""
    names = ["normal", "unknown", "control", "user", "unused", "byte", "", "last"]
    assert set(Specials.of(names, [1, 2, 3, 4, 5, 6, 3], {}).texts) == {
        "unknown",
        "control",
        "user",
    }
    assert Specials.of(["a"], [3, 3], {}).texts == ["a"]


def test_phi_3_swallows_blanks_after_its_marks() -> None:
    """By the model's name, as in llama.cpp."""
    for name, blanks in (("Phi-3 mini", ""), ("other", " \n")):
        specials = Specials.of(["<|end|>"], [3], {"general.name": name})
        expected = [("<|end|>", True), (f"{blanks}a", False)]
        assert list(specials.split("<|end|> \na")) == expected


def test_the_fake_models_vocabulary() -> None:
    """Two ways of counting, written apart, agree."""
    made = vocabulary_of(tiny().facts())
    assert isinstance(made, Vocabulary)
    for text in (
        "def price(item):\n    return 0\n",
        "the lazy 12345 dog's  log",
        "<|im_start|>user\n中文<|im_end|>",
    ):
        assert made.count(text) == len(tiny().encode(text))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokens of the kind 'llama' are only estimated"),
        ({"tokenizer.ggml.model": None}, "tokens of the kind 'None' are only estimated"),
        (
            {"tokenizer.ggml.model": "x" * 21},
            "tokens of the kind 'xxxxxxxxxxxxxxxxxxxx' are only estimated",
        ),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "the pre-tokeniser 'kimi-k2' is not known"),
        ({"tokenizer.ggml.pre": "x" * 21}, "the pre-tokeniser 'xxxxxxxxxxxxxxxxxxxx' is not known"),
        ({"tokenizer.ggml.pre": ["qwen2"]}, "the pre-tokeniser \"['qwen2']\" is not known"),
        ({"tokenizer.ggml.tokens": None}, "the model's vocabulary was not told"),
        ({"tokenizer.ggml.merges": []}, "the model's vocabulary was not told"),
        ({"tokenizer.ggml.merges": ["a b", 7]}, "the model's vocabulary was not told"),
    ],
)
def test_a_vocabulary_that_is_none(changes: dict[str, Any], reason: str) -> None:
    """Other kinds, unknown names, and the answer of a plain /api/show."""
    assert vocabulary_of({**tiny().facts(), **changes}) == Unavailable(reason)


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({}, 0),
        ({"tokenizer.ggml.add_bos_token": True}, 1),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, 2),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, 0),
    ],
)
def test_what_is_added_to_every_prompt(changes: dict[str, Any], added: int) -> None:
    """The model's own word counts before what its pre-tokeniser does."""
    made = vocabulary_of({**tiny().facts(), **changes})
    assert isinstance(made, Vocabulary)
    assert made.added == added


def test_remembered_values_are_bounded() -> None:
    """The longest unused are forgotten first."""
    calls: list[str] = []

    def size(text: str) -> int:
        calls.append(text)
        return len(text)

    remembered = counter.Memo(size, max_characters=10)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        assert remembered(text) == 4
    assert calls == ["aaaa", "bbbb", "cccc", "bbbb"]
    calls.clear()
    full = counter.Memo(size, max_characters=8)
    for text in ("aaaa", "bbbb", "aaaa", "bbbb"):
        full(text)
    assert calls == ["aaaa", "bbbb"]
    calls.clear()
    half = "a" * 4_000_000
    usual = counter.Memo(size)
    for text in (half, half[1:] + "b", half, "c", half[1:] + "b"):
        usual(text)
    assert len(calls) == 4


def test_ranks_are_those_of_the_first_mention() -> None:
    """A pair that is listed twice has its lower rank, as in llama.cpp."""
    pairs = ["b c", "a b", "b c"]
    made = Vocabulary(SPLITTINGS["gpt-2"], pairs, ["a", "b", "c", "bc", "ab"], Specials(()))
    assert made.count("abc") == 2
    assert made._ranks["b c"] == 0
