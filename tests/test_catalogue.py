"""The catalogue: complete, sourced, and consistent with what is published of the models."""

from __future__ import annotations

import pytest

from aider_guard.catalogue import CatalogueEntry, catalogue_entries, find, nearest
from aider_guard.core.model_memory import Runtime, kv_bytes

PARAMETERS = {  # of the model cards, in 10^9, without towers for pictures
    "qwen3:4b": 4.02,
    "qwen3:8b": 8.19,
    "qwen3:14b": 14.77,
    "qwen3:32b": 32.76,
    "qwen3:30b-a3b": 30.53,
    "deepseek-coder-v2:16b": 15.71,
    "deepseek-coder-v2:236b": 235.74,
    "qwen3:4b-q4_K_M": 4.02,
    "qwen3:30b-a3b-q4_K_M": 30.53,
    "qwen3.8:27b": 27.4,
    "qwen3.6:27b": 26.9,
    "qwen3.6:35b": 34.7,
    "qwen3.5:9b": 9.0,
    "qwen3.5:4b": 4.2,
    "hf.co/unsloth/Qwen3.5-2B-GGUF:UD-Q4_K_XL": 1.9,
    "qwen3-coder:30b": 30.53,
    "qwen3-coder-next": 79.7,
    "gpt-oss:20b": 20.9,
    "gpt-oss:120b": 116.8,
    "devstral-small-2:24b": 23.6,
    "devstral:24b": 23.6,
    "ministral-3:14b": 13.5,
    "ministral-3:8b": 8.5,
    "gemma4:31b": 30.7,
    "gemma4:26b": 25.2,
    "gemma4:12b": 11.9,
    "gemma4:e4b": 7.5,
    "hf.co/unsloth/gemma-4-E2B-it-GGUF:UD-Q4_K_XL": 4.6,
    "glm-4.7-flash": 29.9,
    "nemotron-3-nano:30b": 31.6,
    "granite4.2:30b": 29.3,
    "granite4.2:8b": 8.8,
    "phi4": 14.66,
    "llama3.1:8b": 8.03,
    "qwen2.5-coder:32b": 32.76,
    "qwen2.5-coder:14b": 14.77,
    "qwen2.5-coder:7b": 7.62,
    "qwen2.5-coder:3b": 3.09,
    "qwen2.5-coder:1.5b": 1.54,
}
BITS = {
    "Q4_0": (4.4, 4.7),
    "Q4_K_M": (4.4, 6.2),
    "Q8_0": (8.4, 8.8),
    "IQ4_XS": (4.2, 4.6),
    "Q3_K": (3.3, 4.6),
    "MXFP4": (4.2, 5.4),
}
TOWER_BYTES = (100_000_000, 1_300_000_000)
"""A tower for pictures, in the sizes of those that have one."""
HALF_IN_16_BITS = ["gemma4:e4b"]
"""Its table of rows for each layer, the larger half of its parameters, is not quantised."""


