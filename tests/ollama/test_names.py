"""Addresses as Ollama reads them."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.ollama.names import connectable_base, display_base, is_loopback


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
