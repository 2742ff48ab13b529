"""Writes the headers of GGUF files for tests, with no weights behind them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMOL: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "SmolLM2 135M",
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 0.00001,
    "llama.rope.dimension_count": 64,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.tokens": ["a", "bé", ""],
    "tokenizer.ggml.scores": [0.5, 1.5],
}
TENSORS = (("token_embd.weight", 8, (576, 49_152)), ("output.weight", 8, (576, 49_152)))


def header(
    facts: Mapping[str, Any] = SMOL,
    tensors: Sequence[tuple[str, int, tuple[int, ...]]] = TENSORS,
    *,
    order: str = "<",
    version: int = 3,
) -> bytes:
    """A whole header: the keys with their values, and the tensors by name, type and shape."""

    def number(kind: str, value: float) -> bytes:
        return struct.pack(order + kind, value)

    def text(value: str) -> bytes:
        encoded = value.encode()
        return number("Q", len(encoded)) + encoded

    def typed(value: object) -> tuple[int, bytes]:
        match value:
            case bool():
                return 7, number("?", value)
            case int():
                return 4, number("I", value)
            case float():
                return 6, number("f", value)
            case str():
                return 8, text(value)
            case [first, *_]:
                inside = b"".join(typed(item)[1] for item in value)
                return 9, number("I", typed(first)[0]) + number("Q", len(value)) + inside
        raise TypeError(value)

    parts = [b"GGUF", number("I", version), number("Q", len(tensors)), number("Q", len(facts))]
    for key, value in facts.items():
        kind, data = typed(value)
        parts += [text(key), number("I", kind), data]
    for name, kind, shape in tensors:
        lengths = b"".join(number("Q", length) for length in shape)
        parts += [text(name), number("I", len(shape)), lengths, number("I", kind), number("Q", 0)]
    return b"".join(parts)


def write_gguf(path: Path, data: bytes | None = None, *, size_bytes: int = 0) -> Path:
    """Write a header as a file of at least this size, which has a hole where the weights would be."""
    path.write_bytes(header() if data is None else data)
    if size_bytes:
        with path.open("r+b") as file:
            file.truncate(size_bytes)
    return path
