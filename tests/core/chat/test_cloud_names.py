"""Which models a request names, and which requests leave the machine by themselves."""

from __future__ import annotations

import pytest

from aider_guard.core.chat.cloud import is_content, leaves, named_models, refusal


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/api/show", {"model": "a"}, ("a",)),
        ("/api/show", {"name": "a", "MODEL": "b"}, ("a", "b")),
        ("/api/copy", {"source": "a", "destination": "b"}, ("a", "b")),
        ("/api/create", {"from": "a", "modelfile": "x"}, ("a",)),
        ("/v1/models/a:cloud", {}, ("a:cloud",)),
        ("/v1/models", {}, ()),
        ("/api/show", {"model": 5}, ()),
        ("/api/chat", {"\u017fource": "a"}, ("a",)),  # Go folds the long s, too
    ],
)
def test_every_name_is_seen(path: str, body: dict[str, object], named: tuple[str, ...]) -> None:
    """Ollama's decoder takes a field's name in any case."""
    assert named_models(path, body) == named


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("/api/push", True),
        ("/api/experimental/web_search", True),
        ("/api/me", True),
        ("/api/pull", True),  # from the host in the name, whatever that is
        ("/api/create", True),
        ("/api/show", False),
        ("/api/chat", False),
    ],
)
def test_what_ollama_carries_out_by_itself_is_known(path: str, out: bool) -> None:
    """Whatever it names."""
    assert leaves(path) is out
    assert is_content("/api/blobs/sha256:1")
    assert not is_content(path)


def test_a_refusal_says_where_it_would_have_gone() -> None:
    """And how to choose another."""
    assert "in Ollama's cloud" in refusal("a:cloud")[0]
    assert "at https://ollama.com:443" in refusal("a", "https://ollama.com:443")[0]
