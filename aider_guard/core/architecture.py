"""The numbers of a model that decide how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass

from aider_guard.core.readings import Unavailable


@dataclass(frozen=True)
class Architecture:
    """From ``model_info`` of ``/api/show`` (GGUF keys, prefixed with the architecture's name).

    ``heads`` and ``kv_heads`` have one entry a layer. A length that a model does not have is 0.
    """

    name: str
    layers: int
    embedding_length: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    vocabulary: int | Unavailable
    trained_tokens: int | Unavailable
    sliding_window_tokens: int = 0
    kv_lora_rank: int = 0
    key_length_mla: int = 0
    rope_dimensions: int = 0
    full_attention_interval: int = 0
    experts: int = 0
    experts_used: int = 0
