"""Computes the memory of one runner: KV cache, compute graph and overhead, by the formulas of llama.cpp and Ollama.

Sources: llama.cpp's buffer sizes, as Ollama 0.9.3 logs them for SmolLM2-135M at 2,048 to 65,536 tokens, f16, q8_0
and q4_0, with and without flash attention (all reproduced within 1.2 %; tests/e2e/test_fit_reality.py);
Ollama's ``fs/ggml/ggml.go``, ``ml/device.go``, ``llm/llama_server.go`` and ``server/sched.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aider_guard.core.readings import Unavailable

Engine = Literal["A", "B", "C"]
"""What runs the models: A up to 0.11.10, B up to 0.24, C (llama.cpp's ``llama-server``) from 0.30 on."""
KvType = Literal["f16", "q8_0", "q4_0"]


@dataclass(frozen=True)
class Runtime:
    """How the server runs models."""

    engine: Engine = "C"
    kv_type: KvType = "f16"
    parallel: int = 1
    flash_attention: bool = True


@dataclass(frozen=True)
class Architecture:
    """The numbers that decide a model's memory, from ``model_info`` of ``/api/show`` (GGUF keys after its name).

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


@dataclass(frozen=True)
class Candidate:
    """One model whose need is computed. ``correction_bytes`` is its measured need beyond the formula.

    Candidates with the same ``blob`` (not "") are one model in memory.
    """

    name: str
    weights_bytes: int
    architecture: Architecture
    blob: str = ""
    correction_bytes: int = 0


MIB: Final = 1 << 20

BLOCK_BYTES: Final[dict[KvType, tuple[int, int]]] = {
    "f16": (2, 1),
    "q8_0": (34, 32),
    "q4_0": (18, 32),
}
"""Bytes and elements of one block (ggml-common.h)."""

PADDING_TOKENS: Final = 256
"""A cache is rounded up to this with flash attention, to 32 without (llama-context.cpp): the larger one is used."""

RUNNER_BYTES: Final = 457 * MIB
"""CUDA's own memory for one process on one card (Ollama's ml/device.go)."""

RECURRENT_LAYER_BYTES: Final = 4 * MIB
"""State of a layer without a cache, for one slot: qwen3next keeps 32 heads * 128 * 128 * 4 bytes = 2 MiB; doubled."""

UNKNOWN_VOCABULARY: Final = 262_144
"""The largest vocabulary in use (Gemma), for models with an unknown one."""

SWA_PERIODS: Final = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gptoss": 2,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
}
"""Every n-th layer sees the whole window, the others a sliding one (llama-model.cpp, ``set_swa_pattern``).

In an architecture that is not listed all layers count as seeing the whole window, which is never too little.
"""
_SWA_IN_ENGINE_A: Final = {"gemma3", "gemma3n", "gptoss", "gpt-oss"}
"""Those of Ollama's own engine; llama.cpp had none yet."""


def capped_tokens(architecture: Architecture, num_ctx: int) -> int:
    """Return the window that Ollama loads: at most the trained context (llm/server.go caps it, with a warning)."""
    trained = architecture.trained_tokens
    return num_ctx if isinstance(trained, Unavailable) else min(num_ctx, trained)


def flash_attention(architecture: Architecture, runtime: Runtime) -> bool:
    """Whether flash attention is certain.

    Ollama up to 0.24 needs keys and values of one length (ggml.go, ``SupportsFlashAttention``), and so do most kernels
    of llama.cpp, but for MLA's.
    """
    if architecture.key_length == architecture.value_length:
        return runtime.flash_attention
    return runtime.flash_attention and runtime.engine == "C" and is_mla(architecture)


def cache_type(architecture: Architecture, runtime: Runtime) -> KvType:
    """Return the type that the cache really has.

    Without flash attention Ollama up to 0.24 falls back to f16, with a warning; from 0.30 on the type is passed on as
    it is, and llama.cpp refuses to load a quantised cache when flash attention is off.
    """
    if not runtime.flash_attention:
        return "f16"
    if runtime.engine != "C" and not flash_attention(architecture, runtime):
        return "f16"
    return runtime.kv_type


def is_mla(architecture: Architecture) -> bool:
    """Whether the file was converted for multi-head latent attention; older DeepSeek files were not."""
    return architecture.key_length_mla > 0 and architecture.kv_lora_rank > 0


