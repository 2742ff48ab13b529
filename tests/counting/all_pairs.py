"""A vocabulary that shows where a text was cut: every byte, every pair of bytes, and three whole words.

Whatever stands next to something else in a piece is joined with it, so that another cut is another number of tokens.
"""

from __future__ import annotations

import functools
from typing import Any

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_OTHERS = iter(range(256, 512))
LETTERS = [chr(byte if byte in PRINTABLE else next(_OTHERS)) for byte in range(256)]


@functools.cache
def merges() -> list[str]:
    """All pairs, in an order that has nothing to do with the alphabet's."""
    order = sorted(range(65536), key=lambda pair: pair * 40503 % 65536)
    return [f"{LETTERS[pair >> 8]} {LETTERS[pair & 255]}" for pair in order]


def written(word: str) -> str:
    """A word as GPT-2 writes it."""
    return "".join(LETTERS[byte] for byte in word.encode())


def facts(pre: str) -> dict[str, Any]:
    """Return its ``model_info``, as ``/api/show`` has it."""
    pairs = merges()
    words = [written(word) for word in ("hello", " world", "中文字")]
    tokens = [*LETTERS, *(pair.replace(" ", "") for pair in pairs), *words, *SPECIALS]
    plain = len(tokens) - len(SPECIALS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": pairs,
        "tokenizer.ggml.token_type": [1] * plain + [3] * len(SPECIALS),
        "tokenizer.ggml.bos_token_id": plain,
        "tokenizer.ggml.eos_token_id": plain,
    }
