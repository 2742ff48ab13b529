"""Asking Ollama for a model, in bounded time and size, and keeping its vocabulary on disk."""

from __future__ import annotations

import base64
import http.client
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.ollama_server import FakeModel, FakeOllama, Json
from fakes.vocabulary import tiny

from aider_guard.core.readings import Unavailable
from aider_guard.counting import vocabulary_files
from aider_guard.counting.vocabulary import FACTS
from aider_guard.counting.vocabulary_files import show, vocabulary_facts

MODEL = FakeModel("exact:latest", vocabulary=tiny(), blob="e" * 64)
MEBIBYTE = 1024 * 1024


@dataclass
class SlowConnection:
    """A connection whose answer comes in pieces, each at its second."""

    pieces: tuple[tuple[float, bytes], ...]
    now: float = 0.0
    limits: list[float] = field(default_factory=list)
    status: int = 200

    def __post_init__(self) -> None:
        """It is its own socket and its own answer."""
        self.sock = self
        self._left: Iterator[tuple[float, bytes]] = iter(self.pieces)

    def __call__(self, _host: str, _port: int, timeout: float) -> SlowConnection:
        self.limits.append(timeout)
        return self

    def connect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def request(self, *_request: Any) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        self.limits.append(seconds)

    def getresponse(self) -> SlowConnection:
        return self

    def read1(self, _most: int) -> bytes:
        self.now, piece = next(self._left, (self.now, b""))
        return piece


def shown_over(
    monkeypatch: pytest.MonkeyPatch, connection: SlowConnection, *, verbose: bool = False
) -> dict[str, Any] | Unavailable:
    """What ``show`` makes of such an answer."""
    monkeypatch.setattr(http.client, "HTTPConnection", connection)
    clock = SimpleNamespace(monotonic=lambda: connection.now)
    monkeypatch.setattr(vocabulary_files, "time", clock)
    return show("http://127.0.0.1:1", "m", verbose=verbose)


@pytest.mark.parametrize(("verbose", "seconds"), [(False, 3.0), (True, 20.0)])
def test_an_answer_may_take_seconds(
    verbose: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to connect, and three in all; with a vocabulary twenty."""
    in_time = SlowConnection(((0.1, b'{"a":'), (seconds, b"1}")))
    assert shown_over(monkeypatch, in_time, verbose=verbose) == {"a": 1}
    assert in_time.limits == [1.0, seconds]
    late = SlowConnection(((0.1, b'{"a":'), (seconds + 0.1, b"1}")))
    assert shown_over(monkeypatch, late, verbose=verbose) == Unavailable(
        "Ollama did not tell of the model (ValueError)"
    )


@pytest.mark.parametrize(("more", "is_read"), [(0, True), (1, False)])
def test_an_answer_may_have_64_mebibytes(
    more: int, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no byte more."""
    pieces = [b'{"a":1}'.ljust(MEBIBYTE), *[b" " * MEBIBYTE] * 63, b" " * more]
    found = shown_over(monkeypatch, SlowConnection(tuple((0.1, piece) for piece in pieces)))
    assert (found == {"a": 1}) is is_read


@pytest.mark.parametrize(
    ("login", "path", "header", "asked_path"),
    [
        ("", "", None, "/api/show"),
        ("", "/ollama/", None, "/ollama/api/show"),
        ("me:p%40ss@", "", "me:p@ss", "/api/show"),
        ("m%65@", "", "me:", "/api/show"),
        (":secret@", "", ":secret", "/api/show"),
    ],
)
def test_the_server_is_asked_at_its_address(
    login: str, path: str, header: str | None, asked_path: str
) -> None:
    """With its name and password, and below its path."""
    with FakeOllama(models=(MODEL,)) as ollama:
        base = f"http://{login}127.0.0.1:{ollama.port}{path}"
        for verbose in (False, True):
            assert isinstance(show(base, "exact", verbose=verbose), dict) is (not path)
        expected = header and "Basic " + base64.b64encode(header.encode()).decode()
        for request, body in zip(
            ollama.received, [{"model": "exact"}, {"model": "exact", "verbose": True}], strict=True
        ):
            assert (request.method, request.path, request.body) == ("POST", asked_path, body)
            assert request.headers.get("authorization") == expected
            assert request.headers["content-type"] == "application/json"


def test_addresses_of_another_form() -> None:
    """Without a host it is this machine; and with https nothing is sent in the clear."""
    with FakeOllama(models=(MODEL,)) as ollama:
        assert isinstance(show(f"http://:{ollama.port}", "exact"), dict)
        assert len(ollama.received) == 1
        assert isinstance(show(f"https://127.0.0.1:{ollama.port}", "exact"), Unavailable)
        assert len(ollama.received) == 1


def asked_verbosely(ollama: FakeOllama) -> int:
    """How often the vocabulary was sent."""
    return sum(bool(request.body.get("verbose")) for request in ollama.received)


def test_a_vocabulary_is_asked_for_once(tmp_path: Path) -> None:
    """Then it is read from its file, which only its owner may see, and counts as used."""
    folder = tmp_path / "a" / "vocabularies"
    with FakeOllama(models=(MODEL,)) as ollama:
        description = show(ollama.url, "exact")
        assert isinstance(description, dict)
        facts = vocabulary_facts(ollama.url, "exact", description, str(folder))
        file = folder / f"{'e' * 64}.json"
        assert list(folder.iterdir()) == [file]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert json.loads(file.read_bytes()) == facts
        assert isinstance(facts, dict)
        assert facts.keys() <= set(FACTS)
        os.utime(file, (5, 5))
        assert vocabulary_facts(ollama.url, "exact", description, str(folder)) == facts
        assert file.stat().st_mtime > 5
        assert asked_verbosely(ollama) == 1
        assert vocabulary_facts(ollama.url, "exact", description, "") == facts
        assert asked_verbosely(ollama) == 2


@pytest.mark.parametrize(
    ("description", "verbose", "found"),
    [
        # The file of its weights is not named:
        ({"modelfile": "FROM x"}, {"model_info": {"tokenizer.ggml.tokens": ["a"]}}, {"tokenizer.ggml.tokens": ["a"]}),
        # It has no tokens:
        ({"modelfile": f"FROM /blobs/sha256-{'e' * 64}"}, {"model_info": {"a": 1}}, {}),
        ({"model_info": 5}, {"model_info": {}}, {}),
        ({}, {"model_info": []}, Unavailable("Ollama tells no vocabulary")),
        ({}, {}, Unavailable("Ollama tells no vocabulary")),
        ({}, [], Unavailable("Ollama did not tell of the model")),
    ],
)  # fmt: skip
def test_what_is_no_vocabulary_is_not_kept(
    description: dict[str, Any], verbose: Any, found: Any, tmp_path: Path
) -> None:
    """Nor one whose model could not be told from another."""
    with FakeOllama(models=(MODEL,)) as ollama:
        ollama.answers["/api/show"] = Json(verbose)
        assert vocabulary_facts(ollama.url, "exact", description, str(tmp_path)) == found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "is_asked"), [("llama", False), ("bert", False), ("gpt2", True), (None, True)]
)
def test_only_lists_that_are_of_use_are_asked_for(
    kind: str | None, is_asked: bool, tmp_path: Path
) -> None:
    """A vocabulary of another kind is not read, so it is not sent either."""
    with FakeOllama(models=(MODEL,)) as ollama:
        description = {"model_info": {"tokenizer.ggml.model": kind}}
        found = vocabulary_facts(ollama.url, "exact", description, str(tmp_path))
        assert (found != description["model_info"]) is is_asked
        assert asked_verbosely(ollama) == is_asked
