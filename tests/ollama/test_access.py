"""What a server asks for before it answers: the guard's own questions carry the key and headers that Aider sends."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing

import pytest
from fakes.ollama_server import FakeOllama, Json

from aider_guard.core.other_servers import OtherModel
from aider_guard.core.server_report import ServedModel
from aider_guard.ollama.access import (
    KEY_VARIABLE,
    ServerAccess,
    bearer,
    environment_headers,
    take_from_environment,
    to_environment,
    valid_headers,
)
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.other_server import describe_model
from aider_guard.ollama.survey import survey

KEY = "sk-secret-4711"
QUESTIONS: tuple[Callable[[OllamaClient], object], ...] = (
    lambda client: client.version(),
    lambda client: client.loaded_models(),
    lambda client: client.installed(),
    lambda client: client.model_facts("qwen3:8b", ()),
    lambda client: client.blob("qwen3:8b"),
    lambda client: client.whereabouts("qwen3:8b"),
    lambda client: client.traits("qwen3:8b"),
    lambda client: client.cloud_disabled(),
    lambda client: client.unload("qwen3:8b"),
    lambda client: survey(client, ("qwen3:8b",), find_process=lambda _base: client.unload("x")),  # type: ignore[arg-type,return-value]  # any answer
)


def test_every_question_carries_the_key() -> None:
    """And the headers of the user's own."""
    headers = (*bearer(KEY), ("X-Team", "a"))
    with FakeOllama() as ollama:
        with closing(OllamaClient(ollama.url, headers=headers)) as client:
            for ask in QUESTIONS:
                ask(client)
        seen = [
            (one.headers.get("authorization"), one.headers.get("x-team")) for one in ollama.received
        ]
    assert set(seen) == {(f"Bearer {KEY}", "a")}
    assert len(seen) >= len(QUESTIONS)


def test_without_headers_the_environments_key_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for ``fit`` and ``init``, which may not have asked Aider."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with FakeOllama() as ollama:
        for headers in (None, ()):
            with closing(OllamaClient(ollama.url, headers=headers)) as client:
                client.version()
        seen = [one.headers.get("authorization") for one in ollama.received]
    assert seen == [f"Bearer {KEY}", None]


def test_the_password_of_an_address_is_sent() -> None:
    """By the HTTP library itself (RFC 7617)."""
    with FakeOllama() as ollama:
        base = ollama.url.replace("//", "//me:secret@")
        with closing(OllamaClient(base, headers=())) as client:
            client.version()
        (seen,) = ollama.received
    assert seen.headers["authorization"] == "Basic bWU6c2VjcmV0"


def test_another_server_gets_its_own_key() -> None:
    """One with OpenAI's protocol, which lists its models only with a key."""
    listed = Json({"data": [{"id": "m", "max_model_len": 4096}]})
    with FakeOllama(answers={"/v1/models": listed}) as server:
        model = ServedModel("openai/m", "m", f"{server.url}/v1", headers=bearer(KEY))
        told = describe_model(model)
        assert isinstance(told, OtherModel)
        assert told.window_tokens == 4096
        assert [one.headers["authorization"] for one in server.received] == [f"Bearer {KEY}"]


def test_secrets_are_in_no_text() -> None:
    """Neither in a representation, which a traceback may print, nor in an error about a header that cannot be sent."""
    access = ServerAccess("http://me:secret@box:1", bearer(KEY))
    assert "secret" not in repr(access)
    assert "secret" not in repr(ServedModel("m", "m", "http://x", headers=bearer(KEY)))
    assert bearer("sk-secret\nX-Other: 1") == ()
    with closing(OllamaClient("http://127.0.0.1:1", headers=bearer(KEY))) as client:
        assert KEY not in str(client.version())


@pytest.mark.parametrize(
    ("pairs", "valid"),
    [
        ([("X-A", " 1 "), ("x-a", "2"), ("X-B", "3")], (("X-A", "1"), ("X-B", "3"))),
        ([("X A", "1"), ("", "1"), ("X-C", "a\r\nb"), ("X-D", "✓"), ("X:E", "1")], ()),
    ],
)
def test_only_what_can_be_a_header_is_one(
    pairs: list[tuple[str, str]], valid: tuple[tuple[str, str], ...]
) -> None:
    """The first of each name."""
    assert valid_headers(pairs) == valid


def test_a_sidecar_takes_its_server_from_its_environment_once() -> None:
    """Its own children do not get it."""
    access = ServerAccess("http://me:secret@box:1/x", bearer(KEY))
    environment = {"PATH": "/bin", **to_environment(access)}
    assert take_from_environment(environment) == access
    assert environment == {"PATH": "/bin"}
    assert take_from_environment(environment) is None
    assert environment_headers({KEY_VARIABLE: KEY}) == bearer(KEY)
    assert environment_headers({KEY_VARIABLE: " "}) == environment_headers({}) == ()
    assert KEY_VARIABLE not in os.environ