def entry(name: str) -> CatalogueEntry:
    found = find(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize("name", list(PARAMETERS)[:5])
@pytest.mark.parametrize(
    ("suffix", "quantization"),
    [("", "Q4_K_M"), ("-q4_K_M", "Q4_K_M"), ("-q8_0", "Q8_0"), ("-iq4_xs", "IQ4_XS")],
)
def test_qwen3_in_three_quantisations(name: str, suffix: str, quantization: str) -> None:
    """Every size has its default, which is q4_K_M, q8_0 and IQ4_XS."""
    assert entry(name + suffix).quantization == quantization


@pytest.mark.parametrize("name", list(PARAMETERS)[5:7])
def test_deepseek_in_its_default_and_two_more(name: str) -> None:
    """Ollama's default is Q4_0 there; IQ4_XS is published for the small one only."""
    assert entry(name).quantization == "Q4_0"
    assert entry(f"{name}-q4_K_M").quantization == "Q4_K_M"
    assert entry(f"{name}-q8_0").quantization == "Q8_0"
    assert (find(f"{name}-iq4_xs") is not None) is name.endswith("16b")


@pytest.mark.parametrize("model", catalogue_entries(), ids=lambda model: model.name)
def test_sizes_are_those_of_so_many_parameters(model: CatalogueEntry) -> None:
    """Bits for each parameter are what the quantisation has: no size belongs to another model."""
    same = [name for name in PARAMETERS if entry(name).architecture == model.architecture]
    smallest, largest = TOWER_BYTES if model.architecture.has_vision else (0, 0)
    least, most = BITS[model.quantization]
    parameters = PARAMETERS[same[0]] * 1e9
    assert (model.size_bytes - smallest) * 8 / parameters >= least
    if model.name not in HALF_IN_16_BITS:
        assert (model.size_bytes - largest) * 8 / parameters <= most


@pytest.mark.parametrize("model", catalogue_entries(), ids=lambda model: model.name)
def test_every_number_has_a_source(model: CatalogueEntry) -> None:
    """Both the size and the architecture say which public page they are from, and how they were obtained."""
    assert "https://" in model.size_source
    assert model.architecture_source.startswith("https://huggingface.co/")
    assert {model.size_obtained, model.architecture_obtained} <= {"exact", "computed", "estimated"}
    facts = model.architecture
    assert facts.layers == len(facts.heads) == len(facts.kv_heads) == len(facts.feed_forward)
    assert isinstance(facts.vocabulary, int)
    assert isinstance(facts.trained_tokens, int)
    assert max(facts.feed_forward) > 0


def test_what_stays_in_main_memory_is_a_part_of_the_file() -> None:
    """Tables of tokens are at most a quarter of the smallest files, and of gemma4's small ones almost a half."""
    for model in catalogue_entries():
        share = model.architecture.main_memory_bytes / model.size_bytes
        assert share < (0.4 if model.architecture.layer_embedding_length else 0.1), model.name


def test_round_numbers_are_not_called_exact() -> None:
    """What is rounded where it is published is an estimate."""
    for model in catalogue_entries():
        if model.size_bytes % 10**6 == 0:
            assert model.size_obtained == "estimated", model.name
        assert model.is_exact is (model.size_obtained == "exact")


def test_the_models_that_are_used_most_are_there() -> None:
    """By their downloads of autumn 2026, as Ollama's library names them."""
    for name in (
        *("gemma4:26b", "gemma4:31b", "gemma4:12b", "gemma4", "qwen3:8b", "qwen3.8:27b"),
        *("qwen3.5:4b", "qwen3.5:9b", "qwen3.5", "gpt-oss:20b", "gpt-oss", "qwen3.6:35b"),
        *("qwen3.6:27b", "qwen2.5-coder:14b", "qwen3.5:27b", "qwen3.5:35b", "qwen3-coder"),
        *("qwen2.5-coder:7b", "qwen2.5-coder", "ornith-1.5:35b", "qwen3-coder:30b", "phi4"),
        *("mistral-small3.2", "devstral", "devstral-small-2", "qwen3-coder-next", "llama3.1"),
        *("glm-4.7-flash", "nemotron-3-nano", "ministral-3", "granite4.2:8b", "gpt-oss:120b"),
    ):
        assert find(name), name


def test_names_mean_one_entry() -> None:
    """No name is given twice, and all are found, in any case, with and without the library's prefix."""
    names = [name.lower() for model in catalogue_entries() for name in (model.name, *model.aliases)]

    assert len(names) == len(set(names))
    assert entry("Qwen3:8B") is entry("library/qwen3:8b") is entry("qwen3:8b-Q4_K_M")
    assert entry("qwen3") is entry("qwen3:8b")
    assert find("qwen3:9b") is None
    assert entry("gemma4") is entry("gemma4:e4b")


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("qwen3:4b", 147_456),
        ("qwen3:8b", 147_456),
        ("qwen3:14b", 163_840),
        ("qwen3:32b", 262_144),
        ("qwen3:30b-a3b", 98_304),
        ("deepseek-coder-v2:16b", 276_480),
        ("deepseek-coder-v2:236b", 4_915_200),
    ],
)
def test_the_published_cache_sizes_come_out(name: str, per_token: int) -> None:
    """Bytes a token at f16; of the 236b that is the 37.5 GiB at 8,192 tokens that Ollama logged."""
    assert kv_bytes(entry(name).architecture, 8192, Runtime()) == per_token * 8192


def test_30b_a3b_is_18_6_gb_at_four_bits() -> None:
    """The number that matters to who has 16 GB."""
    assert entry("qwen3:30b-a3b").size_bytes / 1e9 == pytest.approx(18.6, abs=0.05)


def test_who_mistypes_hears_the_nearest() -> None:
    """Names that are like what was typed, best first; none for what is like nothing."""
    assert "qwen3:14b" in nearest("qwen3:14")
    assert len(nearest("qwen3")) <= 3
    assert nearest("zzzzzzzzzz") == ()
    assert nearest("gemma4:27b")[0] in ("gemma4:26b", "gemma4:12b")
    assert "qwen3.8:27b-mtp-q4_K_M" in nearest("qwen3.8:28b")