def kv_bytes(architecture: Architecture, num_ctx: int, runtime: Runtime) -> int:
    """Return the KV cache for all slots: sum over layers of tokens * kv_heads * (key_length + value_length) * width.

    It is allocated whole when the model is loaded. A sliding layer holds its window for each slot and one batch; a
    recurrent layer a constant; MLA one row of ``kv_lora_rank + rope_dimensions`` a token, and no values.
    """
    full = _padded(capped_tokens(architecture, num_ctx) * runtime.parallel)
    window = min(capped_tokens(architecture, num_ctx), architecture.sliding_window_tokens)
    sliding = min(full, _padded(window * runtime.parallel + ubatch_tokens(full, runtime)))
    interval = architecture.full_attention_interval
    elements = states = 0
    for layer, kv_heads in enumerate(architecture.kv_heads):
        row = kv_heads * (architecture.key_length + architecture.value_length)
        if is_mla(architecture):
            row = architecture.kv_lora_rank + architecture.rope_dimensions
        if kv_heads == 0 or (interval and (layer + 1) % interval != 0):  # a recurrent layer
            states += RECURRENT_LAYER_BYTES * runtime.parallel
        else:
            tokens = sliding if _is_sliding(architecture, layer, runtime) else full
            elements += tokens * row
    size, count = BLOCK_BYTES[cache_type(architecture, runtime)]
    return -(-elements * size // count) + states


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING_TOKENS) * PADDING_TOKENS


def _is_sliding(architecture: Architecture, layer: int, runtime: Runtime) -> bool:
    period = SWA_PERIODS.get(architecture.name)
    if not period or not architecture.sliding_window_tokens:
        return False
    if runtime.engine == "A" and architecture.name not in _SWA_IN_ENGINE_A:
        return False
    return layer % period < period - 1


def ubatch_tokens(tokens: int, runtime: Runtime) -> int:
    """Return the tokens computed at once: 512; from Ollama 0.30 on more for large windows (sched.go:783-915).

    Ollama lowers that again when it expects memory to be short: this is the upper bound.
    """
    if runtime.engine != "C" or tokens <= 4096:
        return 512
    return 1024 if tokens <= 32768 else 2048


def graph_bytes(architecture: Architecture, num_ctx: int, runtime: Runtime) -> int:
    """Return the compute graph: the most that is alive at one time, in 32-bit numbers for each token of a batch.

    Either the logits with two rows of the model's width; or, in a layer, four such rows with the mask (6 bytes a token
    of the window: 32 bits, and 16 for flash attention's copy), or without flash attention with all heads' scores.
    """
    tokens = _padded(capped_tokens(architecture, num_ctx) * runtime.parallel)
    batch = ubatch_tokens(tokens, runtime)
    heads, width = max(architecture.heads), architecture.embedding_length
    rows = 2 * width + 2 * max(width, heads * architecture.key_length)
    vocabulary = architecture.vocabulary
    known = UNKNOWN_VOCABULARY if isinstance(vocabulary, Unavailable) else vocabulary
    logits = 4 * batch * (known + 2 * width)
    if flash_attention(architecture, runtime):
        return max(logits, batch * (6 * tokens + 4 * rows))
    return max(logits, 4 * batch * (tokens * (heads + 1) + rows))


def overhead_bytes(candidate: Candidate, num_ctx: int, runtime: Runtime) -> int:
    """Return CUDA's own memory for a runner with the measured need beyond the formula; never negative.

    Ollama up to 0.11.10 also keeps room for one layer more (llm/memory.go).
    """
    layer = 0
    if runtime.engine == "A":
        pool = candidate.weights_bytes + kv_bytes(candidate.architecture, num_ctx, runtime)
        layer = pool // candidate.architecture.layers
    return max(0, RUNNER_BYTES + layer + candidate.correction_bytes)


def ollamas_guess_bytes(candidate: Candidate, num_ctx: int, runtime: Runtime) -> int:
    """Return the need that Ollama 0.30 and later expects before it loads a model beside others.

    ``PredictServerVRAM`` (llm/llama_server.go:2681-2699): it knows neither ``key_length`` nor the cache's type.
    """
    model = candidate.architecture
    head = model.embedding_length // max(model.heads)
    tokens = capped_tokens(model, num_ctx) * runtime.parallel
    return candidate.weights_bytes + 2 * model.layers * min(model.kv_heads) * head * tokens * 2


_MOST: Final = 1 << 31
"""No length, count or window of a model comes near this; a larger number is an error."""


def parse_architecture(model_info: object, tensors: object) -> Architecture | Unavailable:
    """Parse an architecture from ``model_info`` and ``tensors`` of a plain ``/api/show`` answer.

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
        return _architecture(name, facts, tensors)
    except _NoNumberError as error:
        return Unavailable(f"Ollama does not tell {error} of the {name[:40]} model")


class _NoNumberError(ValueError):
    """A number of the model is missing or out of range; the message names it."""


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


def _vocabulary(facts: Mapping[str, object], tensors: object) -> int | Unavailable:
    for tensor in tensors if isinstance(tensors, list) else ():
        match tensor:
            case {"name": "token_embd.weight", "shape": [_, int(tokens), *_]} if _is_size(tokens):
                return tokens
    size = facts.get("vocab_size")
    if isinstance(size, int) and _is_size(size):
        return size
    return Unavailable("the model does not tell its vocabulary")


def _is_size(value: int) -> bool:
    return type(value) is int and 0 < value < _MOST
