"""Parses the numbers that decide a model's memory from the keys of its GGUF file, as ``/api/show`` has them.

Sources: llama.cpp's ``src/llama-hparams.cpp``, ``src/llama-arch.cpp`` and ``src/models/*.cpp`` (which layers slide,
share a cache or are recurrent), ``src/llama-model.cpp`` (which tensors stay in main memory), ``ggml/src/ggml.c`` (sizes
of types); Ollama's ``server/routes.go`` (which lists a plain answer hides).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.readings import Unavailable


@dataclass(frozen=True)
class Architecture:
    """The numbers that decide a model's memory (GGUF keys after its name).

    ``heads``, ``kv_heads`` and ``feed_forward`` have one entry a layer, ``sliding_layers`` too or none when the file
    does not say which layers slide. A length that a model does not have is 0.

    ``nextn_layers`` are the last ones. They draft tokens, and only where the tag sets ``draft_tokens``
    (``draft_num_predict``; server/routes.go, modelOptions); else their ``draft_bytes`` are not loaded.
    ``main_memory_bytes`` is the part of the file that no card holds. What differs between files of one architecture is
    not compared.
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
    key_length_swa: int = 0
    value_length_swa: int = 0
    sliding_layers: tuple[bool, ...] = ()
    shared_kv_layers: int = 0
    nextn_layers: int = 0
    feed_forward: tuple[int, ...] = ()
    expert_feed_forward: int = 0
    layer_embedding_length: int = 0
    conv_kernel: int = 0
    conv_cache: int = 0
    state_inner: int = 0
    state_size: int = 0
    state_groups: int = 0
    has_vision: bool = field(default=False, compare=False)
    draft_tokens: int = field(default=0, compare=False)
    draft_bytes: int = field(default=0, compare=False)
    main_memory_bytes: int = field(default=0, compare=False)


SWA_PERIODS: Final = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma4": 6,
    "gptoss": 2,
    "gpt-oss": 2,
    "cohere2": 4,
    "cohere2moe": 4,
    "exaone4": 4,
    "exaone-moe": 4,
    "glimmer": 4,
    "laguna": 4,
    "olmo2": 4,
    "olmo3": 4,
    "afmoe": 4,
}
"""Every n-th layer sees the whole window, the others a sliding one, where the file does not say which do.

In an architecture that is not listed all layers count as seeing the whole window, which is never too little.
"""

_GEMMA_3N_KV_LAYERS: Final = 20
"""The first layers of gemma3n have a cache, the others use theirs (src/models/gemma3n.cpp; no key says so)."""

_SLIDING_PATTERN: Final = "attention.sliding_window_pattern"
LISTS: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    _SLIDING_PATTERN,
    "feed_forward_length",
)
"""The keys that have one entry a layer in models whose layers differ. A plain answer of ``/api/show`` hides lists."""

TENSOR_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
"""GGML's types by their numbers in a file: the name, and the elements and bytes of a block."""
_BLOCKS: Final = {name: (elements, size) for name, elements, size in TENSOR_TYPES.values()}

_MOST: Final = 1 << 31
"""No length, count or window of a model comes near this; a larger number is an error."""


