"""Computes the memory of one runner: weights, KV cache, compute graph and overhead, by the formulas of llama.cpp and
Ollama.

Sources: llama.cpp's buffer sizes, as Ollama 0.9.3 logs them for SmolLM2-135M at 2,048 to 65,536 tokens, f16, q8_0
and q4_0, with and without flash attention (all reproduced within 1.2 %; tests/e2e/test_fit_reality.py), and as
llama.cpp of 2026 and Ollama 0.30 and later log them for the models of today (tests/core/logged_memory.py);
llama.cpp's ``src/llama-kv-cache-iswa.cpp``, ``src/llama-memory-recurrent.cpp`` and ``src/llama-hparams.cpp``;
Ollama's ``fs/ggml/ggml.go``, ``ml/device.go``, ``llm/llama_server.go`` and ``server/sched.go``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from aider_guard.core.architecture import SWA_PERIODS, Architecture, periodic
from aider_guard.core.readings import Unavailable

Engine = Literal["A", "B", "C"]
"""What runs the models: A up to 0.11.10, B up to 0.24, C (llama.cpp's ``llama-server``) from 0.30 on."""
KvType = Literal["f16", "q8_0", "q4_0"]


@dataclass(frozen=True)
class Runtime:
    """How the server runs models. ``batch_tokens`` are computed at once; 0: what Ollama chooses for the window.

    ``reserves_all_logits`` is whether a build of engine C has room for the logits of a whole batch, as all had before
    llama.cpp#23861.
    """

    engine: Engine = "C"
    kv_type: KvType = "f16"
    parallel: int = 1
    flash_attention: bool = True
    batch_tokens: int = 0
    reserves_all_logits: bool = False


@dataclass(frozen=True)
class Candidate:
    """One model whose need is computed. ``weights_bytes`` is the size of its files, with a tower for pictures.
    ``correction_bytes`` is its measured need beyond the formula.

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
"""State of a layer without a cache, for one slot, in models whose keys do not tell it."""

UNKNOWN_VOCABULARY: Final = 262_144
"""The largest vocabulary in use (Gemma), for models with an unknown one."""

VISION_GRAPH_BYTES: Final = 256 * MIB
"""The graph of a tower for pictures: 248 MiB in the logs of qwen3.6 on CUDA and Vulkan (reserve_compute_meta)."""

HOST_PROMPT_CACHE_BYTES: Final = 8192 * MIB
"""What each ``llama-server`` may keep of earlier prompts in main memory, if ``LLAMA_ARG_CACHE_RAM`` is not set."""

_SWA_IN_ENGINE_A: Final = {"gemma3", "gemma3n", "gptoss", "gpt-oss"}
"""Architectures with sliding layers in Ollama's own engine; llama.cpp had none yet."""


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


def weights_on_card(candidate: Candidate) -> int:
    """Return the bytes of the weights that a card holds when the whole model is on it: without the tables that stay in
    main memory, and without the layers that draft where the tag does not use them.
    """
    model = candidate.architecture
    unused = model.main_memory_bytes + (0 if model.draft_tokens else model.draft_bytes)
    return max(0, candidate.weights_bytes - unused)


def kv_bytes(architecture: Architecture, num_ctx: int, runtime: Runtime) -> int:
    """Return the cache for all slots: sum over layers of tokens * kv_heads * (key_length + value_length) * width.

    It is allocated whole when the model is loaded. A sliding layer holds its window and one batch; a layer that shares
    the cache of another one nothing; a recurrent layer a constant, and one more for each token of a draft, to go back
    to; MLA one row of ``kv_lora_rank + rope_dimensions`` a token, and no values. Layers that draft have a cache of
    their own, always f16.
    """
    full = _padded(capped_tokens(architecture, num_ctx) * runtime.parallel)
    sliding = sliding_tokens(architecture, num_ctx, runtime)
    own = architecture.layers - max(architecture.nextn_layers, architecture.shared_kv_layers)
    slides = _sliding_layers(architecture, runtime)
    elements = sum(
        (sliding if slides[layer] else full) * _row(architecture, layer, slides=slides[layer])
        for layer in range(own)
        if not _has_no_cache(architecture, layer)
    )
    size, count = BLOCK_BYTES[cache_type(architecture, runtime)]
    states = runtime.parallel * (1 + architecture.draft_tokens) * state_bytes(architecture)
    draft = (
        full
        * 2
        * sum(
            _row(architecture, layer, slides=False)
            for layer in range(architecture.layers - architecture.nextn_layers, architecture.layers)
            if architecture.draft_tokens
        )
    )
    return -(-elements * size // count) + states + draft


def sliding_tokens(architecture: Architecture, num_ctx: int, runtime: Runtime) -> int:
    """Return the tokens that a sliding layer holds for all slots.

    From 0.30 on each slot has room for a batch of its own (llama-kv-cache-iswa.cpp, without a unified cache).
    """
    tokens = capped_tokens(architecture, num_ctx)
    full = _padded(tokens * runtime.parallel)
    window = min(tokens, architecture.sliding_window_tokens)
    batch = ubatch_tokens(full, runtime)
    if runtime.engine == "C":
        return min(full, runtime.parallel * _padded(window + batch))
    return min(full, _padded(window * runtime.parallel + batch))


def state_bytes(architecture: Architecture) -> int:
    """Return the state of the recurrent layers for one slot, in 32-bit numbers (llama-hparams.cpp, n_embd_r and
    n_embd_s): what a convolution looks back on, and the state itself.
    """
    model = architecture
    recurrent = sum(
        _has_no_cache(model, layer) and _is_recurrent(model, layer)
        for layer in range(model.layers - model.nextn_layers)
    )
    if model.conv_cache:
        return 4 * recurrent * model.embedding_length * (model.conv_cache - 1)
    if not model.state_inner:
        return recurrent * RECURRENT_LAYER_BYTES
    width = model.state_inner + 2 * model.state_groups * model.state_size
    looks_back = max(0, model.conv_kernel - 1) * width
    layers = recurrent or model.layers  # each layer has both (falcon-h1)
    return 4 * layers * (looks_back + model.state_size * model.state_inner)


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING_TOKENS) * PADDING_TOKENS


def _has_no_cache(architecture: Architecture, layer: int) -> bool:
    interval = architecture.full_attention_interval
    return not architecture.kv_heads[layer] or bool(interval and (layer + 1) % interval)


def _is_recurrent(architecture: Architecture, layer: int) -> bool:
    """Whether a layer without a cache has a state. In nemotron_h it has none if it is a feed-forward layer."""
    if not architecture.name.startswith("nemotron_h"):
        return True
    return not (architecture.feed_forward and architecture.feed_forward[layer])


def _row(architecture: Architecture, layer: int, *, slides: bool) -> int:
    """Return the elements that a layer caches for each token."""
    if is_mla(architecture):
        return architecture.kv_lora_rank + architecture.rope_dimensions
    lengths = architecture.key_length + architecture.value_length
    if slides and architecture.key_length_swa:
        lengths = architecture.key_length_swa + architecture.value_length_swa
    return architecture.kv_heads[layer] * lengths


def _sliding_layers(architecture: Architecture, runtime: Runtime) -> tuple[bool, ...]:
    """Return for each layer whether it has a sliding window: as the file says, else as the architecture has it."""
    can = runtime.engine != "A" or architecture.name in _SWA_IN_ENGINE_A
    if not architecture.sliding_window_tokens or not can:
        return (False,) * architecture.layers
    period = SWA_PERIODS.get(architecture.name, 1)
    return architecture.sliding_layers or periodic(period, architecture.layers)


def ubatch_tokens(tokens: int, runtime: Runtime) -> int:
    """Return the tokens computed at once: 512; from Ollama 0.30 on more for large windows (sched.go:783-915).

    Ollama lowers that again when it expects memory to be short: this is the upper bound.
    """
    if runtime.batch_tokens:
        return runtime.batch_tokens
    if runtime.engine != "C" or tokens <= 4096:
        return 512
    return 1024 if tokens <= 32768 else 2048


def graph_bytes(architecture: Architecture, num_ctx: int, runtime: Runtime) -> int:
    """Return the compute graphs: the most that is alive at one time, in 32-bit numbers for each token of a batch.

    Up to 0.24 it is either the logits with two rows of the model's width; or, in a layer, four such rows with the mask
    (6 bytes a token of the window: 32 bits, and 16 for flash attention's copy), or without flash attention with all
    heads' scores. Since then the mask has 16 bits, and from 0.30.4 on room is made for the last token's logits only
    (llama.cpp#23861); before, the graphs of a model and of its draft have room for all.
    """
    tokens = _padded(capped_tokens(architecture, num_ctx) * runtime.parallel)
    batch = ubatch_tokens(tokens, runtime)
    heads, width = max(architecture.heads), architecture.embedding_length
    rows = 2 * width + 2 * max(width, heads * architecture.key_length)
    scores = 4 * batch * (tokens * (heads + 1) + rows)
    flash = flash_attention(architecture, runtime)
    vocabulary = architecture.vocabulary
    known = UNKNOWN_VOCABULARY if isinstance(vocabulary, Unavailable) else vocabulary
    logits = 4 * batch * (known + 2 * width)
    if runtime.engine != "C":
        return max(logits, batch * (6 * tokens + 4 * rows) if flash else scores)
    mask = 2 * batch * tokens
    if any(_sliding_layers(architecture, runtime)):
        mask += 2 * batch * sliding_tokens(architecture, num_ctx, runtime)
    inside = 4 * batch * _feed_forward_rows(architecture)
    layer = max(inside, _attention_bytes(architecture, tokens, batch, runtime))
    main = mask + layer if flash else max(inside, scores)
    vision = VISION_GRAPH_BYTES if architecture.has_vision else 0
    draft = 4 * batch * 13 * width if architecture.draft_tokens else 0
    if draft:  # as logged: thirteen rows of the width, or ten with the mask
        draft = max(draft, mask + 4 * batch * 10 * width)
    if runtime.reserves_all_logits:
        main, draft = max(main, logits), max(draft, logits) if draft else 0
    return main + vision + draft


def _feed_forward_rows(architecture: Architecture) -> int:
    """Return the numbers that a feed-forward layer holds for a token: gate, up and their product, or those of each
    expert at work with what it adds, and rows of the model's width.
    """
    width = architecture.embedding_length
    inner = max(architecture.feed_forward, default=0) or 4 * width
    dense = 3 * inner + 4 * width
    expert = architecture.expert_feed_forward or inner
    experts = architecture.experts_used * max(3 * expert, 2 * width) + 4 * width
    used = max(dense, experts) if architecture.experts_used else dense
    return used + architecture.layer_embedding_length * architecture.layers


def _attention_bytes(architecture: Architecture, tokens: int, batch: int, runtime: Runtime) -> int:
    """Return what flash attention holds with a quantised cache: on CUDA a whole layer of it in f16 (llama.cpp#23907),
    with rows of queries and answers. With a cache of f16 it is less than the feed-forward layer's.
    """
    if cache_type(architecture, runtime) == "f16":
        return 0
    heads = max(architecture.heads) * architecture.key_length
    rows = 4 * batch * (4 * heads + 2 * architecture.embedding_length)
    slides = _sliding_layers(architecture, runtime)
    longest = max(
        (
            _row(architecture, layer, slides=False)
            for layer in range(architecture.layers)
            if not slides[layer] and not _has_no_cache(architecture, layer)
        ),
        default=0,
    )
    return rows + 2 * tokens * longest


def overhead_bytes(candidate: Candidate, num_ctx: int, runtime: Runtime) -> int:
    """Return CUDA's own memory for a runner with the measured need beyond the formula; never negative.

    Ollama up to 0.11.10 also keeps room for one layer more (llm/memory.go).
    """
    layer = 0
    if runtime.engine == "A":
        pool = weights_on_card(candidate) + kv_bytes(candidate.architecture, num_ctx, runtime)
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
