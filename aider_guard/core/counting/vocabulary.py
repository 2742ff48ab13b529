"""A model's vocabulary: what Ollama says of it (``/api/show`` with ``verbose``) → the tokens of a text, exactly.

Ollama hands every prompt to its tokeniser with special tokens parsed, wherever in the text they stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import regex  # type: ignore[import-untyped]  # published without types

from aider_guard.core.counting.bpe import merge
from aider_guard.core.counting.patterns import SPLITTINGS, Splitting
from aider_guard.core.counting.special import Specials
from aider_guard.core.readings import Unavailable

FACTS: Final = (
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.bos_token_id",
    "general.name",
)
"""What of ``model_info`` a vocabulary is made of; small enough to be kept."""

# GPT-2 writes every byte as a printable character: itself, or one above 255, in order.
_PRINTABLE: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS: Final = [byte for byte in range(256) if byte not in _PRINTABLE]
_CHARACTERS: Final = {byte: byte for byte in _PRINTABLE} | {
    b: 256 + n for n, b in enumerate(_OTHERS)
}
_SURROGATES: Final = regex.compile("[\ud800-\udfff]")
# At most so many words are remembered with their numbers of tokens (some 10 MB).
_REMEMBERED: Final = 60_000


class Vocabulary:
    """Counts the tokens of texts. Words that came before are remembered."""

    def __init__(
        self,
        splitting: Splitting,
        merges: Iterable[str],
        tokens: Iterable[str],
        specials: Specials,
        *,
        added: int = 0,
    ) -> None:
        self._stages = [regex.compile(f"({stage})") for stage in splitting.stages]
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
        self._tokens = frozenset(tokens)
        self._whole_words = splitting.whole_words
        self._specials = specials
        self._known: dict[str, int] = {}
        self.added = added
        """Tokens that every prompt gets besides its own: one at its beginning, one at its end."""

    def count(self, text: str) -> int:
        """The tokens of a text, special ones among them; without those that every prompt gets."""
        # Go's JSON decoder has no lone surrogates.
        pieces = self._specials.split(_SURROGATES.sub("\ufffd", text))
        return sum(1 if special else self.count_plain(piece) for piece, special in pieces)

    def count_plain(self, text: str) -> int:
        """The tokens of a text in which no special token is looked for."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        known, total = self._known, 0
        for word in self.words(text):
            tokens = known.get(word)
            if tokens is None:
                tokens = known[word] = self._of_word(word)
            total += tokens
        return total

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text in pieces, each with whether it is one special token; no token crosses their borders."""
        return self._specials.split(_SURROGATES.sub("\ufffd", text))

    def words(self, text: str) -> list[str]:
        """The pieces that are tokenised one by one."""
        pieces = [text]
        for stage in self._stages:
            pieces = [part for piece in pieces for part in stage.split(piece) if part]
        return pieces

    def _of_word(self, word: str) -> int:
        written = word.encode().decode("latin-1").translate(_CHARACTERS)
        if self._whole_words and written in self._tokens:
            return 1
        symbols = merge(list(written), self._ranks)
        # A byte that the vocabulary lacks gives no token at all.
        return sum(symbol in self._tokens for symbol in symbols)


def vocabulary_of(facts: Mapping[str, Any]) -> Vocabulary | Unavailable:
    """The vocabulary in ``model_info``; Unavailable where the model is none of BPE, or cut up in an unknown way."""
    kind = facts.get("tokenizer.ggml.model")
    if kind != "gpt2":
        return Unavailable(f"tokens of the kind {str(kind)[:20]!r} are only estimated")
    name = facts.get("tokenizer.ggml.pre") or ""
    splitting = SPLITTINGS.get(name) if isinstance(name, str) else None
    if splitting is None:
        return Unavailable(f"the pre-tokeniser {str(name)[:20]!r} is not known")
    tokens, merges = (_texts(facts.get(f"tokenizer.ggml.{key}")) for key in ("tokens", "merges"))
    if not tokens or not merges:
        return Unavailable("the model's vocabulary was not told")
    types = facts.get("tokenizer.ggml.token_type")
    specials = Specials.of(tokens, types if isinstance(types, list) else [], facts)
    return Vocabulary(splitting, merges, tokens, specials, added=_added(facts, splitting))


def _texts(value: object) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return []


def _added(facts: Mapping[str, Any], splitting: Splitting) -> int:
    first = facts.get("tokenizer.ggml.add_bos_token", splitting.adds_bos)
    last = facts.get("tokenizer.ggml.add_eos_token", False)
    return (first is True) + (last is True)
