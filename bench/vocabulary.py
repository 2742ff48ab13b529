"""What an Ollama tells of a model with a vocabulary as large as Qwen's; the words in it are made up."""

from __future__ import annotations

import itertools
import json
from typing import Any

MERGES = 151_387
CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
_FIRST = "abcdefghijklmnopqrstuvwxyzĠ_().,=ĊABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""Signs as a vocabulary writes them (GPT-2's: a space is Ġ, a newline Ċ); what is merged first are pairs of these."""


def shown() -> tuple[bytes, bytes]:
    """The answer of ``/api/show``, and the verbose one."""
    lists = _lists()
    facts: dict[str, Any] = {
        "general.architecture": "qwen2",
        "qwen2.context_length": 131_072,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
    }
    more = {"modelfile": f"FROM /blobs/sha256-{'be' * 32}\n", "template": CHATML, "details": {}}
    plain = {**facts, **dict.fromkeys(lists)}
    return (
        json.dumps({**more, "model_info": plain}).encode(),
        json.dumps({**more, "model_info": {**facts, **lists}}).encode(),
    )


def _lists() -> dict[str, list[Any]]:
    others = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    signs = [*_FIRST, *(sign for sign in others if sign not in _FIRST)]
    pairs = itertools.product(signs, signs)
    longer = ((one + two, three) for one, two, three in itertools.product(_FIRST, repeat=3))
    merges = [*itertools.islice(itertools.chain(pairs, longer), MERGES)]
    tokens = [*signs, *(left + right for left, right in merges)]
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.token_type": [1] * len(tokens),
    }
