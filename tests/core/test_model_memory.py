"""The memory of one model, compared with published sizes and with logs of Ollama, and how it grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.fit_models import (
    BIG,
    GEMMA_3,
    GIB,
    LITE,
    LITE_MLA,
    LONG_SMOL,
    MIB,
    QWEN_4B,
    QWEN_8B,
    QWEN_14B,
    QWEN_30B_A3B,
    QWEN_32B,
    SMOL,
    candidate,
    model,
)
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.architecture import Architecture
from aider_guard.core.fit import need
from aider_guard.core.model_memory import (
    RECURRENT_LAYER_BYTES,
    RUNNER_BYTES,
    VISION_GRAPH_BYTES,
    Candidate,
    Engine,
    KvType,
    Runtime,
    cache_type,
    flash_attention,
    graph_bytes,
    is_mla,
    kv_bytes,
    ollamas_guess_bytes,
    state_bytes,
    ubatch_tokens,
    weights_on_card,
)
from aider_guard.core.readings import Unavailable

OLD = Runtime(engine="A", flash_attention=False)
OLD_FLASH = Runtime(engine="A")
NEW = Runtime()


@pytest.mark.parametrize(
    ("architecture", "per_token", "at_8k", "at_40k", "q8_at_32k"),
    [
        (QWEN_4B, 147_456, 1.12, 5.62, 2.39),
        (QWEN_8B, 147_456, 1.12, 5.62, 2.39),
        (QWEN_14B, 163_840, 1.25, 6.25, 2.66),
        (QWEN_32B, 262_144, 2.0, 10.0, 4.25),
        (QWEN_30B_A3B, 98_304, 0.75, 3.75, 1.59),
        (LITE, 276_480, 2.11, 10.5, 4.48),
        (BIG, 4_915_200, 37.5, 187.5, 79.7),
    ],
)
def test_the_published_cache_sizes_come_out(
    architecture: Architecture, per_token: int, at_8k: float, at_40k: float, q8_at_32k: float
) -> None:
    """Bytes a token at f16, GiB at 8,192 and 40,960 tokens, and GiB of q8_0 at 32,768, as the table has them."""
    assert kv_bytes(architecture, 8192, NEW) == per_token * 8192
    assert kv_bytes(architecture, 8192, NEW) / GIB == pytest.approx(at_8k, abs=0.01)
    assert kv_bytes(architecture, 40_960, NEW) / GIB == pytest.approx(at_40k, abs=0.06)
    q8_0 = kv_bytes(architecture, 32_768, Runtime(kv_type="q8_0")) / GIB
    assert q8_0 == pytest.approx(q8_at_32k, abs=0.05)


def test_mla_keeps_one_row_a_token() -> None:
    """With the keys of MLA in the file the cache has a rank and a rope part, and no values: 31,104 and 69,120 bytes."""
    assert kv_bytes(LITE_MLA, 1024, NEW) == 31_104 * 1024
    assert kv_bytes(replace(BIG, key_length_mla=192), 1024, NEW) == 69_120 * 1024


@pytest.mark.parametrize(
    ("tokens", "kind", "flash", "kv_mib", "graph_mib"),
    [
        (2048, "f16", False, 45.00, 98.25),
        (4096, "f16", False, 90.00, 98.25),
        (8192, "f16", False, 180.00, 164.51),
        (16_384, "f16", False, 360.00, 324.50),
        (2048, "q8_0", True, 23.91, 98.25),
        (8192, "q8_0", True, 95.62, 97.12),
        (8192, "q4_0", True, 50.62, 97.12),
        (16_384, "q8_0", True, 191.25, 97.12),
        (32_768, "f16", True, 720.00, 100.51),
        (65_536, "q4_0", True, 405.00, 196.51),
    ],
)
def test_what_ollama_logged_comes_out(
    tokens: int, kind: KvType, flash: bool, kv_mib: float, graph_mib: float
) -> None:
    """The buffers of SmolLM2-135M on Ollama 0.9.3: the cache to 0.01 MiB, the graph to 1.2 %."""
    runtime = Runtime("A", kind, 1, flash)

    assert kv_bytes(LONG_SMOL, tokens, runtime) / MIB == pytest.approx(kv_mib, abs=0.01)
    assert graph_bytes(LONG_SMOL, tokens, runtime) / MIB == pytest.approx(graph_mib, rel=0.012)


def test_the_window_is_capped_at_the_trained_context() -> None:
    """More than the model was trained for is not loaded."""
    assert need(candidate(SMOL, 0.1), 32_768, OLD) == need(candidate(SMOL, 0.1), 8192, OLD)
    unknown = replace(SMOL, trained_tokens=Unavailable("not told"))
    assert kv_bytes(unknown, 32_768, OLD) == 4 * kv_bytes(unknown, 8192, OLD)


def test_slots_multiply_the_window() -> None:
    """Two slots of 2,048 tokens are a cache of 4,096."""
    assert kv_bytes(SMOL, 2048, Runtime("A", parallel=2)) == 90 * MIB


def test_a_sliding_layer_holds_its_window_and_a_batch() -> None:
    """Of gemma3 every sixth layer holds all tokens; the others 1,024 and a batch of 1,024."""
    row = 4 * 512 * 2
    assert kv_bytes(GEMMA_3, 32_768, NEW) == row * (2 * 32_768 + 10 * 2048)
    assert kv_bytes(GEMMA_3, 512, NEW) == row * 12 * 512
    longer = replace(GEMMA_3, layers=34, kv_heads=(4,) * 34)
    assert kv_bytes(longer, 32_768, NEW) == row * (5 * 32_768 + 29 * 2048)
    slots = Runtime("B", parallel=4)
    assert kv_bytes(GEMMA_3, 8192, slots) == row * (2 * 4 * 8192 + 10 * (4 * 1024 + 512))


@pytest.mark.parametrize(
    ("name", "engine", "sliding"),
    [("gemma2", "C", 6), ("gemma2", "A", 0), ("gpt-oss", "A", 6), ("phi3", "C", 0)],
)
def test_only_known_patterns_slide(name: str, engine: Engine, sliding: int) -> None:
    """Every other layer of gemma2 and gpt-oss slides, where the engine can; of an unknown architecture none does."""
    architecture = replace(GEMMA_3, name=name)
    layer = 4 * 512 * 2 * 4096
    small = 4 * 512 * 2 * (1024 + 512)

    assert kv_bytes(architecture, 4096, Runtime(engine)) == (12 - sliding) * layer + sliding * small


def test_recurrent_layers_keep_a_constant() -> None:
    """Layers without attention, by an interval or by having no heads for keys, do not grow with the window."""
    by_interval = replace(QWEN_8B, layers=35, kv_heads=(8,) * 35, full_attention_interval=4)
    by_heads = replace(by_interval, kv_heads=(0, 0, 0, 8) * 8 + (0,) * 3, full_attention_interval=0)

    for architecture in (by_interval, by_heads):
        constant = 27 * RECURRENT_LAYER_BYTES
        assert kv_bytes(architecture, 8192, NEW) == 8 * 8 * 256 * 2 * 8192 + constant


@pytest.mark.parametrize(
    ("architecture", "runtime", "expected"),
    [
        (QWEN_8B, Runtime("C", "q8_0"), "q8_0"),
        (QWEN_8B, Runtime("A", "q8_0", flash_attention=False), "f16"),
        (QWEN_8B, Runtime("C", "q8_0", flash_attention=False), "f16"),
        (LITE, Runtime("B", "q8_0"), "f16"),
        (LITE, Runtime("C", "q8_0"), "q8_0"),
    ],
)
def test_a_quantised_cache_needs_flash_attention(
    architecture: Architecture, runtime: Runtime, expected: KvType
) -> None:
    """Without it, or for keys and values of unlike lengths before 0.30, Ollama falls back to f16."""
    assert cache_type(architecture, runtime) == expected


def test_flash_attention_needs_equal_lengths_or_mla() -> None:
    """DeepSeek's older files cannot use it, its newer ones can from 0.30 on."""
    assert flash_attention(QWEN_8B, OLD_FLASH)
    assert not flash_attention(LITE, NEW)
    assert flash_attention(LITE_MLA, NEW)
    assert not flash_attention(LITE_MLA, OLD_FLASH)


