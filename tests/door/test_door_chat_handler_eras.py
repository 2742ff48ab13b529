"""Requests through the whole door to a fake Ollama of each era."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, message, settings
from door.handler_services import HandlerSetup
from fakes.ollama_server import ERAS, FakeOllama
from fakes.ollama_troubles import Break, busy

from aider_guard.core.chat.events import RequestFinished, RequestRefused
from aider_guard.core.chat.types import Count, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.app import Door
from aider_guard.door.server import DoorServer

OLDER = ("0.9.3", "0.11.10", "0.12.5")
"""Versions that cut in spite of ``truncate: false``."""
CHAT = [message("system", prompts.DIFF), message("user", "fix it")]
SECONDS = 20.0


@contextmanager
def door(ollama: FakeOllama, setup: HandlerSetup) -> Iterator[str]:
    """The address that Aider gets, while the door is open."""
    upstream = Upstream("", ollama.url, "ollama")
    setup.settings = replace(setup.settings, upstreams=(upstream,))
    setup.residency.version = ollama.version
    opened = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = DoorServer(
            sock, Door(lambda: setup.settings, setup.handler), on_open=lambda _port: opened.set()
        )
        thread = threading.Thread(target=server.serve)
        thread.start()
        assert opened.wait(SECONDS)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/token"
        finally:
            server.close()
            thread.join()


def post(base: str, content: bytes, path: str = "/api/chat") -> httpx.Response:
    with httpx.Client(trust_env=False, verify=False, timeout=SECONDS) as client:
        return client.post(f"{base}{path}", content=content)


def text_of_stream(answer: httpx.Response) -> str:
    pieces = [json.loads(line) for line in answer.text.splitlines()]
    return "".join(piece["message"]["content"] for piece in pieces)


def is_broken(base: str) -> bool:
    """Whether Aider would find the answer broken: cut off, or with an error's line in it."""
    try:
        return '"error"' in post(base, body("chat", CHAT)).text
    except httpx.RemoteProtocolError:
        return True


def last_event(setup: HandlerSetup) -> Any:
    """Return the last request's event; it comes after the answer."""
    for _ in range(200):
        done = [e for e in setup.events if isinstance(e, (RequestFinished, RequestRefused))]
        if done:
            return done[-1]
        threading.Event().wait(0.02)
    pytest.fail("no request ended")


@pytest.mark.parametrize("version", ERAS)
def test_a_request_is_answered_as_without_the_door(version: str) -> None:
    """Only pinned and kept; the model's own numbers are reported."""
    setup = HandlerSetup()
    with FakeOllama(version=version) as ollama, door(ollama, setup) as base:
        answer = post(base, body("chat", CHAT))
        assert text_of_stream(answer) == "It is well."
        finished = last_event(setup)
        assert isinstance(finished, RequestFinished)
        assert isinstance(finished.prompt_tokens, int)
        assert (finished.outcome, finished.done_reason) == ("answered", "stop")
        assert ollama.chats[0]["options"]["num_ctx"] == 8192
        assert ollama.chats[0].get("truncate") is (None if version in OLDER else False)


def prompts_forbid(version: str) -> bool:
    return version not in ("0.9.3", "0.11.10", "0.12.5")


@pytest.mark.parametrize("version", ERAS)
def test_a_prompt_that_could_not_be_counted_is_refused_by_a_guess(version: str) -> None:
    """It is far too large, and is sent to no version."""
    setup = HandlerSetup(settings(512))
    setup.counter.result = Unavailable("no vocabulary")
    big = [CHAT[0], message("user", "word " * 4000)]
    with FakeOllama(version=version) as ollama, door(ollama, setup) as base:
        answer = post(base, body("chat", big))
        assert ollama.chats == []
    last = last_event(setup)
    assert isinstance(last, RequestRefused)
    assert last.reason == "overflow"
    assert text_of_stream(answer).startswith("aider-guard: not sent: about ")


@pytest.mark.parametrize("version", ERAS)
def test_a_prompt_that_is_larger_than_it_was_guessed_is_refused_or_judged(version: str) -> None:
    """It overflows: newer servers refuse it, and the verdict shows it with older ones."""
    setup = HandlerSetup(settings(4096))
    setup.counter.result = Unavailable("no vocabulary")
    big = [CHAT[0], message("user", "1 2 3 " * 1500)]
    with FakeOllama(version=version) as ollama, door(ollama, setup) as base:
        answer = post(base, body("chat", big))
        last = last_event(setup)
        assert len(ollama.chats) == 1
    if version not in OLDER:
        assert isinstance(last, RequestRefused)
        assert last.reason == "overflow"
        assert text_of_stream(answer).startswith("aider-guard: not ")
    else:
        assert isinstance(last, RequestFinished)
        assert last.verdict.outcome in ("cut", "unknown")


def test_what_is_too_large_never_reaches_the_server() -> None:
    """The door answers by itself."""
    setup = HandlerSetup()
    setup.counter.result = Count(9000, exact=True)
    with FakeOllama() as ollama, door(ollama, setup) as base:
        answer = post(base, body("chat", [CHAT[0], message("user", "word " * 4000)]))
        assert text_of_stream(answer).startswith("aider-guard: not sent: exactly 1,832 tokens")
        assert ollama.chats == []


def test_a_busy_server_is_waited_for_in_one_stream() -> None:
    """The wait is shown, then the answer comes in the same stream."""
    setup = HandlerSetup()
    with FakeOllama() as ollama, door(ollama, setup) as base:
        ollama.script["/api/chat"] = [busy(), None]
        answer = post(base, body("chat", CHAT))
        first = json.loads(answer.text.splitlines()[0])
        assert first["message"]["thinking"].startswith("aider-guard: waiting")
        assert text_of_stream(answer) == "It is well."


@pytest.mark.parametrize("kind", ["error", "crash", "cut"])
def test_an_answer_that_breaks_each_time_is_answered_in_words(kind: Any) -> None:
    """The first two times Aider finds it broken, and tries again; the third time it gets an answer."""
    setup = HandlerSetup()
    with FakeOllama(version="0.24.0") as ollama, door(ollama, setup) as base:
        ollama.talking.breaks = [Break(kind), Break(kind), Break(kind)]
        assert is_broken(base)
        assert is_broken(base)
        last = post(base, body("chat", CHAT))
        assert text_of_stream(last).startswith("aider-guard: ")
        assert len(ollama.chats) == 2
