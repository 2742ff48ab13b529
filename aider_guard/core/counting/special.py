"""Special tokens in a text, found as llama.cpp finds them (``tokenizer_st_partition`` in src/llama-vocab.cpp)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

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
    """The special tokens of a vocabulary. ``eats_blanks`` are those that swallow the white space after them."""

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
        """The special tokens of a vocabulary."""
        typed = zip(tokens, [*types, *[0] * (len(tokens) - len(types))], strict=False)
        special = (_UNKNOWN, _CONTROL, _USER_DEFINED)
        found = [text for text, kind in typed if text and (kind in special or text in _ALWAYS)]
        name = str(facts.get("general.name", "")).lower()
        eats = frozenset(found) - {"<unk>", "<s>", "<|endoftext|>"}
        return cls(found, eats if "phi-3" in name or "phi3" in name else frozenset())

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text in pieces, each with whether it is one special token. Longer tokens are looked for first, each in
        all of what is left.
        """
        pieces = [(text, False)] if text else []
        for special in self._in(text):
            pieces = [part for piece in pieces for part in self._cut(piece, special)]
        return iter(pieces)

    def _in(self, text: str) -> list[str]:
        """The special tokens that are in a text, longest first. Some models have a thousand, in few families."""
        found: set[str] = set()
        for head, lengths in self._lengths.items():
            at = text.find(head)
            while at >= 0:
                found.update(text[at : at + length] for length in lengths)
                at = text.find(head, at + 1)
        return [special for special in self.texts if special in found]

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