@pytest.mark.parametrize(
    ("engine", "tokens", "expected"),
    [
        ("A", 65_536, 512),
        ("B", 65_536, 512),
        ("C", 4096, 512),
        ("C", 4097, 1024),
        ("C", 32_768, 1024),
        ("C", 32_769, 2048),
    ],
)
def test_the_batch_grows_with_the_window_from_0_30_on(
    engine: Engine, tokens: int, expected: int
) -> None:
    """512 tokens at once, and 1,024 or 2,048 for large windows on new versions."""
    assert ubatch_tokens(tokens, Runtime(engine)) == expected


def test_the_graph_grows_with_the_window_where_heads_are_wide() -> None:
    """The rows of a layer are as wide as its heads, a mask has 6 bytes a token; else there are scores."""
    rows = 2 * 2560 + 2 * 32 * 128
    tokens = 163_840

    assert graph_bytes(QWEN_4B, tokens, OLD_FLASH) == 512 * (6 * tokens + 4 * rows)
    assert graph_bytes(QWEN_4B, tokens, OLD) == 4 * 512 * (33 * tokens + rows)
    without = replace(NEW, flash_attention=False)
    assert graph_bytes(QWEN_4B, tokens, without) == 4 * 2048 * (33 * tokens + rows)


def test_the_graph_of_today_is_a_mask_and_a_feed_forward_layer() -> None:
    """Two bytes of mask for each token of the window and of the batch; three inner rows and four of the width."""
    known = replace(QWEN_4B, feed_forward=(9728,) * 36)
    rows = 3 * 9728 + 4 * 2560
    assert graph_bytes(known, 8192, NEW) == 1024 * (2 * 8192 + 4 * rows)
    guessed = 3 * 4 * 2560 + 4 * 2560
    assert graph_bytes(QWEN_4B, 8192, NEW) == 1024 * (2 * 8192 + 4 * guessed)
    experts = replace(known, experts=128, experts_used=8, expert_feed_forward=4096)
    assert graph_bytes(experts, 8192, NEW) == 1024 * (2 * 8192 + 4 * (8 * 3 * 4096 + 4 * 2560))
    narrow = replace(experts, expert_feed_forward=768)
    assert graph_bytes(narrow, 8192, NEW) == 1024 * (2 * 8192 + 4 * (8 * 2 * 2560 + 4 * 2560))
    each_layer = replace(known, layer_embedding_length=256)
    assert graph_bytes(each_layer, 8192, NEW) == 1024 * (2 * 8192 + 4 * (rows + 256 * 36))


