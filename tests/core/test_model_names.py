"""The names of Ollama's models: one form for all spellings, and whether two names mean one model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.model_names import (
    ModelName,
    canonical_name,
    full_name,
    is_cloud_name,
    parse_name,
    same_model,
)


def test_the_parts_of_a_name() -> None:
    """Missing parts are Ollama's defaults; the case stays."""
    assert parse_name("Qwen3") == ModelName("registry.ollama.ai", "library", "Qwen3", "latest")
    assert parse_name("https://localhost:5000/Me/own:8B") == ModelName(
        "localhost:5000", "Me", "own", "8B"
    )


SAME = [
    ("qwen3:8b", "qwen3:8b", True),
    ("qwen3", "qwen3:latest", True),
    ("Qwen3:Latest", "qwen3", True),
    ("QWEN3:8B", "qwen3:8b", True),
    ("library/qwen3:8b", "qwen3:8b", True),
    ("registry.ollama.ai/library/qwen3", "qwen3", True),
    ("https://registry.ollama.ai/library/qwen3", "library/qwen3", True),
    ("registry.ollama.ai/me/own", "me/own", True),
    ("qwen3:8b:local", "qwen3:8b", True),
    ("qwen3:LOCAL", "library/qwen3", True),
    ("qwen3", "qwen3:8b", False),
    ("me/qwen3", "qwen3", False),
    ("hf.co/library/qwen3", "qwen3", False),
    ("localhost:5000/me/own", "me/own", False),
    ("", "", False),
    ("", "latest", False),
]


@pytest.mark.parametrize(("left", "right", "same"), SAME)
def test_names_of_one_model(left: str, right: str, same: bool) -> None:
    """Ollama's defaults may be left out or written, and the case does not count."""
    assert same_model(left, right) is same
    assert same_model(right, left) is same


@given(st.text("aB3:/.- ", max_size=20))
def test_any_text_has_one_form(text: str) -> None:
    """The canonical form of a canonical form is itself, and the same model."""
    canonical = canonical_name(text)
    assert canonical_name(canonical) == canonical
    assert same_model(text, canonical) is bool(text)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("qwen3", "qwen3:latest"),
        ("Qwen3:8B", "qwen3:8b"),
        ("library/qwen3", "qwen3:latest"),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("registry.ollama.ai/me/own", "me/own:latest"),
        ("hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/repo-gguf:q4_k_m"),
        ("hf.co/user/repo", "hf.co/user/repo:latest"),
        ("localhost:5000/me/own", "localhost:5000/me/own:latest"),
        ("https://registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("http://localhost:5000/me/own", "localhost:5000/me/own:latest"),
        ("hf.co/library/own", "hf.co/library/own:latest"),
        ("library/me/own", "library/me/own:latest"),
        ("a/b/c/own", "a/b/c/own:latest"),
        ("qwen3:8b:local", "qwen3:8b:local"),
    ],
)
def test_canonical_name(name: str, canonical: str) -> None:
    """Every spelling of a name becomes one, once."""
    assert canonical_name(name) == canonical
    assert canonical_name(canonical) == canonical


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("qwen3", "qwen3:latest"),
        (" Qwen3:8B ", "Qwen3:8B"),
        ("Registry.ollama.ai/Library/Qwen3", "Qwen3:latest"),
        ("hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/Repo-GGUF:Q4_K_M"),
        ("Library/me/own", "Library/me/own:latest"),
    ],
)
def test_full_name(name: str, full: str) -> None:
    """A name as it is listed keeps its case."""
    assert full_name(name) == full


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kimi-k2:cloud", True),
        ("gpt-oss:120b-cloud", True),
        ("GPT-OSS:120B-CLOUD", True),
        ("hf.co/a/b:x-cloud", True),
        ("gpt-oss:20b", False),
        ("cloud", False),
        ("my-cloud", False),
        ("my-cloud:8b", False),
        ("qwen3:cloudy", False),
        ("localhost:5000/my-cloud", False),
    ],
)
def test_is_cloud_name(name: str, expected: bool) -> None:
    """Only the tag tells a cloud model."""
    assert is_cloud_name(name) is expected