def parse_architecture(
    model_info: object, tensors: object, projector: object = None
) -> Architecture | Unavailable:
    """Parse an architecture from ``model_info``, ``tensors`` and ``projector_info`` of a ``/api/show`` answer.

    Without ``"verbose": true`` lists come as null (routes.go, getModelData), among them the head counts of models whose
    layers differ: then the result is ``Unavailable``, and a verbose request may have it. The size of the vocabulary is
    the second dimension of ``token_embd.weight``, since the list of tokens is null, too. Where a positive number is
    missing the result is ``Unavailable`` with a reason.
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
        return _architecture(name, facts, tensors, has_projector=bool(projector))
    except _NoNumberError as error:
        return Unavailable(f"Ollama does not tell {error} of the {name[:40]} model")


class _NoNumberError(ValueError):
    """A number of the model is missing or out of range; the message names it."""


def _architecture(
    name: str, facts: Mapping[str, object], tensors: object, *, has_projector: bool
) -> Architecture:
    layers, width = _number(facts, "block_count", 0), _number(facts, "embedding_length", 0)
    if not layers or not width or layers > 10_000:
        raise _NoNumberError("the layers and their width")
    heads = _for_each_layer(facts, "attention.head_count", layers, None)
    kv_heads = _for_each_layer(facts, "attention.head_count_kv", layers, heads)
    if not max(heads):
        raise _NoNumberError("attention.head_count")
    head_length = width // max(heads)
    trained = _number(facts, "context_length", 0)
    key_length = _number(facts, "attention.key_length", head_length)
    value_length = _number(facts, "attention.value_length", head_length)
    nextn = _number(facts, "nextn_predict_layers", 0)
    if nextn >= layers:
        raise _NoNumberError("nextn_predict_layers")
    shared = max(0, layers - _GEMMA_3N_KV_LAYERS) if name == "gemma3n" else 0
    listed = list(_tensors(tensors))
    return Architecture(
        name=name,
        layers=layers,
        embedding_length=width,
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        vocabulary=_vocabulary(facts, listed),
        trained_tokens=trained or Unavailable("the model does not tell its trained context"),
        sliding_window_tokens=_number(facts, "attention.sliding_window", 0),
        kv_lora_rank=_number(facts, "attention.kv_lora_rank", 0),
        key_length_mla=_number(facts, "attention.key_length_mla", 0),
        rope_dimensions=_number(facts, "rope.dimension_count", 0),
        full_attention_interval=_number(facts, "full_attention_interval", 0),
        experts=_number(facts, "expert_count", 0),
        experts_used=_number(facts, "expert_used_count", 0),
        key_length_swa=_number(facts, "attention.key_length_swa", key_length),
        value_length_swa=_number(facts, "attention.value_length_swa", value_length),
        sliding_layers=_sliding(facts, layers),
        shared_kv_layers=min(layers, _number(facts, "attention.shared_kv_layers", shared)),
        nextn_layers=nextn,
        feed_forward=_for_each_layer(facts, "feed_forward_length", layers, (0,) * layers),
        expert_feed_forward=_number(facts, "expert_feed_forward_length", 0),
        layer_embedding_length=_number(facts, "embedding_length_per_layer_input", 0),
        conv_kernel=_number(facts, "ssm.conv_kernel", 0),
        conv_cache=_number(facts, "shortconv.l_cache", 0),
        state_inner=_number(facts, "ssm.inner_size", 0),
        state_size=_number(facts, "ssm.state_size", 0),
        state_groups=_number(facts, "ssm.group_count", 0),
        has_vision=has_projector or any(tensor.startswith("v.") for tensor, _, _ in listed),
        draft_bytes=_draft_bytes(listed, layers - nextn),
        main_memory_bytes=_main_memory_bytes(listed),
    )


def _number(facts: Mapping[str, object], key: str, default: int) -> int:
    return _checked(facts.get(key, default), key)


def _checked(value: object, key: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST:  # not isinstance: true is no number
        raise _NoNumberError(key)
    return value


def _for_each_layer(
    facts: Mapping[str, object], key: str, layers: int, default: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return one number for each layer, given once for all or as a list."""
    if key not in facts and default is None:
        raise _NoNumberError(key)
    value = facts.get(key, default)
    if isinstance(value, list | tuple) and len(value) == layers:
        return tuple(_checked(item, key) for item in value)
    if value is None or isinstance(value, list | tuple):
        raise _NoNumberError(f"{key} for each layer (only when asked verbosely)")
    return (_checked(value, key),) * layers


def _sliding(facts: Mapping[str, object], layers: int) -> tuple[bool, ...]:
    """Return which layers have a sliding window: by a list, which may be shorter and then repeats, or by a period n, of
    which the last layer sees the whole window (0: none does; src/llama-hparams.cpp, set_swa_pattern). None: not told.
    """
    if _SLIDING_PATTERN not in facts:
        return ()
    value = facts[_SLIDING_PATTERN]
    if isinstance(value, list) and value:
        if not all(type(item) in (bool, int) for item in value):
            raise _NoNumberError(_SLIDING_PATTERN)
        return tuple(bool(value[layer % len(value)]) for layer in range(layers))
    if value is None or isinstance(value, list):
        raise _NoNumberError(f"{_SLIDING_PATTERN} for each layer (only when asked verbosely)")
    return periodic(_checked(value, _SLIDING_PATTERN), layers)


def periodic(period: int, layers: int) -> tuple[bool, ...]:
    """Return which layers slide when every *period*-th one sees the whole window; all do for a period of 0."""
    return tuple(not period or layer % period < period - 1 for layer in range(layers))


