"""What the door counts by asking a server of today is what that server evaluates, for every template and vocabulary."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from e2e.conftest import create
from e2e.doors import open_door, settings_for
from e2e.emptying import empty
from e2e.overflowing import TEN, WINDOW_TOKENS
from e2e.shallow import NAME
from e2e.test_standin_counts import FORMS, server
from e2e.texts import COUNT, texts
from standin.sample_models import CODER, GEMMA, GEMMA_JINJA, JINJA

from aider_guard.core.chat.events import RequestFinished, RequestRefused
from aider_guard.core.chat.request import FORMS as PROTOCOLS
from aider_guard.core.chat.request import read
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import RequestTarget
from aider_guard.door.prompt_counter import CounterProcess
from aider_guard.door.server_counter import ANSWER_SECONDS, ServerCounter

if TYPE_CHECKING:
    from aider_guard.demo.ollama_server import PrivateOllama

__all__ = ["server"]
WINDOW = 2048
OPTIONS = {"num_ctx": WINDOW, "num_predict": 1, "temperature": 0}
CHAT, GENERATE = "/api/chat", "/api/generate"
PATIENCE_SECONDS = 20.0
"""How long a server, or a new counting process, may take on a busy machine."""
EACH = pytest.mark.parametrize("model", [NAME, CODER, JINJA, GEMMA, GEMMA_JINJA])


class DoorCounter:
    """The door's counter of one model on a server, and what the server evaluates."""

    def __init__(
        self, server: PrivateOllama, model: str, folder: Path, window: int, seconds: float
    ) -> None:
        self.model = model
        upstream = Upstream("", server.url, "ollama")
        self._settings = DoorSettings("t", (upstream,), (DoorRole("main", model),), window)
        unread = Unavailable("not read")
        self.target = RequestTarget(upstream, "0.33.0", window, unread)
        asking = ServerCounter(answer_seconds=seconds)
        self.counter = CounterProcess(
            vocabularies=str(folder), wait_seconds=30, server_seconds=seconds, server=asking
        )
        self.counter.serve(self._settings)
        self._http = httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False)

    def close(self) -> None:
        """End both."""
        self.counter.close()
        self._http.close()

    def load(self, window: int = WINDOW) -> None:
        """Have the model loaded, as the door does ahead of the first prompt."""
        body = {"model": self.model, "options": {**OPTIONS, "num_ctx": window}, "stream": False}
        self._http.post(GENERATE, json=body).raise_for_status()

    def before(self, body: dict[str, Any], path: str = CHAT) -> Count | Unavailable:
        """The count of a prompt that is not sent."""
        body = {"stream": True, "options": OPTIONS, **body, "model": self.model}
        request = read(PROTOCOLS[path], body, self._settings, "")
        return asyncio.run(self.counter.count(request, self.target))

    def after(self, body: dict[str, Any], path: str = CHAT) -> int:
        """The tokens that were read, or taken from the cache."""
        body = {"model": self.model, "stream": False, "options": OPTIONS, **body}
        answer = self._http.post(path, json=body).raise_for_status().json()
        return int(answer["prompt_eval_count"])


@contextlib.contextmanager
def counting(
    server: PrivateOllama,
    model: str,
    folder: Path,
    window: int = WINDOW,
    seconds: float = PATIENCE_SECONDS,
) -> Iterator[DoorCounter]:
    """A counter of a model, on a server that has nothing loaded and may be slow to answer."""
    empty(server)
    with contextlib.closing(DoorCounter(server, model, folder, window, seconds)) as counter:
        yield counter


