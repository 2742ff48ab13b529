"""Architectures and models that the tests on memory share."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.architecture import Architecture
from aider_guard.core.fit import Card
from aider_guard.core.model_memory import Candidate

MIB, GIB = 1 << 20, 1 << 30


def model(
    layers: int,
    embedding: int,
    heads: int,
    kv_heads: int,
    key: int,
    value: int,
    *,
    vocabulary: int = 151_936,
    trained: int = 163_840,
    name: str = "qwen3",
) -> Architecture:
    return Architecture(
        name,
        layers,
        embedding,
        (heads,) * layers,
        (kv_heads,) * layers,
        key,
        value,
        vocabulary,
        trained,
    )


SMOL = model(30, 576, 9, 3, 64, 64, vocabulary=49_152, trained=8192, name="llama")
LONG_SMOL = replace(SMOL, trained_tokens=163_840)
QWEN_4B = model(36, 2560, 32, 8, 128, 128)
QWEN_8B = model(36, 4096, 32, 8, 128, 128)
QWEN_14B = model(40, 5120, 40, 8, 128, 128)
QWEN_32B = model(64, 5120, 64, 8, 128, 128)
QWEN_30B_A3B = replace(model(48, 2048, 32, 4, 128, 128), experts=128, experts_used=8)
LITE = replace(
    model(27, 2048, 16, 16, 192, 128, vocabulary=102_400, name="deepseek2"),
    kv_lora_rank=512,
    rope_dimensions=64,
)
LITE_MLA = replace(LITE, key_length_mla=192)
BIG = replace(
    model(60, 5120, 128, 128, 192, 128, vocabulary=102_400, name="deepseek2"),
    kv_lora_rank=512,
    rope_dimensions=64,
)
GEMMA_3 = replace(
    model(12, 2560, 8, 4, 256, 256, vocabulary=262_144, name="gemma3"), sliding_window_tokens=1024
)


def candidate(
    architecture: Architecture, gib: float, name: str = "m", *, blob: str = "", more: int = 0
) -> Candidate:
    return Candidate(name, int(gib * GIB), architecture, blob, more)


def card(gib: float, free_gib: float | None = None) -> Card:
    return Card("card", int(gib * GIB), int((gib if free_gib is None else free_gib) * GIB))
