"""Parsing an architecture from Ollama's answer: its numbers, or the reason why one is missing."""

from __future__ import annotations

from typing import Any

import pytest
from core.fit_models import GEMMA_3, LITE_MLA, QWEN_8B, SMOL
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.architecture import (
    Architecture,
    even_tokens,
    goes_back,
    parse_architecture,
)
from aider_guard.core.readings import Unavailable

# Ollama 0.9.3 on SmolLM2-135M; what does not matter is left out.
INFO: dict[str, Any] = {
    "general.architecture": "llama",
    "general.languages": None,
    "general.parameter_count": 134_515_008,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 0.00001,
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.rope.dimension_count": 64,
    "llama.vocab_size": 49_152,
    "tokenizer.ggml.tokens": None,
}
TENSORS: list[Any] = [
    {"name": "token_embd.weight", "type": "Q8_0", "shape": [576, 49_152]},
    {"name": "blk.0.attn_norm.weight", "type": "F32", "shape": [576]},
]


def changed(**changes: object) -> dict[str, Any]:
    """The answer with other facts of the architecture; None takes one away."""
    facts = {f"llama.{key.replace('__', '.')}": value for key, value in changes.items()}
    return {key: value for key, value in {**INFO, **facts}.items() if value is not None}


def parsed(info: object, tensors: object = TENSORS) -> Architecture:
    architecture = parse_architecture(info, tensors)
    assert isinstance(architecture, Architecture)
    return architecture


def reason(info: object) -> str:
    architecture = parse_architecture(info, TENSORS)
    assert isinstance(architecture, Unavailable)
    return architecture.reason


def test_an_answer_of_ollamas() -> None:
    """All numbers are read; missing head lengths follow from the width."""
    assert parsed(INFO) == Architecture(
        "llama",
        30,
        576,
        (9,) * 30,
        (3,) * 30,
        64,
        64,
        49_152,
        8192,
        rope_dimensions=64,
        key_length_swa=64,
        value_length_swa=64,
        feed_forward=(1536,) * 30,
    )
    assert parsed(INFO).heads == SMOL.heads


def test_head_lengths_of_their_own() -> None:
    """qwen3's heads are longer than its width over their number."""
    facts = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": 48,
        "qwen3moe.embedding_length": 2048,
        "qwen3moe.attention.head_count": 32,
        "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": 128,
        "qwen3moe.attention.value_length": 128,
        "qwen3moe.context_length": 262_144,
        "qwen3moe.expert_count": 128,
        "qwen3moe.expert_used_count": 8,
    }
    found = parsed(facts, [{"name": "token_embd.weight", "shape": [2048, 151_936]}])

    assert (found.key_length, found.value_length) == (QWEN_8B.key_length, QWEN_8B.value_length)
    assert (found.experts, found.experts_used, found.vocabulary) == (128, 8, 151_936)


def test_mla_and_sliding_windows() -> None:
    """The numbers of DeepSeek and Gemma."""
    found = parsed(
        changed(
            attention__kv_lora_rank=512, attention__key_length_mla=192, full_attention_interval=4
        )
    )
    assert (found.kv_lora_rank, found.key_length_mla) == (512, LITE_MLA.key_length_mla)
    assert found.full_attention_interval == 4
    sliding = parsed(changed(attention__sliding_window=1024)).sliding_window_tokens
    assert sliding == GEMMA_3.sliding_window_tokens


def test_lists_have_one_number_a_layer() -> None:
    """A verbose answer on a hybrid has the heads of each layer."""
    kv_heads = [0, 0, 3] * 10
    assert parsed(changed(attention__head_count_kv=kv_heads)).kv_heads == tuple(kv_heads)
    assert "for each layer" in reason(changed(attention__head_count_kv=[3] * 29))


@pytest.mark.parametrize("hidden", [None, []])
def test_lists_are_hidden_without_verbose(hidden: object) -> None:
    """A null or empty list is unavailable, and is not read as one number."""
    found = reason({**INFO, "llama.attention.head_count_kv": hidden})
    assert "attention.head_count_kv for each layer (only when asked verbosely)" in found


def test_without_kv_heads_each_head_has_its_own() -> None:
    """A model without grouped heads has no such field."""
    assert parsed(changed(attention__head_count_kv=None)).kv_heads == (9,) * 30


def test_the_vocabulary_is_in_the_shape_of_the_embedding() -> None:
    """Without that shape a field of its own counts, else the vocabulary is unavailable."""
    other = [{"name": "token_embd.weight", "shape": [576, 1000]}]
    assert parsed(INFO, other).vocabulary == 1000
    assert parsed(INFO, None).vocabulary == 49_152
    for strange in ([576], [576, True], [576, -1], "x", None):
        tensors = [{"name": "token_embd.weight", "shape": strange}, 3, None]
        assert isinstance(parsed(changed(vocab_size=None), tensors).vocabulary, Unavailable)


def test_the_trained_context_may_be_unknown() -> None:
    """The rest of the architecture is still parsed."""
    assert isinstance(parsed(changed(context_length=None)).trained_tokens, Unavailable)
    assert isinstance(parsed(changed(context_length=0)).trained_tokens, Unavailable)


