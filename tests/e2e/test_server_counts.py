"""What the door counts by asking a server of today is what that server evaluates, for every template and vocabulary."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from e2e.emptying import empty
from e2e.shallow import NAME
from e2e.test_standin_counts import FORMS, server
from e2e.texts import COUNT, texts
from standin.sample_models import CODER, GEMMA, GEMMA_JINJA, JINJA

from aider_guard.core.chat.request import FORMS as PROTOCOLS
from aider_guard.core.chat.request import read
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import RequestTarget
from aider_guard.door.prompt_counter import CounterProcess

if TYPE_CHECKING:
    from aider_guard.demo.ollama_server import PrivateOllama

__all__ = ["server"]
WINDOW = 2048
OPTIONS = {"num_ctx": WINDOW, "num_predict": 1, "temperature": 0}
CHAT, GENERATE = "/api/chat", "/api/generate"
EACH = pytest.mark.parametrize("model", [NAME, CODER, JINJA, GEMMA, GEMMA_JINJA])


class DoorCounter:
    """The door's counter of one model on a server, and what the server evaluates."""

    def __init__(self, server: PrivateOllama, model: str, folder: Path) -> None:
        self.model, self.server = model, server
        upstream = Upstream("", server.url, "ollama")
        self._settings = DoorSettings("t", (upstream,), (DoorRole("main", model),), WINDOW)
        unread = Unavailable("not read")
        self.target = RequestTarget(upstream, "0.33.0", WINDOW, unread)
        self.counter = CounterProcess(vocabularies=str(folder), wait_seconds=30)
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
        body = {"model": self.model, "stream": True, "options": OPTIONS, **body}
        request = read(PROTOCOLS[path], body, self._settings, "")
        return asyncio.run(self.counter.count(request, self.target))

    def after(self, body: dict[str, Any], path: str = CHAT) -> int:
        """The tokens that were read, or taken from the cache."""
        body = {"model": self.model, "stream": False, "options": OPTIONS, **body}
        answer = self._http.post(path, json=body).raise_for_status().json()
        return int(answer["prompt_eval_count"])


@contextlib.contextmanager
def counting(server: PrivateOllama, model: str, folder: Path) -> Iterator[DoorCounter]:
    """A counter of a model, on a server that has nothing loaded."""
    empty(server)
    with contextlib.closing(DoorCounter(server, model, folder)) as counter:
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
