"""Which models a request names, and which requests leave the machine by themselves."""

from __future__ import annotations

import pytest

from aider_guard.core.chat.cloud import (
    bases_of,
    is_content,
    leaves,
    named_models,
    refusal,
    shown,
    unsafe,
)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/api/show", {"model": "a"}, ("a",)),
        ("/api/show", {"name": "a", "MODEL": "b"}, ("a", "b")),
        ("/api/copy", {"source": "a", "destination": "b"}, ("a", "b")),
        ("/api/create", {"from": "a", "modelfile": "x"}, ("a",)),
        ("/v1/models/a:cloud", {}, ("a:cloud",)),
        ("/v1/models/a:cloud/", {}, ("a:cloud",)),
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
    """Such a path leaves the machine whatever model it names."""
    assert leaves(path) is out
    assert is_content("/api/blobs/sha256:1")
    assert not is_content(path)


def test_a_refusal_says_where_it_would_have_gone() -> None:
    """The refusal names the host, and how to choose another model."""
    assert "in Ollama's cloud" in refusal("a:cloud")[0]
    assert "at https://ollama.com:443" in refusal("a", "https://ollama.com:443")[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {}),
        ("/api/chat", {"tools": [{"type": "function"}]}),
        ("/api/chat", {"tools": [{"name": "web_search", "type": None}, "web_search", 5]}),
        ("/api/chat", {"tools": "web_search"}),
        ("/api/chat", {"other": [{"type": "web_search"}]}),
        ("/api/create", {"model": "a", "FROM": "b", "system": "s"}),
        ("/api/blobs/sha256:1", {}),
        ("/v1/models/a", {}),
        ("/v1/chat/completions", {}),
    ],
)
def test_what_stays_is_let_through(path: str, body: dict[str, object]) -> None:
    assert unsafe(path, body) == ""


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (
            "/api/pull",
            {"model": "a"},
            "a is not fetched from inside a session; run `ollama pull a`",
        ),
        (
            "/api/push",
            {"name": "a"},
            "a is not sent away from inside a session; run `ollama push a`",
        ),
        ("/api/pull", {}, "NAME is not fetched"),
        ("/api/new", {}, "/api/new is not known to stay"),
        ("/v1/other", {}, "/v1/other is not known to stay"),
        ("/x/v1/models/a", {}, "/x/v1/models/a is not known to stay"),
        (
            "/api/create",
            {"model": "a", "remote_host": "b"},
            "remote_host in /api/create is not known",
        ),
        (
            "/v1/messages",
            {"tools": [{"type": "web_search_2026"}]},
            "a search of the web would leave",
        ),
        ("/v1/responses", {"TOOLS": [{"Type": " Web_Fetch"}]}, "a search of the web would leave"),
        ("/api/chat", {"tools": [{"type": "f"}, {"type": "web_search"}]}, "a search of the web"),
    ],
)
def test_what_may_leave_is_refused_with_a_reason(
    path: str, body: dict[str, object], words: str
) -> None:
    """A path or a field that is not known counts as one that leaves."""
    assert unsafe(path, body).startswith(f"aider-guard: {words}")


def test_the_models_that_one_is_made_from() -> None:
    assert bases_of({"from": "a", "From": "b", "name": "c"}) == ("a", "b")
    assert bases_of({"from": 5, "FROM": ""}) == ()


def test_words_of_others_are_shown_without_control_characters_and_not_whole() -> None:
    assert shown("a\x1b[31mb") == "a?[31mb"
    assert shown("x" * 253) == "x" * 253
    assert shown("x" * 254) == "x" * 253
