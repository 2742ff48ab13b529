"""The Ollama client against a server of every era, and against one that hangs, lies and babbles."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from fakes.ollama_server import GIB, Answer, Cut, Drip, FakeModel, FakeOllama, Hang, Json, Raw

from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.core.server_report import ModelMissing
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    from collections.abc import Iterator

QWEN = FakeModel("qwen3:8b", size_bytes=6 * GIB, vram_bytes=5 * GIB, window_tokens=32768)
CLOUD = FakeModel("gpt-oss:mine", remote_host="https://ollama.com:443")
UNTOLD = FakeModel("untold:latest", trained_tokens=None)

AMPLE_SECONDS = 20.0
"""More than any answer takes that comes at all, on a busy machine too."""


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """A healthy Ollama of 2026 with one model loaded."""
    with FakeOllama(models=(QWEN, CLOUD, UNTOLD), loaded=["qwen3:8b"]) as server:
        yield server


@pytest.fixture
def client(ollama: FakeOllama) -> Iterator[OllamaClient]:
    """A client of it."""
    client = OllamaClient(ollama.url, answer_seconds=AMPLE_SECONDS, clock=lambda: 7.0)
    yield client
    client.close()


def models_of(reading: ModelsReading | Unavailable) -> tuple[LoadedModel, ...]:
    """The models of a reading that must be one."""
    assert isinstance(reading, ModelsReading)
    return reading.models


def test_reads_what_is_loaded(client: OllamaClient) -> None:
    """Every number of /api/ps arrives, with the time it was taken."""
    model = LoadedModel("qwen3:8b", f"{8:064x}", 6 * GIB, 5 * GIB, 32768)
    assert client.loaded_models() == ModelsReading((model,), taken_at=7.0)
    assert client.version() == "0.15.5"


def test_a_window_that_is_not_told_is_unavailable() -> None:
    """Before 0.10 there is no context_length, and that is not a window of 0."""
    with FakeOllama(version="0.9.3", loaded=["qwen3:8b"]) as ollama:
        client = OllamaClient(ollama.url)
        (model,) = models_of(client.loaded_models())
        client.close()
    assert isinstance(model.window_tokens, Unavailable)


@pytest.mark.parametrize("body", [{"models": []}, {"models": None}])
def test_nothing_loaded(client: OllamaClient, ollama: FakeOllama, body: object) -> None:
    """An empty list, and Go's nil slice, mean that nothing is loaded."""
    ollama.answers["/api/ps"] = Json(body)
    assert models_of(client.loaded_models()) == ()


GOOD: dict[str, Any] = {"name": "a", "size": 1, "size_vram": 0}
STRANGE = "a form that is not Ollama's"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Raw(b"<html>proxy</html>"), STRANGE),
        (Raw(b""), STRANGE),
        (Raw(b"\xff\xfe\x00"), STRANGE),
        (Raw(b"[" * 100_000), STRANGE),
        (Json([]), STRANGE),
        (Json(None), STRANGE),
        (Json({}), STRANGE),
        (Json({"models": {}}), STRANGE),
        (Json({"models": [1]}), STRANGE),
        (Json({"models": [{**GOOD, "size": "1"}]}), STRANGE),
        (Json({"models": [{**GOOD, "size": True}]}), STRANGE),
        (Json({"models": [{**GOOD, "size": -1}]}), STRANGE),
        (Json({"models": [{**GOOD, "size_vram": 0.5}]}), STRANGE),
        (Json({"models": [{**GOOD, "name": ""}]}), STRANGE),
        (Json({"models": [GOOD, {}]}), STRANGE),
        (Json({"error": "server busy"}, 503), "server busy (503)"),
        (Json({"error": {"message": "x"}}, 500), "Ollama refused /api/ps: x (500)"),
        (Raw(b"Bad Gateway", 502), "status 502"),
        (Raw(b"", 302, (("Location", "http://127.0.0.1:1/"),)), "status 302"),
        (Raw(b"not gzip", headers=(("Content-Encoding", "gzip"),)), "cannot be reached"),
        (Hang(), "did not answer within 0.4 s"),
        (Drip(), "did not answer within 0.4 s"),
        (Drip(b'{"models":[]}', 0.2), "did not answer within 0.4 s"),
        (Cut(), "cannot be reached"),
    ],
)
def test_what_is_no_answer_is_unavailable(ollama: FakeOllama, answer: Answer, reason: str) -> None:
    """Garbage, refusals, redirects and silence become a reason, and in time."""
    ollama.answers["/api/ps"] = answer
    short = isinstance(answer, Hang | Drip)
    client = OllamaClient(ollama.url, answer_seconds=0.4 if short else AMPLE_SECONDS)
    started_at = time.monotonic()
    reading = client.loaded_models()
    client.close()

    assert isinstance(reading, Unavailable)
    assert reason in reading.reason
    assert time.monotonic() - started_at < AMPLE_SECONDS