def test_a_quantised_cache_is_in_the_graph_once_more() -> None:
    """CUDA turns one layer of it into f16 for flash attention."""
    tokens, rows = 163_840, 4 * 32 * 128 + 2 * 2560
    quantised = replace(NEW, kv_type="q8_0")
    layer = 2 * tokens * 8 * 256
    assert graph_bytes(QWEN_4B, tokens, quantised) == 2048 * (2 * tokens + 4 * rows) + layer


def test_a_tower_for_pictures_and_a_draft_have_graphs_of_their_own() -> None:
    tower = graph_bytes(replace(QWEN_4B, has_vision=True), 8192, NEW)
    assert tower == graph_bytes(QWEN_4B, 8192, NEW) + VISION_GRAPH_BYTES
    for tokens, draft in ((8192, 13 * 4 * 2560), (40_960, 2 * 40_960 + 10 * 4 * 2560)):
        drafting = graph_bytes(replace(QWEN_4B, draft_tokens=2), tokens, NEW)
        more = drafting - graph_bytes(QWEN_4B, tokens, NEW)
        assert more == ubatch_tokens(tokens, NEW) * draft


def test_the_constants_are_those_of_their_sources() -> None:
    """CUDA's own memory as Ollama has it, and twice qwen3next's state."""
    assert VISION_GRAPH_BYTES == 256 * MIB
    assert RUNNER_BYTES == 457 * MIB
    assert RECURRENT_LAYER_BYTES == 2 * (32 * 128 * 128 * 4)


