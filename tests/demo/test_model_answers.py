"""An installation is complete only once its models have answered sense."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo import answers, rig
from aider_guard.demo.answers import check_answer
from aider_guard.demo.layout import RigError, rig_in
from aider_guard.demo.ollama_server import PrivateOllama
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers each request to ``/api/chat`` with ``content``, or as ``body`` and ``status`` say."""

    content = "The capital of France is Paris."
    body: bytes | None = None
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        message = {"message": {"role": "assistant", "content": self.server.content}}
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body or json.dumps(message).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


def test_the_known_answer_is_sense(server: FakeServer) -> None:
    """It is asked for with the greedy choice of tokens, so it is the same each time."""
    assert check_answer(server.url, "small") == "The capital of France is Paris."
    (request,) = server.requests
    assert (request["model"], request["stream"]) == ("small", False)
    assert {"temperature": 0}.items() <= dict(request["options"]).items()  # type: ignore[call-overload]


@pytest.mark.parametrize("content", ["6" * 100, "", "The capital of France is the capital"])
def test_nonsense_is_said_in_one_sentence_with_what_to_do(server: FakeServer, content: str) -> None:
    """One token repeated is what the backend for AMX computes."""
    server.content = content
    with pytest.raises(RigError) as caught:
        check_answer(server.url, "small")
    said = str(caught.value)

    assert said.startswith("The private Ollama computes wrongly on this machine: its model small")
    assert repr(content[:40]) in said
    assert "`aider-guard -- --model ollama_chat/NAME`" in said
    assert "\n" not in said
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b'{"error": "token repeat limit reached"}'), (200, b"666"), (200, b"[]"), (200, b"{")],
)
def test_no_answer_at_all_is_said_too(server: FakeServer, status: int, body: bytes) -> None:
    """Whatever is not an answer: the sentence names the model and what to do."""
    server.status, server.body = status, body
    with pytest.raises(RigError, match=r"The model small .* does not answer .* run this again"):
        check_answer(server.url, "small")


def test_the_servers_own_words_are_passed_on(server: FakeServer) -> None:
    """Ollama gives a reason with its status, and the sentence stays one line."""
    server.status, server.body = 500, b'{"error":\n"out of memory"}'
    with pytest.raises(RigError, match=r'\(status 500, \{"error": "out of memory"\}\)'):
        check_answer(server.url, "small")


def test_a_server_that_is_gone_is_said_too() -> None:
    """The model's process may die of what it cannot compute, and take the connection along."""
    with pytest.raises(RigError, match="does not answer"):
        check_answer("http://127.0.0.1:1", "small")


def test_nonsense_leaves_no_complete_installation(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, tmp_path: Path
) -> None:
    """All parts are there and the check fails: it is made again, until it succeeds, then no more."""

    @contextlib.contextmanager
    def private_ollama(program: Path, models: Path) -> Iterator[PrivateOllama]:
        assert (program, models) == (parts.ollama, parts.models)
        yield PrivateOllama(server.url, 1, tmp_path / "log")

    parts = rig_in(tmp_path / "cache")
    for place in (parts.aider, parts.ollama, parts.models):
        place.mkdir(parents=True)
    monkeypatch.setattr(answers, "private_ollama", private_ollama)
    monkeypatch.setattr(rig, "check_machine", lambda *_: None)
    progress = Progress(pulse_seconds=None)

    server.content = "6" * 100
    for _ in range(2):
        with pytest.raises(RigError, match="computes wrongly"):
            rig.ensure_rig(tmp_path / "cache", progress)
        assert not parts.is_complete()
        assert [path.suffix for path in parts.ollama.iterdir()] == [".lock"]

    server.content = "Paris"
    assert rig.ensure_rig(tmp_path / "cache", progress).is_complete()
    assert sorted(path.name for path in parts.checked.iterdir()) == ["small-q4.txt", "small.txt"]
    asked = [request["model"] for request in server.requests]
    rig.ensure_rig(tmp_path / "cache", progress)
    assert asked == ["small", "small", "small", "small-q4"]
    assert len(server.requests) == 4