@pytest.mark.slow
@EACH
def test_two_hundred_of_two_hundred(
    server: PrivateOllama,
    model: str,
    tmp_path: Path,
) -> None:
    """In chats, texts with a template and raw texts: exact, by the server, and the model is loaded once."""
    wrong = []
    with counting(server, model, tmp_path) as counter:
        counter.load()
        loads = server.loads()
        for place, (kind, text) in enumerate(texts()):
            path, body = CHAT, {"messages": FORMS[place // 12 % len(FORMS)](text)}
            if place // 24 % 4 == 3:
                path, body = GENERATE, {"prompt": text, "raw": place // 12 % 2 == 1}  # type: ignore[dict-item]
            counted, evaluated = counter.before(body, path), counter.after(body, path)
            assert isinstance(counted, Count)
            if (counted.tokens, counted.exact, counted.counted_by) != (evaluated, True, "server"):
                wrong.append((kind, path, text, counted, evaluated))
        assert server.loads() == loads
    assert len(texts()) == COUNT
    assert wrong == []


TEXT = {"messages": [{"role": "user", "content": "def price(item):\n    return 1_234\n" * 9}]}


def test_counting_loads_nothing(server: PrivateOllama, tmp_path: Path) -> None:
    """Neither a model that is not loaded, nor one anew that is loaded with another window."""
    with counting(server, NAME, tmp_path) as counter:
        loads = server.loads()
        counted = counter.before(TEXT)
        assert isinstance(counted, Count)
        assert (counted.exact, counted.counted_by) == (True, "vocabulary")
        assert server.loads() == loads
        counter.load(WINDOW // 2)
        again = counter.before(TEXT)
        assert isinstance(again, Count)
        assert (again, again.counted_by) == (counted, "vocabulary")
        assert server.loads() == loads + 1
        counter.load()
        exact = counter.before(TEXT)
        assert isinstance(exact, Count)
        assert (exact, exact.counted_by) == (counted, "server")


def test_a_process_that_was_killed_is_replaced(server: PrivateOllama, tmp_path: Path) -> None:
    """The next one has another port."""
    with counting(server, NAME, tmp_path) as counter:
        for _ in range(2):
            counter.load()
            counted = counter.before(TEXT)
            assert isinstance(counted, Count)
            assert counted.counted_by == "server"
            (child,) = psutil.Process(server.pid).children()
            child.kill()
            child.wait(10)
            counted = counter.before(TEXT)
            assert isinstance(counted, Count)
            assert counted.counted_by == "vocabulary"


def test_a_process_that_hangs_is_not_waited_for(server: PrivateOllama, tmp_path: Path) -> None:
    """The text is counted by the vocabulary, within the time that a prompt waits for its count."""
    with counting(server, NAME, tmp_path, seconds=ANSWER_SECONDS) as counter:
        counter.load()
        counted = counter.before(TEXT)
        (child,) = psutil.Process(server.pid).children()
        child.suspend()
        try:
            since = time.monotonic()
            again = counter.before(TEXT)
            seconds = time.monotonic() - since
        finally:
            child.resume()
        assert isinstance(again, Count)
        assert again == counted
        assert again.counted_by in ("rendered", "vocabulary")
        assert seconds < ANSWER_SECONDS + PATIENCE_SECONDS


def test_prompts_beyond_the_window_have_their_whole_size(
    server: PrivateOllama, tmp_path: Path
) -> None:
    """Nothing of them is dropped before they are counted, on each of the ten routes."""
    with counting(server, NAME, tmp_path, WINDOW_TOKENS) as counter:
        counter.load(WINDOW_TOKENS)
        for case in TEN:
            counted = counter.before(case.body, case.path)
            assert isinstance(counted, Count)
            assert (counted.tokens, counted.exact, counted.counted_by, case.name) == (
                *(case.tokens, True, "server"),
                case.name,
            )


def test_a_door_with_a_model_that_only_its_server_can_count(server: PrivateOllama) -> None:
    """What fits is read whole, and as many tokens as were counted; what is too large is refused with its exact size."""
    empty(server)
    settings = settings_for(server.url, GEMMA_JINJA, 512)

    def body(words: int) -> dict[str, Any]:
        messages = [("system", "You are a till."), ("user", "lemon 17 " * words)]
        return {
            "model": GEMMA_JINJA,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "options": {"num_predict": 1},
            "stream": False,
        }

    with (
        open_door(server.url, settings) as door,
        httpx.Client(base_url=door.url, timeout=120, trust_env=False, verify=False) as client,
    ):
        for number, words in (
            (1, 20),
            (2, 60),
            (3, 70),
        ):  # one that fits by its bytes loads the model
            client.post(CHAT, json=body(words)).raise_for_status()
            finished = door.wait_for(RequestFinished, number)
            assert finished.verdict.outcome == "whole"
            if number > 1:
                assert (finished.counted_by, finished.counted_exactly) == ("server", True)
                assert finished.counted_tokens == finished.prompt_tokens
        loads = server.loads()
        answer = client.post(CHAT, json=body(300)).json()["message"]["content"]
        refused = door.wait_for(RequestRefused)
        assert refused.counted_by == "server"
        assert answer.startswith(f"aider-guard: not sent: exactly {refused.over_tokens:,} tokens")
        assert server.loads() == loads


def test_a_template_that_loses_the_system_text(server: PrivateOllama) -> None:
    """All that Ollama made of the prompt is evaluated, and the model never saw the instructions: it is not whole."""
    create(server, "plain", **{"from": NAME, "template": "{{ .Prompt }}"})
    empty(server)
    body = {
        "model": "plain",
        "messages": [
            {"role": "system", "content": "You are a till. Add prices."},
            {"role": "user", "content": "lemon 17"},
        ],
        "options": {"num_predict": 1},
        "stream": False,
    }
    with open_door(server.url, settings_for(server.url, "plain", WINDOW)) as door:
        # The first one loads the model; a process that is slow once is left alone for a while.
        until = time.monotonic() + 60
        for number in itertools.count(1):
            httpx.post(
                f"{door.url}{CHAT}", json=body, timeout=120, trust_env=False, verify=False
            ).raise_for_status()
            door.wait_for(RequestFinished, number)
            is_over = time.monotonic() > until
            if is_over or door.wait_for(RequestFinished, number).counted_by == "server":
                break
        finished = door.wait_for(RequestFinished, number)
        assert finished.counted_by == "server"
        assert finished.counted_tokens == finished.prompt_tokens
        assert finished.verdict.outcome == "unknown"
        assert "leaves messages out" in finished.verdict.evidence
