"""The numbers of a model that decide how much memory it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

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


_MOST: Final = 1 << 31
"""No length, count or window of a model comes near this; a larger number is none of theirs."""


def parse_architecture(model_info: object, tensors: object) -> Architecture | Unavailable:
    """An architecture from ``model_info`` and ``tensors`` of a plain ``/api/show`` answer.

    Without ``"verbose": true`` lists come as null (routes.go, getModelData), among them the head counts of models
    whose layers differ: then the answer is ``Unavailable``, and the question may be asked again verbosely. The size of
    the vocabulary is the second dimension of ``token_embd.weight``, since the list of tokens is null, too. Whatever is
    no positive number where one belongs is ``Unavailable`` with a reason.
    """
    name = model_info.get("general.architecture") if isinstance(model_info, dict) else None
    if not isinstance(model_info, dict) or not isinstance(name, str) or not name:
        return Unavailable("Ollama does not tell the model's architecture")
    facts = {
        key.removeprefix(f"{name}."): value
        for key, value in model_info.items()
        if isinstance(key, str) and key.startswith(f"{name}.")
    }
    try:
        return _architecture(name, facts, tensors)
    except _NoNumberError as error:
        return Unavailable(f"Ollama does not tell {error} of the {name[:40]} model")


class _NoNumberError(ValueError):
    """What is missing or none of a model's numbers."""


def _architecture(name: str, facts: Mapping[str, object], tensors: object) -> Architecture:
    layers, width = _number(facts, "block_count", 0), _number(facts, "embedding_length", 0)
    if not layers or not width or layers > 10_000:
        raise _NoNumberError("the layers and their width")
    heads = _for_each_layer(facts, "attention.head_count", layers, None)
    kv_heads = _for_each_layer(facts, "attention.head_count_kv", layers, heads)
    if not max(heads):
        raise _NoNumberError("attention.head_count")
    head_length = width // max(heads)
    trained = _number(facts, "context_length", 0)
    return Architecture(
        name=name,
        layers=layers,
        embedding_length=width,
        heads=heads,
        kv_heads=kv_heads,
        key_length=_number(facts, "attention.key_length", head_length),
        value_length=_number(facts, "attention.value_length", head_length),
        vocabulary=_vocabulary(facts, tensors),
        trained_tokens=trained or Unavailable("the model does not tell its trained context"),
        sliding_window_tokens=_number(facts, "attention.sliding_window", 0),
        kv_lora_rank=_number(facts, "attention.kv_lora_rank", 0),
        key_length_mla=_number(facts, "attention.key_length_mla", 0),
        rope_dimensions=_number(facts, "rope.dimension_count", 0),
        full_attention_interval=_number(facts, "full_attention_interval", 0),
        experts=_number(facts, "expert_count", 0),
        experts_used=_number(facts, "expert_used_count", 0),
    )


def _number(facts: Mapping[str, object], key: str, default: int) -> int:
    value = facts.get(key, default)
    if type(value) is not int or not 0 <= value < _MOST:  # not isinstance: true is no number
        raise _NoNumberError(key)
    return value


def _for_each_layer(
    facts: Mapping[str, object], key: str, layers: int, default: tuple[int, ...] | None
) -> tuple[int, ...]:
    """One number a layer: told once for all, or as a list."""
    if key not in facts and default is None:
        raise _NoNumberError(key)
    value = facts.get(key, default)
    if isinstance(value, list | tuple) and len(value) == layers:
        return tuple(_number({key: one}, key, 0) for one in value)
    if value is None or isinstance(value, list | tuple):
        raise _NoNumberError(f"{key} for each layer (only when asked verbosely)")
    return (_number(facts, key, 0),) * layers


def _vocabulary(facts: Mapping[str, object], tensors: object) -> int | Unavailable:
    for tensor in tensors if isinstance(tensors, list) else ():
        match tensor:
            case {"name": "token_embd.weight", "shape": [_, int(tokens), *_]} if _is_size(tokens):
                return tokens
    told = facts.get("vocab_size")
    if isinstance(told, int) and _is_size(told):
        return told
    return Unavailable("the model does not tell its vocabulary")


def _is_size(value: int) -> bool:
    return type(value) is int and 0 < value < _MOST
