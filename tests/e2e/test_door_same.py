"""The same answers with and without the door, byte for byte but for times, on a real Ollama and on every era's fake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from e2e.conftest import PRIVATE
from e2e.doors import open_door, settings_for
from fakes.ollama_models import FakeModel
from fakes.ollama_server import ERAS, FakeOllama
from fakes.vocabulary import tiny

from aider_guard.demo.ollama_server import PrivateOllama

WINDOW_TOKENS = 1024
HELLO = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hello."}]
OPTIONS = {"num_ctx": WINDOW_TOKENS, "temperature": 0, "seed": 1, "num_predict": 12}
OPENAI = {"messages": HELLO, "temperature": 0, "seed": 1, "max_tokens": 12}
USAGE = {"stream_options": {"include_usage": True}}
ASKED: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat, streamed": ("/api/chat", {"messages": HELLO, "options": OPTIONS}),
    "chat": ("/api/chat", {"messages": HELLO, "options": OPTIONS, "stream": False}),
    "generate, streamed": ("/api/generate", {"prompt": "Say hello.", "options": OPTIONS}),
    "generate": ("/api/generate", {"prompt": "Hello.", "options": OPTIONS, "stream": False}),
    "raw": ("/api/generate", {"prompt": "Hello.", "options": OPTIONS, "raw": True}),
    "load": ("/api/generate", {"options": OPTIONS}),
    "show": ("/api/show", {}),
    "show, verbose": ("/api/show", {"verbose": True}),
    "show of what is not there": ("/api/show", {"model": "nothing:1b"}),
    "OpenAI, streamed": ("/v1/chat/completions", {**OPENAI, "stream": True}),
    "OpenAI, streamed with usage": ("/v1/chat/completions", {**OPENAI, "stream": True, **USAGE}),
    "OpenAI": ("/v1/chat/completions", OPENAI),
    "OpenAI's models": ("/v1/models", None),
    "version": ("/api/version", None),
    "tags": ("/api/tags", None),
    "another method": ("/api/show", None),
}
TIMES = (
    (rb'"(\w*_duration|created)":\d+', rb'"\1":0'),
    (rb'"created_at":"[^"]+"', rb'"created_at":""'),
    (rb'"id":"(chatcmpl|cmpl)-\d+"', rb'"id":"\1"'),
)


@dataclass(frozen=True)
class Ways:
    """Two addresses of one server."""

    direct: str
    door: str
    model: str


@pytest.fixture(scope="module")
def real(ollama: PrivateOllama, shallow: str) -> Iterator[Ways]:
    """A real Ollama, and the door to it."""
    with open_door(ollama.url, settings_for(ollama.url, shallow, WINDOW_TOKENS)) as door:
        yield Ways(ollama.url, door.url, shallow)


SAME_SECOND = ("/api/tags", "/v1/models")
"""Lists in which Ollama leaves the order of models of the same second to chance (a Go map's, ``server/routes.go``)."""


def answer(base: str, path: str, body: dict[str, Any] | None) -> tuple[int, str, bytes]:
    """Status, type and body, without what is a matter of time."""
    with httpx.Client(base_url=base, timeout=120, trust_env=False, verify=False) as client:
        answered = client.get(path) if body is None else client.post(path, json=body)
    content = answered.content
    for pattern, instead in TIMES:
        content = re.sub(pattern, instead, content)
    if path in SAME_SECOND:
        content = _in_order(content)
    return answered.status_code, answered.headers.get("content-type", ""), content


def _in_order(content: bytes) -> bytes:
    told = json.loads(content)
    (entries,) = (held for held in told.values() if isinstance(held, list))
    entries.sort(key=json.dumps)
    return json.dumps(told).encode()


def compare(ways: Ways, asked: str) -> None:
    """Ask both ways; once before, so that both find the same in the cache."""
    path, body = ASKED[asked]
    if body is not None:
        body = {"model": ways.model, **body}
        if "messages" in body or "prompt" in body:
            answer(ways.direct, path, body)
    direct = answer(ways.direct, path, body)
    assert answer(ways.door, path, body) == direct
    assert direct[2]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.servers(PRIVATE)
def test_a_real_ollama(real: Ways, asked: str) -> None:
    """Streamed and not, by each protocol, at temperature 0."""
    compare(real, asked)


@pytest.mark.parametrize("version", ERAS)
def test_every_era(version: str) -> None:
    """Whatever a version sends, with its own fields in its own order."""
    model = FakeModel("small:latest", vocabulary=tiny(), trained_tokens=8192)
    with (
        FakeOllama(version=version, models=(model,)) as fake,
        open_door(fake.url, settings_for(fake.url, "small", WINDOW_TOKENS)) as door,
    ):
        for asked in ASKED:
            compare(Ways(fake.url, door.url, "small"), asked)
