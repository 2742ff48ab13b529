"""A small but true byte-level BPE vocabulary, as a GGUF file carries it and a verbose ``/api/show`` tells it.

It is trained here on a few lines, so it is exact to the last token: a counter can be judged by it without a real model.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]  # published without types

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SAMPLE = """
def price(item, count):
    return item.price * count if count > 0 else 0
The quick brown fox jumps over the lazy dog, and the guard says in the log what the model has seen of it.
for line in lines:
    self.total += self.count(line)
"""
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the text is split before merging when ``tokenizer.ggml.pre`` is qwen2 (llama.cpp, llama-vocab.cpp)."""
_MERGES = 80


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number, and the merges in their order."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    def encode(self, text: str) -> list[str]:
        """The tokens of a text, the special ones read as such."""
        found: list[str] = []
        for piece in regex.split("(" + "|".join(map(regex.escape, SPECIAL)) + ")", text):
            found += [piece] if piece in SPECIAL else self._ordinary(piece)
        return found

    def facts(self) -> dict[str, Any]:
        """The entries of ``model_info`` that a verbose ``/api/show`` tells."""
        kinds = [3 if token in SPECIAL else 1 for token in self.tokens]  # control, normal (ggml)
        return {
            **self.plain_facts(),
            "tokenizer.ggml.tokens": list(self.tokens),
            "tokenizer.ggml.merges": [" ".join(pair) for pair in self.merges],
            "tokenizer.ggml.token_type": kinds,
        }

    def plain_facts(self) -> dict[str, Any]:
        """The same when it is not asked for verbosely: lists are null."""
        return {
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": None,
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.token_type": None,
        }

    def _ordinary(self, text: str) -> list[str]:
        ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        return [token for word in words(text) for token in merged(word, ranks)]


def words(text: str) -> list[list[str]]:
    """The text as words of single bytes, each a letter of GPT-2's alphabet."""
    alphabet = letters()
    return [[alphabet[byte] for byte in word.encode()] for word in regex.findall(_QWEN2, text)]


def merged(word: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge the pair of the lowest rank as long as there is one."""
    pieces = list(word)
    while len(pieces) > 1:
        pairs = list(itertools.pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


@functools.cache
def letters() -> tuple[str, ...]:
    """GPT-2's printable letter for each byte (openai/gpt-2, encoder.py: bytes_to_unicode)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in plain else next(others)) for byte in range(256))


def train(sample: str, merges: int) -> Vocabulary:
    """Learn so many merges: each time the pair that is seen most often, the first in the alphabet of equals."""
    learned: list[tuple[str, str]] = []
    pieces = words(sample)
    for _ in range(merges):
        seen = Counter(pair for word in pieces for pair in itertools.pairwise(word))
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        learned.append(best)
        ranks = {pair: rank for rank, pair in enumerate(learned)}
        pieces = [merged(word, ranks) for word in words(sample)]
    tokens = (*SPECIAL, *sorted(letters()), *("".join(pair) for pair in learned))
    return Vocabulary(tuple(dict.fromkeys(tokens)), tuple(learned))


@functools.cache
def tiny() -> Vocabulary:
    """The vocabulary of the fake models that have one."""
    return train(_SAMPLE, _MERGES)
