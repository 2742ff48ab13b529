"""Warming, keeping and missing models on a real Ollama: what the first request still has to wait for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import psutil
import pytest
from e2e.conftest import PRIVATE, TODAY
from e2e.emptying import empty, has_nothing

from aider_guard.core.chat.body import body_to_send
from aider_guard.core.chat.events import ModelWarmed, ReloadSeen
from aider_guard.core.chat.request import read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.events import ModelsRead, ServerRead
from aider_guard.demo.layout import SMALL, SMALL_Q4
from aider_guard.demo.ollama_server import PrivateOllama
from aider_guard.door import reload_cause
from aider_guard.door.residency import OllamaResidency
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    from aider_guard.core.events import Event

pytestmark = pytest.mark.servers(PRIVATE, TODAY)
CAP_SECONDS = 300.0
WINDOW_TOKENS = 2048
ATTEMPTS = 3
Kind = TypeVar("Kind")

SYSTEM = {"role": "system", "content": "Act as an expert software developer. " * 12}
MAP = [
    {
        "role": "user",
        "content": "Here are summaries of some files present in my git repository.\n"
        + "".join(f"\ntill{number}.py:\n│def total(basket, apples):\n" for number in range(12)),
    },
    {
        "role": "assistant",
        "content": "Ok, I won't try and edit those files without asking first.",
    },
]
HISTORY = [
    {"role": "user", "content": "What is a basket?"},
    {"role": "assistant", "content": "A thing to carry apples in."},
]
QUESTION = [{"role": "user", "content": "And a box?"}]


@dataclass(frozen=True)
class House:
    """A residency of a real Ollama, and the events that it emitted."""

    server: PrivateOllama
    client: OllamaClient
    residency: OllamaResidency
    settings: DoorSettings
    seen: list[Event]
    looks: list[reload_cause.OllamaProcesses]

    async def reads(self) -> None:
        """What the sidecar polls."""
        self.residency.observe(ServerRead(self.client.version()))
        self.residency.observe(ModelsRead(self.client.loaded_models()))
        await asyncio.sleep(0)  # the loop takes it in

    async def asks(self, *messages: dict[str, str]) -> dict[str, float]:
        """A real request, as the door sends it; the server's times in seconds."""
        options = {"num_predict": 1, "temperature": 0}
        body = {"model": SMALL, "messages": list(messages), "stream": False, "options": options}
        asked, upstream = read("chat", body, self.settings, ""), self.settings.upstreams[0]
        await self.residency.on_request_start(asked, upstream)
        content = body_to_send(asked, b"", self.settings, upstream, self.residency.version)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=CAP_SECONDS) as http:
            answer = (await http.post(f"{self.server.url}/api/chat", content=content)).json()
        self.residency.on_request_end(asked, upstream, answer["load_duration"] / 1e9)
        return {name: answer[f"{name}_duration"] / 1e9 for name in ("load", "prompt_eval")}

    async def unload(self) -> None:
        """As at a restart."""
        await asyncio.to_thread(self.residency.release, (SMALL,))
        self.client.unload(SMALL)
        await until(lambda: not self.server.loaded())

    async def told(self, kind: type[Kind], count: int = 1) -> Kind:
        """Wait until so many events of a kind were emitted."""

        def found() -> list[Kind]:
            return [event for event in self.seen if isinstance(event, kind)]

        await until(lambda: len(found()) >= count)
        return found()[count - 1]


async def until(what: Callable[[], object]) -> None:
    """Look now and then until something is so."""
    deadline = time.monotonic() + CAP_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def house(server: PrivateOllama) -> AsyncIterator[House]:
    """A residency whose main model is the small one; nothing is loaded before and afterwards."""
    client, seen, looks = (
        OllamaClient(server.url),
        list[Any](),
        list[reload_cause.OllamaProcesses](),
    )

    def processes(base: str) -> reload_cause.OllamaProcesses:
        looks.append(reload_cause.processes(base))
        return looks[-1]

    inspector = reload_cause.ReloadInspector(client, processes)
    residency = OllamaResidency(client, seen.append, inspector=inspector)
    upstream = Upstream("", server.url, "ollama")
    settings = DoorSettings("token", (upstream,), (DoorRole("main", SMALL),), WINDOW_TOKENS)
    empty(server)
    residency.serve(settings)
    home = House(server, client, residency, settings, seen, looks)
    await home.reads()
    try:
        yield home
    finally:
        await asyncio.to_thread(residency.release, ())
        empty(server)
        client.close()


def tell(story: Callable[[House], Coroutine[Any, Any, Kind]], server: PrivateOllama) -> Kind:
    """Play a story; what it found."""

    async def whole() -> Kind:
        async with house(server) as home:
            return await story(home)

    return asyncio.run(whole())


def once(story: Callable[[House], Coroutine[Any, Any, bool]], server: PrivateOllama) -> bool:
    """Whether one of a few tellings found it: its seconds are compared, and others use the machine as well."""
    return any(tell(story, server) for _ in range(ATTEMPTS))