Tensor = tuple[str, str, tuple[int, ...]]
"""A tensor's name, type and shape."""


def _tensors(tensors: object) -> Iterator[Tensor]:
    for tensor in tensors if isinstance(tensors, list | tuple) else ():
        match tensor:
            case {"name": str(name), "shape": [*shape], **more} if all(map(_is_size, shape)):
                kind = more.get("type")
                yield name, kind if isinstance(kind, str) else "", tuple(shape)


def _main_memory_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tables that turn tokens into rows: llama.cpp keeps this input layer in main memory.

    A model without an ``output.weight`` uses the table of tokens for it, too, and that copy is on the card.
    """
    sizes = {name: _bytes_of(kind, shape) for name, kind, shape in tensors}
    tables = ["per_layer_token_embd.weight"]
    if "output.weight" in sizes:
        tables.append("token_embd.weight")
    return sum(sizes.get(table, 0) for table in tables)


def _draft_bytes(tensors: Iterable[Tensor], drafting_from: int) -> int:
    """Return the bytes of the layers that draft: the last ones, or in Ollama's own files those of ``mtp.``."""
    total = 0
    for name, kind, shape in tensors:
        block = re.match(r"blk\.(\d{1,5})\.", name)
        if name.startswith("mtp.") or (block and int(block[1]) >= drafting_from):
            total += _bytes_of(kind, shape)
    return total


def _bytes_of(kind: str, shape: tuple[int, ...]) -> int:
    """Return a tensor's size; 0 for a type that is not known."""
    elements, size = _BLOCKS.get(kind.upper(), (1, 0))
    count = 1
    for length in shape:
        count *= length
    return count * size // elements


def _vocabulary(facts: Mapping[str, object], tensors: Iterable[Tensor]) -> int | Unavailable:
    for name, _, shape in tensors:
        if name == "token_embd.weight" and len(shape) > 1:
            return shape[1]
    size = facts.get("vocab_size")
    if isinstance(size, int) and _is_size(size):
        return size
    return Unavailable("the model does not tell its vocabulary")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < _MOST


_CONSTANT_STATE: Final = ("ssm.state_size", "full_attention_interval", "shortconv.l_cache")
"""Keys of models with recurrent layers, whose state is of all that was read (src/llama-arch.cpp)."""


def goes_back(model_info: object) -> bool:
    """Return whether the cache of a model can be cut back to the beginning that two prompts have in common.

    Layers with a sliding window have forgotten it, and recurrent ones hold one state: llama.cpp reads again from a
    checkpoint, or all (``llama_memory_can_shift``, ``n_swa`` in tools/server). What is not known counts as if it could.
    """
    match model_info:
        case {"general.architecture": str(name), **facts}:
            recurrent = any(facts.get(f"{name}.{key}") for key in _CONSTANT_STATE)
            slides = name in SWA_PERIODS and facts.get(f"{name}.attention.sliding_window")
            return not (recurrent or slides)
    return True


def even_tokens(model_info: object) -> float | Unavailable:
    """Return behind how many tokens a model's attention takes as long as its weights.

    A token takes 2 operations for each weight, and 4 for each token before it, each layer and each number of its width
    (arXiv 2001.08361, table 1). Attention is taken to run at two thirds of the speed of the rest: with llama.cpp on two
    cores it was 0.62 with weights of F16 and 1.0 with Q4. Of experts only those count that a token uses.
    """
    match model_info:
        case {"general.architecture": str(name), "general.parameter_count": int(weights), **facts}:
            layers, width = facts.get(f"{name}.block_count"), facts.get(f"{name}.embedding_length")
            all_experts, used = (
                facts.get(f"{name}.expert_count"),
                facts.get(f"{name}.expert_used_count"),
            )
            share = 1.0
            if isinstance(all_experts, int) and isinstance(used, int) and 0 < used < all_experts:
                share = used / all_experts
            if isinstance(layers, int) and isinstance(width, int) and layers > 0 and width > 0:
                return min(max(share * weights / (3 * width * layers), _LEAST_EVEN), _MOST_EVEN)
    return Unavailable("Ollama does not tell the model's shape")


_LEAST_EVEN: Final = 500.0
_MOST_EVEN: Final = 100_000.0