def test_an_unknown_vocabulary_counts_as_a_large_one() -> None:
    """The logits are then as large as Gemma's."""
    unknown = replace(SMOL, vocabulary=Unavailable("not told"))
    assert graph_bytes(unknown, 2048, OLD) == 4 * 512 * (262_144 + 2 * 576)


def test_overhead_is_cudas_and_what_was_measured() -> None:
    """457 MiB for a runner, more or less what was learned, not below 0; old versions keep a layer free."""
    assert need(candidate(SMOL, 1), 2048, NEW).overhead_bytes == RUNNER_BYTES
    assert need(candidate(SMOL, 1, more=7), 2048, NEW).overhead_bytes == RUNNER_BYTES + 7
    assert need(candidate(SMOL, 1, more=-(10**10)), 2048, NEW).overhead_bytes == 0
    layer = (GIB + 45 * MIB) // 30
    assert need(candidate(SMOL, 1), 2048, OLD).overhead_bytes == RUNNER_BYTES + layer


@pytest.mark.parametrize(
    ("architecture", "per_token"),
    [(QWEN_4B, 92_160), (QWEN_32B, 163_840), (QWEN_30B_A3B, 49_152)],
)
def test_ollamas_own_guess_knows_no_key_length(architecture: Architecture, per_token: int) -> None:
    """Ollama 0.30 takes too little for qwen3: the published bytes a token of its guess."""
    one = Candidate("m", 1000, architecture)
    assert ollamas_guess_bytes(one, 8192, NEW) == 1000 + per_token * 8192


architectures = st.builds(
    replace,
    st.sampled_from([SMOL, QWEN_8B, QWEN_30B_A3B, LITE, LITE_MLA, BIG, GEMMA_3]),
    trained_tokens=st.integers(512, 300_000),
    full_attention_interval=st.sampled_from([0, 0, 4]),
)
runtimes = st.builds(
    Runtime,
    engine=st.sampled_from(["A", "B", "C"]),
    kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    parallel=st.integers(1, 4),
    flash_attention=st.booleans(),
)


@given(architectures, runtimes, st.integers(4, 300_000), st.integers(4, 300_000))
def test_nothing_shrinks_when_the_window_grows(
    architecture: Architecture, runtime: Runtime, one: int, other: int
) -> None:
    """Cache, graph and overhead are monotone in the window."""
    small = need(candidate(architecture, 5), min(one, other), runtime)
    large = need(candidate(architecture, 5), max(one, other), runtime)

    assert small.kv_bytes <= large.kv_bytes
    assert small.graph_bytes <= large.graph_bytes
    assert small.overhead_bytes <= large.overhead_bytes
    assert large.total_bytes == sum(
        (large.weights_bytes, large.kv_bytes, large.graph_bytes, large.overhead_bytes)
    )


