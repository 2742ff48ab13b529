"""The catalogue: complete, sourced, and consistent with what is published of the models."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from aider_guard.catalogue import CatalogueEntry, catalogue_entries, find, nearest
from aider_guard.core.model_memory import Runtime, kv_bytes

PARAMETERS = {  # of the model cards, in 10^9
    "qwen3:4b": 4.02,
    "qwen3:8b": 8.19,
    "qwen3:14b": 14.77,
    "qwen3:32b": 32.76,
    "qwen3:30b-a3b": 30.53,
    "deepseek-coder-v2:16b": 15.71,
    "deepseek-coder-v2:236b": 235.74,
}
BITS = {"Q4_0": (4.4, 4.7), "Q4_K_M": (4.75, 5.35), "Q8_0": (8.4, 8.8), "IQ4_XS": (4.2, 4.6)}


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


@pytest.mark.parametrize("name", list(PARAMETERS)[5:])
def test_deepseek_in_its_default_and_two_more(name: str) -> None:
    """Ollama's default is Q4_0 there; IQ4_XS is published for the small one only."""
    assert entry(name).quantization == "Q4_0"
    assert entry(f"{name}-q4_K_M").quantization == "Q4_K_M"
    assert entry(f"{name}-q8_0").quantization == "Q8_0"
    assert (find(f"{name}-iq4_xs") is not None) is name.endswith("16b")


@pytest.mark.parametrize("model", catalogue_entries(), ids=lambda model: model.name)
def test_sizes_are_those_of_so_many_parameters(model: CatalogueEntry) -> None:
    """Bits for each parameter are what the quantisation has: no size belongs to another model."""
    name = next(name for name in PARAMETERS if _shape(entry(name)) == _shape(model))
    bits = model.size_bytes * 8 / (PARAMETERS[name] * 1e9)
    least, most = BITS[model.quantization]
    assert least <= bits <= most


def _shape(model: CatalogueEntry) -> tuple[int, int, int]:
    facts = model.architecture
    return facts.layers, facts.embedding_length, facts.experts


@pytest.mark.parametrize("model", catalogue_entries(), ids=lambda model: model.name)
def test_every_number_has_a_source(model: CatalogueEntry) -> None:
    """Both the size and the architecture say which public page they are from."""
    assert "https://" in model.size_source
    assert model.architecture_source.startswith("https://huggingface.co/")
    assert (
        model.architecture.layers
        == len(model.architecture.heads)
        == len(model.architecture.kv_heads)
    )


def test_sizes_are_marked_exact_or_approximate() -> None:
    """Nothing else is written there; round numbers are not called exact."""
    raw = json.loads(files("aider_guard").joinpath("catalogue.json").read_text(encoding="utf-8"))
    assert {file["size_is"] for file in raw["files"]} == {"exact", "approximate"}
    assert not [
        model.name
        for model in catalogue_entries()
        if model.is_exact and model.size_bytes % 10**6 == 0
    ]


def test_names_mean_one_entry() -> None:
    """No name is given twice, and all are found, in any case, with and without the library's prefix."""
    names = [name.lower() for model in catalogue_entries() for name in (model.name, *model.aliases)]

    assert len(names) == len(set(names))
    assert entry("Qwen3:8B") is entry("library/qwen3:8b") is entry("qwen3:8b-Q4_K_M")
    assert entry("qwen3") is entry("qwen3:8b")
    assert find("qwen3:9b") is None


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
