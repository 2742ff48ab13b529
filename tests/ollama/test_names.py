"""Addresses and names as Ollama reads them."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.ollama.names import (
    canonical_name,
    connectable_base,
    display_base,
    full_name,
    is_cloud_name,
    is_loopback,
)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ('"127.0.0.1:11434"', "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("http://[fe80::1]:8080", "http://[fe80::1]:8080"),
        ("box", "http://box:11434"),
        ("box:8080", "http://box:8080"),
        ("192.168.0.7", "http://192.168.0.7:11434"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("HTTPS://Box", "https://Box:443"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("box:8080/ollama/v2", "http://box:8080/ollama/v2"),
        ("http://box:11434?x=1#y", "http://box:11434"),
        ("http://me:secret@box:11434", "http://me:secret@box:11434"),
        ("box:99999", "http://box:11434"),
        ("box:-1", "http://box:11434"),
        ("box:x", "http://box:11434"),
        ("https://box:x", "https://box:443"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_connectable_base(text: str, base: str) -> None:
    """Both variables' forms become a URL to connect to, and that URL stays what it is."""
    assert connectable_base(text) == base
    assert connectable_base(base) == base
    assert httpx.URL(base).host


@given(st.text("htps:/.[]@0123456789abc?# \"'é", max_size=40))
def test_any_text_is_an_address(text: str) -> None:
    """Nothing that a variable may hold makes the address functions fail."""
    base = connectable_base(text)
    assert "://" in base
    assert isinstance(is_loopback(base), bool)
    assert isinstance(display_base(base), str)


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("https://me:secret@box:443/x", "https://box:443"),
    ],
)
def test_display_base(base: str, shown: str) -> None:
    """A password in an address is not shown."""
    assert display_base(base) == shown


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.1.2.3:1", True),
        ("http://localhost:11434", True),
        ("http://[::1]:11434", True),
        ("http://192.168.0.7:11434", False),
        ("http://localhost.evil.example:11434", False),
        ("http://127.0.0.1.evil.example:11434", False),
        ("http://[broken:11434", False),
    ],
)
def test_is_loopback(base: str, expected: bool) -> None:
    """Only addresses that cannot leave the machine are this machine."""
    assert is_loopback(base) is expected


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
        ("library/me/own", "me/own:latest"),
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