@pytest.mark.parametrize("window", [None, 0, -1, "4096", True, 1.5])
def test_a_strange_window_is_unavailable(
    client: OllamaClient, ollama: FakeOllama, window: object
) -> None:
    """Only a count is a window; the rest of the entry is still true."""
    ollama.answers["/api/ps"] = Json({"models": [{**GOOD, "context_length": window}]})
    (model,) = models_of(client.loaded_models())
    assert isinstance(model.window_tokens, Unavailable)
    assert model.name == "a"


def test_a_slow_answer_in_time_is_read(client: OllamaClient, ollama: FakeOllama) -> None:
    """An answer that drips in within the limit is whole."""
    ollama.answers["/api/version"] = Drip(json.dumps({"version": "1"}).encode(), 0.001)
    assert client.version() == "1"


@pytest.mark.parametrize("body", [{}, {"version": ""}, {"version": 1}])
def test_a_strange_version_is_unavailable(
    client: OllamaClient, ollama: FakeOllama, body: object
) -> None:
    """Another program on the port is not taken for Ollama."""
    ollama.answers["/api/version"] = Json(body)
    assert isinstance(client.version(), Unavailable)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("http://127.0.0.1:{port}", "connection refused"),
        ("ftp://127.0.0.1:{port}", "cannot be reached"),
        ("http://[broken:{port}", "cannot be reached"),
        ("http://me:secret@127.0.0.1:{port}", "http://127.0.0.1:"),
    ],
)
def test_no_server_is_unavailable(base: str, reason: str) -> None:
    """A closed port and an impossible address have their reasons, without the password."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = OllamaClient(base.format(port=closed.getsockname()[1]))
        answer = client.version()
        client.close()
    assert isinstance(answer, Unavailable)
    assert reason in answer.reason
    assert "secret" not in answer.reason


def test_a_cloud_name_is_never_sent(client: OllamaClient, ollama: FakeOllama) -> None:
    """Even asking about such a name would leave the machine (Ollama 0.18 and later)."""
    assert isinstance(client.model_facts("gpt-oss:120b-cloud", ()), Unavailable)
    assert isinstance(client.model_facts("gpt-oss:\u00a0cloud", ()), Unavailable)
    assert isinstance(client.model_facts("a b", ()), ModelMissing)  # no model can have this name
    assert isinstance(client.unload("a b"), Unavailable)
    assert isinstance(client.unload("kimi-k2:cloud"), Unavailable)
    assert ollama.received == []


def test_unloads(client: OllamaClient, ollama: FakeOllama) -> None:
    """A model that was loaded is gone; one that was not is fine too; an unknown one is refused."""
    assert client.unload("qwen3:8b") is None
    assert models_of(client.loaded_models()) == ()
    assert client.unload("untold") is None
    refusal = client.unload("nope")
    assert isinstance(refusal, Unavailable)
    assert "not found" in refusal.reason
    assert ollama.received[0].body == {"model": "qwen3:8b", "keep_alive": 0}


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch, ollama: FakeOllama) -> None:
    """HTTP_PROXY is for the outside world."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = OllamaClient(ollama.url)
    assert client.version() == "0.15.5"
    client.close()