@pytest.mark.parametrize(
    "info",
    [
        None,
        [],
        "x",
        {},
        {"general.architecture": ""},
        {"general.architecture": 3},
        {"general.architecture": "llama"},
        {3: 4, "general.architecture": "llama"},
    ],
)
def test_what_names_no_architecture_is_none(info: object) -> None:
    """The result is a reason, never an exception."""
    assert reason(info)


@pytest.mark.parametrize(
    "key",
    [
        "llama.block_count",
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.context_length",
        "llama.rope.dimension_count",
    ],
)
@pytest.mark.parametrize("value", [-1, "9", True, 9.5, 1 << 40, {}, [True] * 30, ["9"] * 30])
def test_a_strange_number_makes_it_unavailable(key: str, value: object) -> None:
    """Each field must be a number in the range of a model."""
    assert "Ollama does not tell" in reason({**INFO, key: value})


@pytest.mark.parametrize(
    "key", ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"]
)
def test_what_every_model_has_must_be_told(key: str) -> None:
    """Layers, width and heads must be there and positive."""
    assert reason({name: value for name, value in INFO.items() if name != key})
    assert reason({**INFO, key: 0})


def test_a_reason_names_at_most_40_characters_of_the_model() -> None:
    """Its name comes from a file, and may have any length."""
    words = "Ollama does not tell the layers and their width of the {} model"
    assert reason({"general.architecture": "x" * 40}) == words.format("x" * 40)
    assert reason({"general.architecture": "x" * 40 + "y"}) == words.format("x" * 40)


def test_no_endless_list_is_made() -> None:
    """An absurd number of layers is refused before a list is made."""
    assert reason({**INFO, "llama.block_count": 1 << 30})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(INFO)), anything), anything)
def test_garbage_never_raises(changes: dict[str, Any], tensors: object) -> None:
    """Any answer gives an architecture or a reason."""
    assert isinstance(parse_architecture({**INFO, **changes}, tensors), Architecture | Unavailable)


MOST = (1 << 31) - 1


def test_numbers_at_their_limits() -> None:
    """Nothing is a number as well; what no model can have is none; 10,000 layers are the most."""
    assert parsed(changed(attention__sliding_window=0)).sliding_window_tokens == 0
    assert parsed(changed(context_length=MOST)).trained_tokens == MOST
    assert "context_length" in reason(changed(context_length=MOST + 1))
    assert parsed(changed(block_count=10_000)).layers == 10_000
    assert "the layers" in reason(changed(block_count=10_001))


def test_the_vocabulary_at_its_limits() -> None:
    """A size of 0 is none, in a shape and in a number."""
    for size, known in ((1, True), (MOST, True), (0, False), (MOST + 1, False)):
        shape = [{"name": "token_embd.weight", "shape": [576, size]}]
        by_shape = parsed(changed(vocab_size=None), shape).vocabulary
        by_number = parsed(changed(vocab_size=size), []).vocabulary
        for found in (by_shape, by_number):
            assert found == size if known else isinstance(found, Unavailable)


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("attention__sliding_window", "sliding_window_tokens"),
        ("attention__kv_lora_rank", "kv_lora_rank"),
        ("attention__key_length_mla", "key_length_mla"),
        ("rope__dimension_count", "rope_dimensions"),
        ("full_attention_interval", "full_attention_interval"),
        ("expert_count", "experts"),
        ("expert_used_count", "experts_used"),
        ("expert_feed_forward_length", "expert_feed_forward"),
        ("embedding_length_per_layer_input", "layer_embedding_length"),
        ("attention__shared_kv_layers", "shared_kv_layers"),
        ("nextn_predict_layers", "nextn_layers"),
        ("ssm__conv_kernel", "conv_kernel"),
        ("ssm__inner_size", "state_inner"),
        ("ssm__state_size", "state_size"),
        ("ssm__group_count", "state_groups"),
        ("shortconv__l_cache", "conv_cache"),
    ],
)
def test_what_a_model_does_not_have_is_zero(key: str, field: str) -> None:
    assert getattr(parsed(changed(**{key: None})), field) == 0
    assert getattr(parsed(changed(**{key: 7})), field) == 7


@pytest.mark.parametrize(
    ("pattern", "slides"),
    [
        (6, (True, True, True, True, True, False) * 5),
        (1, (False,) * 30),
        (0, (True,) * 30),
        ([True, True, False], (True, True, False) * 10),
        ([1, 0], (True, False) * 15),
        ([True] * 29 + [False], (True,) * 29 + (False,)),
    ],
)
def test_a_pattern_is_a_period_or_a_list(pattern: object, slides: tuple[bool, ...]) -> None:
    """A list that is shorter than the model repeats."""
    assert parsed(changed(attention__sliding_window_pattern=pattern)).sliding_layers == slides
    assert parsed(INFO).sliding_layers == ()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [(None, "only when asked verbosely"), ([], "verbosely"), ("x", "pattern"), (["x"], "pattern")],
)
def test_a_strange_pattern_is_unavailable(pattern: object, words: str) -> None:
    found = reason({**INFO, "llama.attention.sliding_window_pattern": pattern})
    assert "attention.sliding_window_pattern" in found
    assert words in found