def test_the_first_request_does_not_load(ollama: PrivateOllama) -> None:
    """One load, before any request waits for it; the request finds the model with its window."""

    async def story(home: House) -> None:
        before = ollama.loads()
        home.residency.warm()
        warmed = await home.told(ModelWarmed)
        assert (warmed.kind, warmed.problem) == ("load", "")
        await home.asks(*QUESTION)
        assert ollama.loads() == before + 1
        assert not any(isinstance(event, ReloadSeen) for event in home.seen)

    tell(story, ollama)


@pytest.mark.slow
@pytest.mark.servers(TODAY)
def test_the_head_is_read_before_the_request_comes(ollama: PrivateOllama) -> None:
    """After an unload the next request, with another history, has a small part of its text left to read."""

    async def story(home: House) -> bool:
        cold = await home.asks(SYSTEM, *MAP, *QUESTION)
        await home.unload()
        home.residency.warm()
        head = await home.told(ModelWarmed, 2)
        assert (head.kind, head.problem) == ("head", "")
        assert head.tokens > 300
        loads = ollama.loads()
        warm = await home.asks(SYSTEM, *MAP, *HISTORY, *QUESTION)
        assert ollama.loads() == loads
        return warm["prompt_eval"] < cold["prompt_eval"] / 2

    assert once(story, ollama)


@pytest.mark.slow
@pytest.mark.servers(TODAY)
def test_a_request_does_not_wait_for_the_head(ollama: PrivateOllama) -> None:
    """Ollama would read a whole prompt to its end; of a piece the request waits for little."""

    async def story(home: House) -> bool:
        cold = await home.asks(SYSTEM, *MAP, *QUESTION)
        await home.unload()
        home.residency.warm()
        await home.told(ModelWarmed)
        began = time.monotonic()
        await home.asks({"role": "user", "content": "Hello."})
        waited_seconds = time.monotonic() - began
        head = await home.told(ModelWarmed, 2)
        return bool(head.problem) and waited_seconds < cold["prompt_eval"]

    assert once(story, ollama)


def test_a_load_that_is_ended_leaves_nothing(ollama: PrivateOllama) -> None:
    """Unloading while the model is loaded ahead: a moment later Ollama has nothing in memory."""

    async def story(home: House) -> None:
        before = ollama.loads()
        home.residency.warm()
        await until(lambda: ollama.loads() > before)
        await home.unload()
        await until(lambda: has_nothing(ollama))

    tell(story, ollama)


def test_another_s_model_stays(ollama: PrivateOllama) -> None:
    """Nothing is loaded beside it, and the event names it."""

    async def story(home: House) -> None:
        httpx.post(
            f"{ollama.url}/api/generate",
            json={"model": SMALL_Q4},
            timeout=60,
            trust_env=False,
            verify=False,
        )
        home.residency.warm()
        warmed = await home.told(ModelWarmed)
        assert warmed.problem == f"{SMALL_Q4}:latest is loaded already, by another program"
        assert ollama.loaded() == [f"{SMALL_Q4}:latest"]

    tell(story, ollama)


async def _widened(home: House) -> None:
    body = {"model": SMALL, "options": {"num_ctx": 4096}}
    httpx.post(
        f"{home.server.url}/api/generate", json=body, timeout=60, trust_env=False, verify=False
    )
    await home.reads()


async def _unloaded(home: House) -> None:
    home.client.unload(SMALL)
    await until(lambda: not home.server.loaded())
    await home.reads()


async def _crashed(home: House) -> None:
    (runner,) = psutil.Process(home.server.pid).children()
    os.kill(runner.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("loses", "words"),
    [
        (_widened, "another program had asked for it with a"),
        (_unloaded, "it was unloaded before its time"),
        (_crashed, "its process had ended at Ollama"),
    ],
)
def test_a_reload_is_told_with_its_cause(
    ollama: PrivateOllama, loses: Callable[[House], Any], words: str
) -> None:
    """From the server's own lists and processes."""

    async def story(home: House) -> None:
        await home.asks(*QUESTION)
        await home.reads()
        await until(lambda: home.looks)
        await loses(home)
        await home.asks(*QUESTION)
        assert (await home.told(ReloadSeen)).cause.startswith(words)

    tell(story, ollama)


def test_a_request_that_says_nothing_of_it_leaves_the_stay_as_it_was(ollama: PrivateOllama) -> None:
    """A one-shot beside a session keeps the session's half hour, though it asks for no stay of its own."""
    body: dict[str, Any] = {"model": SMALL, "options": {"num_ctx": WINDOW_TOKENS}}
    for stay in ({"keep_alive": "30m"}, {}):
        asked = httpx.post(
            f"{ollama.url}/api/generate",
            json=body | stay,
            timeout=60,
            trust_env=False,
            verify=False,
        )
        assert asked.raise_for_status().json()["done"]
    (listed,) = httpx.get(f"{ollama.url}/api/ps", trust_env=False, verify=False).json()["models"]
    leaves_at = datetime.fromisoformat(
        re.sub(r"\.\d+", "", listed["expires_at"]).replace("Z", "+00:00")
    )
    assert leaves_at - datetime.now(timezone.utc) > timedelta(minutes=25)