@given(architectures, runtimes, st.integers(4, 300_000))
def test_slots_and_wider_caches_cost_more(
    architecture: Architecture, runtime: Runtime, window: int
) -> None:
    """One slot more never needs less, and f16 >= q8_0 >= q4_0."""
    more = replace(runtime, parallel=runtime.parallel + 1)
    assert kv_bytes(architecture, window, runtime) <= kv_bytes(architecture, window, more)
    assert graph_bytes(architecture, window, runtime) <= graph_bytes(architecture, window, more)
    kinds: tuple[KvType, ...] = ("q4_0", "q8_0", "f16")
    sizes = [kv_bytes(architecture, window, replace(runtime, kv_type=kind)) for kind in kinds]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("name", "period"),
    [
        ("gemma2", 2),
        ("gemma3", 6),
        ("gemma3n", 5),
        ("gptoss", 2),
        ("gpt-oss", 2),
        ("cohere2", 4),
        ("exaone4", 4),
        ("gemma4", 6),
        ("glimmer", 4),
        ("cohere2moe", 4),
        ("llama", 1),
    ],
)
def test_every_nth_layer_sees_the_whole_window(name: str, period: int) -> None:
    """As llama.cpp has it for each architecture; where it has none, all layers do."""
    layers = 60
    sliding = replace(
        GEMMA_3, name=name, layers=layers, heads=(8,) * layers, kv_heads=(4,) * layers
    )
    row = 2 * 4 * (256 + 256)
    window = 1024 + ubatch_tokens(40_960, NEW)
    full = layers // period
    assert kv_bytes(sliding, 40_960, NEW) == row * (full * 40_960 + (layers - full) * window)


@pytest.mark.parametrize(
    ("key_length", "rank", "is_one"), [(0, 0, False), (1, 0, False), (0, 1, False), (1, 1, True)]
)
def test_mla_needs_its_keys_and_its_rank(key_length: int, rank: int, is_one: bool) -> None:
    assert is_mla(replace(LITE, key_length_mla=key_length, kv_lora_rank=rank)) is is_one


def test_ollamas_guess_grows_with_the_slots() -> None:
    """It is for all of them."""
    one = candidate(QWEN_8B, 0)
    guess = ollamas_guess_bytes(one, 8192, NEW)
    assert ollamas_guess_bytes(one, 8192, replace(NEW, parallel=3)) == 3 * guess


def test_nothing_is_added_that_is_not_told() -> None:
    """What a model does not have costs nothing, and nothing was measured beyond the formula yet."""
    architecture = Architecture("llama", 1, 64, (1,), (1,), 64, 64, 1000, 8192)
    named = ("sliding_window_tokens", "kv_lora_rank", "key_length_mla", "rope_dimensions")
    counted = ("full_attention_interval", "experts", "experts_used")
    assert [getattr(architecture, name) for name in (*named, *counted)] == [0] * 7
    assert Candidate("m", 1, architecture).correction_bytes == 0


def test_layers_without_a_cache_keep_a_constant() -> None:
    """Each layer whose cache is a constant keeps it for each slot, the others for each token."""
    hybrid = replace(SMOL, full_attention_interval=3)
    full = 30 // 3
    bytes_a_token = 2 * 3 * (64 + 64) * full
    states = (30 - full) * RECURRENT_LAYER_BYTES
    assert kv_bytes(hybrid, 256, NEW) == bytes_a_token * 256 + states
    assert kv_bytes(replace(hybrid, full_attention_interval=1), 256, NEW) == 3 * bytes_a_token * 256


def test_sliding_layers_have_lengths_and_heads_of_their_own() -> None:
    """gemma4:12b at 8,192 q8_0: eight layers with one head of 512, forty with eight heads of 256."""
    slides = ((True,) * 5 + (False,)) * 8
    gemma = replace(
        model(48, 3840, 16, 1, 512, 512, name="gemma4"),
        kv_heads=((8,) * 5 + (1,)) * 8,
        key_length_swa=256,
        value_length_swa=256,
        sliding_window_tokens=1024,
        sliding_layers=slides,
    )
    runtime = replace(NEW, kv_type="q8_0", batch_tokens=512)
    assert kv_bytes(gemma, 8192, runtime) == 323 * MIB
    assert kv_bytes(replace(gemma, sliding_layers=()), 8192, runtime) == 323 * MIB
    unlike = replace(gemma, sliding_layers=(True,) * 48)
    assert kv_bytes(unlike, 8192, runtime) < kv_bytes(gemma, 8192, runtime)


def test_layers_that_share_a_cache_have_none() -> None:
    """The last ones use that of a layer before them."""
    shared = replace(QWEN_8B, shared_kv_layers=12)
    assert kv_bytes(shared, 8192, NEW) * 36 == kv_bytes(QWEN_8B, 8192, NEW) * 24