def test_lengths_of_sliding_layers_are_those_of_the_others_if_not_told() -> None:
    told = changed(attention__key_length_swa=256, attention__value_length_swa=128)
    assert (parsed(told).key_length_swa, parsed(told).value_length_swa) == (256, 128)
    assert (parsed(INFO).key_length_swa, parsed(INFO).value_length_swa) == (64, 64)


def test_twenty_layers_of_gemma3n_have_a_cache() -> None:
    """No key says so."""
    info = {key.replace("llama.", "gemma3n."): value for key, value in INFO.items()}
    found = parsed({**info, "general.architecture": "gemma3n"})
    assert found.shared_kv_layers == 10


def test_all_layers_cannot_draft() -> None:
    assert parsed(changed(nextn_predict_layers=29)).nextn_layers == 29
    assert "nextn_predict_layers" in reason(changed(nextn_predict_layers=30))


def test_feed_forward_lengths_may_differ() -> None:
    lengths = [0, 1856] * 15
    assert parsed(changed(feed_forward_length=lengths)).feed_forward == tuple(lengths)
    assert parsed(changed(feed_forward_length=None)).feed_forward == (0,) * 30


def tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "shape": list(shape)}


def test_what_no_card_holds() -> None:
    """The table of tokens, unless it is the output layer too; tables of rows for each layer."""
    table = tensor("token_embd.weight", "Q4_K", 1024, 4096)
    assert parsed(INFO, [table]).main_memory_bytes == 0
    output = tensor("output.weight", "Q6_K", 1024, 4096)
    assert parsed(INFO, [table, output]).main_memory_bytes == 1024 * 4096 * 144 // 256
    rows = tensor("per_layer_token_embd.weight", "q8_0", 256, 4096)
    assert parsed(INFO, [table, rows]).main_memory_bytes == 256 * 4096 * 34 // 32
    strange = tensor("per_layer_token_embd.weight", "Q9_X", 256, 4096)
    assert parsed(INFO, [strange]).main_memory_bytes == 0


def test_layers_that_draft_have_a_size() -> None:
    """The last ones by their number, or those of Ollama's own files by their name."""
    info = changed(nextn_predict_layers=2)
    blocks = [tensor(f"blk.{number}.attn_q.weight", "F16", 8, 8) for number in (0, 27, 28, 29)]
    assert parsed(info, blocks).draft_bytes == 2 * 128
    assert parsed(INFO, blocks).draft_bytes == 0
    assert parsed(INFO, [tensor("mtp.fc.weight", "F32", 4, 4)]).draft_bytes == 64


def test_a_tower_for_pictures_is_in_the_file_or_beside_it() -> None:
    assert not parsed(INFO).has_vision
    assert parsed(INFO, [tensor("v.patch_embd.weight", "F16", 16, 16)]).has_vision
    beside = parse_architecture(INFO, TENSORS, {"general.architecture": "clip"})
    assert isinstance(beside, Architecture)
    assert beside.has_vision


def shape(name: str, **facts: object) -> dict[str, object]:
    """What Ollama tells of a model, the keys without the name of its architecture."""
    return {"general.architecture": name} | {f"{name}.{key}": facts[key] for key in facts}


SLIDES = {"attention.sliding_window": 512}


@pytest.mark.parametrize(
    ("info", "goes"),
    [
        (shape("llama"), True),
        (shape("gemma3", **SLIDES), False),
        (shape("gemma3"), True),
        (shape("qwen35", full_attention_interval=4), False),
        (shape("mamba", **{"ssm.state_size": 16}), False),
        (None, True),
    ],
)
def test_which_caches_go_back_to_a_common_beginning(info: object, goes: bool) -> None:
    """Not those of sliding and of recurrent layers; what is not told counts as the usual."""
    assert goes_back(info) is goes


@pytest.mark.parametrize(
    ("weights", "facts", "tokens"),
    [
        (134_515_008, {"block_count": 30, "embedding_length": 576}, 2_595),
        (8_190_735_360, {"block_count": 36, "embedding_length": 4096}, 18_516),
        (
            30_532_122_624,
            {"block_count": 48, "embedding_length": 2048, "expert_count": 128}
            | {"expert_used_count": 8},
            6_471,
        ),
        (1_000, {"block_count": 36, "embedding_length": 4096}, 500),
        (8_190_735_360, {"block_count": 36}, None),
    ],
    ids=["SmolLM2-135M", "Qwen3-8B", "Qwen3-30B-A3B", "nonsense", "not told"],
)
def test_where_attention_takes_as_long_as_the_weights(
    weights: int, facts: dict[str, object], tokens: int | None
) -> None:
    """Of experts only those count that a token uses."""
    found = even_tokens(shape("one", **facts) | {"general.parameter_count": weights})
    assert (round(found) if isinstance(found, float) else None) == tokens
