"""Counts the tokens of a text exactly, with the vocabulary that Ollama tells of a model (``/api/show``, ``verbose``).

Ollama hands every prompt to its tokeniser with special tokens parsed, wherever in the text they stand.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import regex  # type: ignore[import-untyped]  # published without types

from aider_guard.core.readings import Unavailable

# Byte pair encoding, as llama.cpp does it (``llm_tokenizer_bpe_session``). tiktoken's own merging joins any symbols
# that make a known token, in the order of the tokens; models made by others have lists of *pairs*, and a pair that is
# not listed is not joined. The two differ now and then, and a count that is off by one is not exact.

NEVER = math.inf
LONG = 200
"""The number of symbols from which a heap is faster than looking for the lowest rank again and again."""


def merge(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Join symbols until no pair of neighbours is listed (``left + " " + right``); return those that are left.

    The pair of the lowest rank is joined first, the leftmost of equal ones.
    """
    if len(symbols) >= LONG:
        return _merge_long(symbols, ranks)
    rank = [ranks.get(f"{a} {b}", NEVER) for a, b in itertools.pairwise(symbols)]
    while rank and (lowest := min(rank)) < NEVER:
        at = rank.index(lowest)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        del rank[at]
        if at:
            rank[at - 1] = ranks.get(f"{symbols[at - 1]} {symbols[at]}", NEVER)
        if at < len(rank):
            rank[at] = ranks.get(f"{symbols[at]} {symbols[at + 1]}", NEVER)
    return symbols


def _merge_long(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Do the same in n log n steps, on a chain in which a joined symbol is empty."""
    symbols = [*symbols, ""]  # beyond both ends
    after = [*range(1, len(symbols))]
    before = [-1, *range(len(symbols))]
    queue: list[tuple[int, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        pair = f"{symbols[left]} {symbols[right]}"
        rank = ranks.get(pair) if symbols[left] and symbols[right] else None
        if rank is not None:
            heapq.heappush(queue, (rank, left, right, pair))

    for left, right in enumerate(after):
        offer(left, right)
    while queue:
        _, left, right, pair = heapq.heappop(queue)
        if f"{symbols[left]} {symbols[right]}" != pair:
            continue  # one of them was joined since
        symbols[left] += symbols[right]
        symbols[right] = ""
        after[left] = after[right]
        before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]


# Special tokens are found as llama.cpp finds them (``tokenizer_st_partition`` in src/llama-vocab.cpp).

# token_type of the GGUF format
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
# Special tokens are looked for by so many characters first.
_HEAD: Final = 3
_BLANK: Final = " \t\n\v\f\r"
# llama.cpp takes tokens with these texts as control tokens, whatever their type says.
_LOOKS_SPECIAL: Final = """
<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|endoftext|> <|eom_id|> <EOT> <end_of_turn> <|end_of_text|>
<\uff5cend\u2581of\u2581sentence\uff5c> <|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim\u2581begin\uff5c>
<PRE> <|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim\u2581hole\uff5c> <SUF> <|fim_middle|> <fim-middle>
<fim_middle> <\uff5cfim\u2581end\uff5c> <MID> <|fim_pad|> <fim-pad> <fim_pad> <PAD> <|fim_repo|> <|repo_name|>
<fim-repo> <REPO> <reponame> <|file_sep|> <|channel|> <|message|> <|start|> <|constrain|>
"""
_ALWAYS: Final = frozenset(_LOOKS_SPECIAL.split())


class Specials:
    """Finds special tokens in texts. ``eats_blanks`` are those that swallow the white space after them."""

    def __init__(self, texts: Iterable[str], eats_blanks: frozenset[str] = frozenset()) -> None:
        self.texts = sorted(texts, key=lambda text: len(text.encode()), reverse=True)
        self.eats_blanks = eats_blanks
        self._lengths: defaultdict[str, set[int]] = defaultdict(set)
        for text in self.texts:
            self._lengths[text[:_HEAD]].add(len(text))

    @classmethod
    def of(
        cls, tokens: Sequence[str], types: Sequence[object], facts: Mapping[str, Any]
    ) -> Specials:
        """Select the special tokens of a vocabulary."""
        typed = itertools.zip_longest(tokens, types)
        special = (_UNKNOWN, _CONTROL, _USER_DEFINED)
        texts = [text for text, kind in typed if text and (kind in special or text in _ALWAYS)]
        name = str(facts.get("general.name", "")).lower()
        eats = frozenset(texts) - {"<unk>", "<s>", "<|endoftext|>"}
        return cls(texts, eats if "phi-3" in name or "phi3" in name else frozenset())

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut a text into pieces, each with whether it is one special token.

        Longer tokens are looked for first, each in all of what is left.
        """
        pieces = [(text, False)] if text else []
        for special in self._in(text):
            pieces = [part for piece in pieces for part in self._cut(piece, special)]
        return iter(pieces)

    def _in(self, text: str) -> list[str]:
        """Return the special tokens that are in a text, longest first. Some models have a thousand, in few families."""
        candidates: set[str] = set()
        for head, lengths in self._lengths.items():
            at = text.find(head)
            while at >= 0:
                candidates.update(text[at : at + length] for length in lengths)
                at = text.find(head, at + 1)
        return [special for special in self.texts if special in candidates]

    def _cut(self, piece: tuple[str, bool], special: str) -> Iterator[tuple[str, bool]]:
        text, is_special = piece
        if is_special:
            yield piece
            return
        first, *rest = text.split(special)
        if first:
            yield first, False
        for part in rest:
            yield special, True
            left = part.lstrip(_BLANK) if special in self.eats_blanks else part
            if left:
                yield left, False


# A text is cut into words before pairs of bytes are merged, by the name in ``tokenizer.ggml.pre``. The names, the
# stages and what else depends on them are those of llama.cpp (src/llama-vocab.cpp), and each was compared with its own
# tokeniser. A later stage cuts the pieces of the one before it, and what no pattern matches is a piece, too
# (src/unicode.cpp). White space is Unicode's, ``\p{N}`` a number in any script.


@dataclass(frozen=True)
class Pretokenizer:
    """How a pre-tokeniser cuts. ``whole_words``: a word that is a token needs no merges.

    ``adds_bos`` is what holds where the model itself does not say.
    """

    stages: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


_SUFFIXES = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PLAIN_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = rf"{_SUFFIXES}|{_PLAIN_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
_QWEN2 = rf"{_SUFFIXES}|{_PLAIN_WORDS}|\p{{N}}|{_SIGNS}|{_BLANKS}"
_QWEN35 = (
    rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
)
# llama.cpp knows case in ASCII only: every other letter counts as both.
_UPPER, _LOWER = r"(?:(?![a-z])\p{L})", r"(?:(?![A-Z])\p{L})"
_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHED_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_WORD}|{_CAPITALS}|\p{{N}}|{_SLASHED_SIGNS}|{_BLANKS}"
_GPT4O = rf"{_WORD}{_SUFFIXES}?|{_CAPITALS}{_SUFFIXES}?|\p{{N}}{{1,3}}|{_SLASHED_SIGNS}|{_BLANKS}"
# Letters that have case, as the first DeepSeek models list them: Unicode 12 without some of its blocks.
_CASED = (
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    r"\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    r"\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    r"\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    r"\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    r"\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    r"\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    r"\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
# The second range is as published; llama.cpp has blanks taken out of a text before it looks for literal ranges.
_HAN_AND_HANGUL = r"(?:(?!\s)[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff])+"
_ASCII_SIGNS = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"

_BY_LINES = Pretokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}"))
_DIGITS_FIRST = Pretokenizer((r"\p{N}", _GPT2))
_PLAIN = Pretokenizer((_GPT2,))
_LIKE_LLAMA3 = Pretokenizer((_LLAMA3,), whole_words=True, adds_bos=True)
_LIKE_GPT4O = Pretokenizer((_GPT4O,))
_LIKE_QWEN2 = Pretokenizer((_QWEN2,))
_DEEPSEEK3 = (
    rf"[{_ASCII_SIGNS}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}"
)
_LIKE_DEEPSEEK3 = Pretokenizer(
    (r"\p{N}{1,3}", r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)
)
_DEFAULT = Pretokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