def test_each_slot_slides_for_itself_from_0_30_on() -> None:
    """gemma4:12b with two slots of 4,096 tokens: 1,536 cells in each."""
    two = kv_bytes(GEMMA_3, 4096, replace(NEW, parallel=2, batch_tokens=512))
    assert two == 2 * kv_bytes(GEMMA_3, 4096, replace(NEW, batch_tokens=512))


QWEN_35 = replace(
    model(64, 5120, 24, 4, 256, 256, vocabulary=248_320, name="qwen35"),
    full_attention_interval=4,
    conv_kernel=4,
    state_inner=6144,
    state_size=128,
    state_groups=16,
)


def test_a_recurrent_state_has_its_real_size() -> None:
    """qwen3.8:27b: 149.62 MiB for a slot, of which 5.62 are what the convolutions look back on."""
    assert state_bytes(QWEN_35) == 48 * 4 * (3 * (6144 + 2 * 16 * 128) + 128 * 6144)
    assert state_bytes(QWEN_35) / MIB == pytest.approx(149.62, abs=0.01)
    assert kv_bytes(QWEN_35, 8192, NEW) == 512 * MIB + state_bytes(QWEN_35)
    slots = kv_bytes(QWEN_35, 8192, replace(NEW, parallel=3))
    assert slots == 3 * (512 * MIB + state_bytes(QWEN_35))
    assert (
        state_bytes(replace(QWEN_35, full_attention_interval=0)) == 64 * state_bytes(QWEN_35) / 48
    )
    assert state_bytes(replace(QWEN_35, conv_kernel=0)) == 144 * MIB


def test_lfm2_looks_back_only() -> None:
    """Ten of sixteen layers keep two rows: 0.16 MiB in public logs."""
    heads = (0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0)
    lfm2 = replace(model(16, 2048, 32, 8, 64, 64, name="lfm2"), kv_heads=heads, conv_cache=3)
    assert state_bytes(lfm2) == 10 * 2048 * 2 * 4
    assert kv_bytes(lfm2, 4096, NEW) == 48 * MIB + state_bytes(lfm2)


def test_feed_forward_layers_of_nemotron_have_no_state() -> None:
    """Layers without heads for keys are recurrent only where they feed nothing forward."""
    hybrid = replace(
        QWEN_35,
        name="nemotron_h_moe",
        layers=4,
        heads=(32,) * 4,
        kv_heads=(0, 0, 2, 0),
        feed_forward=(0, 1856, 0, 1856),
        full_attention_interval=0,
    )
    assert state_bytes(hybrid) * 48 == state_bytes(QWEN_35)
    assert state_bytes(replace(hybrid, name="qwen35")) * 16 == state_bytes(QWEN_35)


def test_layers_that_draft_cost_only_where_the_tag_drafts() -> None:
    """qwen3.8:27b with 4 tokens: a cache of one layer in f16, and five states."""
    has = replace(
        QWEN_35, layers=65, heads=(24,) * 65, kv_heads=(4,) * 65, nextn_layers=1, draft_bytes=1000
    )
    runtime = replace(NEW, kv_type="q4_0")
    alone = kv_bytes(QWEN_35, 32_768, runtime)
    assert kv_bytes(has, 32_768, runtime) == alone
    drafts = replace(has, draft_tokens=4)
    assert kv_bytes(drafts, 32_768, runtime) == alone + 128 * MIB + 4 * state_bytes(QWEN_35)
    assert weights_on_card(Candidate("m", 5000, has)) == 4000
    assert weights_on_card(Candidate("m", 5000, drafts)) == 5000


def test_tables_of_tokens_are_not_on_the_card() -> None:
    in_memory = replace(QWEN_8B, main_memory_bytes=300)
    assert need(Candidate("m", 5000, in_memory), 8192, NEW).weights_bytes == 4700
    assert weights_on_card(Candidate("m", 200, in_memory)) == 0
    assert in_memory == QWEN_8B  # another quantisation of it