SPLITTINGS: Final[Mapping[str, Pretokenizer]] = {
    "": _DEFAULT,
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4", "mellum", "gigachat"), _PLAIN),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS_FIRST
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LIKE_LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Pretokenizer((_LLAMA3,))),
    "glm4": Pretokenizer((_LLAMA3,), whole_words=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), _LIKE_QWEN2),
    "qwen35": Pretokenizer((_QWEN35,)),
    "deepseek-llm": Pretokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",
            r"\s+$",
            _HAN_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": _BY_LINES,
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _LIKE_DEEPSEEK3),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2"), _LIKE_GPT4O),
    "tekken": Pretokenizer((_TEKKEN,), whole_words=True, adds_bos=True),
}
"""Pre-tokenisers by the name in the model's file. With any other name there are no exact counts."""


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
"""The keys of ``model_info`` that a vocabulary is made of; their values are small enough to be kept."""

# GPT-2 writes every byte as a printable character: itself, or one above 255, in order.
_OTHERS: Final = (*range(33), *range(127, 161), 173)
_CHARACTERS: Final = {byte: number for number, byte in enumerate(_OTHERS, 256)}
_SURROGATES: Final = regex.compile("[\ud800-\udfff]")
# At most so many words are remembered with their numbers of tokens (some 10 MB).
_REMEMBERED: Final = 60_000


class Vocabulary:
    """Counts the tokens of texts. Words that were counted are remembered."""

    def __init__(
        self,
        splitting: Pretokenizer,
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
        """Count the tokens of a text, special ones among them; without those that every prompt gets."""
        return sum(1 if special else self.count_plain(piece) for piece, special in self.split(text))

    def count_plain(self, text: str) -> int:
        """Count the tokens of a text in which no special token is looked for."""
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
        """Cut a text into pieces, each with whether it is one special token; no token reaches over a cut."""
        # Go's JSON decoder has no lone surrogates.
        return self._specials.split(_SURROGATES.sub("\ufffd", text))

    def words(self, text: str) -> list[str]:
        """Cut a text into the words that are tokenised one by one."""
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
    """Read the vocabulary in ``model_info``; Unavailable where it is none of BPE, or its pre-tokeniser is unknown."""
    kind = facts.get("tokenizer.ggml.model")
    if kind != "gpt2":
        return Unavailable(f"tokens of the kind {str(kind)[:20]!r} are only estimated")
    name = facts.get("tokenizer.ggml.pre") or ""
    splitting = SPLITTINGS.get(name) if isinstance(name, str) else None
    if splitting is None:
        return Unavailable(f"the pre-tokeniser {str(name)[:20]!r} is not known")
    tokens, merges = (facts.get(f"tokenizer.ggml.{key}", []) for key in ("tokens", "merges"))
    for texts in (tokens, merges):
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not texts or not is_list:
            return Unavailable("the model's vocabulary was not told")
    types = facts.get("tokenizer.ggml.token_type")
    specials = Specials.of(tokens, types if isinstance(types, list) else [], facts)
    first = facts.get("tokenizer.ggml.add_bos_token", splitting.adds_bos)
    last = facts.get("tokenizer.ggml.add_eos_token", False)
    added = (first is True) + (last is True)
    return Vocabulary(splitting, merges, tokens, specials, added=added)
