"""The same storm as on the transport, through all that a session's door does with a request, on a fake Ollama."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import psutil
import pytest
from door.leftovers import Crowd, grows_each_time, left, wait_until
from door.scripted import CAP_SECONDS, TOKEN, Served, door_to
from fakes.ollama_chat import Talking
from fakes.ollama_models import CHATML, FakeModel
from fakes.ollama_runners import Speed
from fakes.ollama_server import FakeOllama
from fakes.ollama_troubles import Break
from fakes.vocabulary import tiny

from aider_guard.core.chat.events import (
    ModelWarmed,
    RequestFinished,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.chat.types import DoorRole, DoorSettings
from aider_guard.core.events import ModelsRead, ServerRead
from aider_guard.door.chat_handler import ChatExchange, ChatHandler
from aider_guard.door.client import Client
from aider_guard.door.interfaces import IncomingRequest, Services
from aider_guard.door.log_watch import OllamaLogWatch
from aider_guard.door.model_info import InstalledModelsByServer, OllamaModelInfo, OllamaTags
from aider_guard.door.prompt_counter import CounterProcess
from aider_guard.door.residency import OllamaResidency
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    from aider_guard.core.events import Event

RequestEvent = RequestStarted | RequestFinished | RequestRefused
REQUESTS = 500
PIECES = 40
WINDOW_TOKENS = 2048
MODELS = tuple(
    FakeModel(f"{name}:latest", blob=f"{number:02x}" * 32, vocabulary=tiny(), template=CHATML)
    for number, name in enumerate(("main", "editor", "weak", "one", "two", "three"))
)
MAIN = MODELS[0].name
LEFT_BEHIND = (
    *(Client, ChatExchange, IncomingRequest, asyncio.Task),
    *(httpx.Response, httpcore.AsyncHTTPConnection),
)
GROWN_BYTES = 16 * 1024 * 1024


@dataclass
class House:
    """A session's door with all its services, and what it told."""

    ollama: FakeOllama
    residency: OllamaResidency
    told: list[Event]
    door: Served = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)

    def numbers(self, *kinds: type[RequestEvent]) -> set[int]:
        """The requests that events of these kinds are about."""
        return {event.number for event in self.told if isinstance(event, kinds)}

    def has_warmed(self) -> bool:
        """Whether the last errand is one that is over: it is kept until the next."""
        return any(isinstance(event, ModelWarmed) for event in self.told)

    def is_idle(self) -> bool:
        """Whether every request that began was told to be over, and nothing is under way for anybody."""
        began = self.numbers(RequestStarted)
        is_over = began <= self.numbers(RequestFinished, RequestRefused)
        return is_over and not self.residency._running and not self.residency._errands._besides


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """It serves, Ollama's log is read, and everything is closed afterwards."""
    talking = Talking(says="word " * PIECES, speed=Speed(0.5, 10_000, 50, share=0.05))
    told: list[Event] = []
    with ExitStack() as stack:
        log = folder / "server.log"
        ollama = stack.enter_context(FakeOllama("0.24.0", MODELS, talking=talking, log_path=log))
        client = OllamaClient(ollama.url)
        stack.callback(client.close)
        counts = CounterProcess(vocabularies=str(folder / "vocabularies"))
        stack.callback(counts.close)
        witness = OllamaLogWatch()
        stack.callback(witness.close)
        shelf = OllamaTags(client)
        shelf.read()
        home = House(ollama, OllamaResidency(client, told.append), told)
        shelves, facts = InstalledModelsByServer(lambda _base: shelf), OllamaModelInfo(client)
        services = Services(counts, witness, home.residency, shelves, facts)

        def on_open(settings: DoorSettings) -> None:
            home.loop = asyncio.get_running_loop()
            for one in (counts, witness, home.residency):
                one.serve(settings)

        attendant = ChatHandler(lambda: home.door.settings[-1], services, told.append)
        roles = tuple(DoorRole(role, f"{role}:latest") for role in ("main", "editor", "weak"))
        more: dict[str, Any] = {
            "roles": roles,
            "window_tokens": WINDOW_TOKENS,
            "ollama_log": str(log),
        }
        home.door = stack.enter_context(door_to(attendant, ollama.url, on_open=on_open, **more))
        stack.enter_context(_polled(home, client))
        yield home


@contextmanager
def _polled(home: House, client: OllamaClient) -> Iterator[None]:
    """Ollama is read all the time, and the main model loaded ahead whenever nobody asks for anything."""
    ended = threading.Event()

    def poll() -> None:
        home.residency.observe(ServerRead(client.version()))
        while not ended.wait(0.1):
            home.residency.observe(ModelsRead(client.loaded_models()))
            home.loop.call_soon_threadsafe(home.residency.warm)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(CAP_SECONDS)


class Storm(Crowd):
    """The requests, each with its own fate."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.whole = 0
        self._lock = threading.Lock()

    def breaks(self, ollama: FakeOllama, requests: int) -> None:
        """One answer of ten breaks off, somewhere."""
        chance = self.chance
        ollama.talking.breaks = [
            Break(chance.choice(("error", "crash", "cut")), chance.randrange(PIECES))
            if chance.random() < 0.1
            else None
            for _ in range(requests)
        ]

    def _ask(self, connected: socket.socket, chance: random.Random) -> bool:
        """One request; whether its connection can be used for another."""
        request = _request(chance)
        fate = chance.random()
        if fate < 0.1:
            connected.sendall(request[: int(chance.random() * len(request))])
            return False
        connected.sendall(request)
        if fate < 0.2:
            return False
        stop_at = int(chance.random() * PIECES * 100) if fate < 0.5 else None
        if not _read(connected, stop_at):
            return False
        with self._lock:
            self.whole += 1
        return True


def _request(chance: random.Random) -> bytes:
    """A message to one of the models; one of twenty does not fit the window."""
    words = WINDOW_TOKENS if chance.random() < 0.05 else 100
    said = " ".join(chance.choice(("price", "item", "count", "log")) for _ in range(words))
    messages = [{"role": "system", "content": "Act as an expert."}]
    messages += [{"role": "user", "content": said}]
    body: dict[str, Any] = {"model": chance.choice(MODELS).name, "messages": messages}
    body["stream"] = chance.random() < 0.8
    path = chance.choice(("api/chat", "v1/chat/completions"))
    content = json.dumps(body).encode()
    lines = (f"POST /{TOKEN}/{path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", "", "")
    return "\r\n".join(lines).encode() + content


def _read(connected: socket.socket, stop_at: int | None) -> bool:
    """Read an answer to its end, or until enough was read of it; whether its end was seen."""
    received, is_over = b"", _is_whole(b"")
    while not is_over:
        piece = connected.recv(65536)
        received += piece
        if not piece or (stop_at is not None and len(received) > stop_at):
            return False
        is_over = _is_whole(received)
    return True


def _is_whole(received: bytes) -> bool:
    head, ended, body = received.partition(b"\r\n\r\n")
    if not ended:
        return False
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return len(body) >= int(fields[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


def _asks_well(home: House) -> bool:
    """Whether an ordinary request is answered as if nothing had been."""
    body = {"model": MAIN, "messages": [{"role": "user", "content": "Hello."}], "stream": False}
    answer = httpx.post(
        f"{home.door.base}/api/chat", json=body, trust_env=False, verify=False, timeout=20
    )
    return bool(answer.json()["message"]["content"] == "word " * PIECES)


def _descriptors(door: Served) -> int:
    """Open files, after a request: that lets go of kept connections which the upstream closed."""
    assert httpx.get(f"{door.base}/api/tags", trust_env=False, verify=False).status_code == 502
    return psutil.Process().num_fds()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_500_requests_with_random_cuts_leave_nothing_behind_in_a_session(tmp_path: Path) -> None:
    """Each that began is told to be over; then nothing is under way, and sockets, tasks and memory are as before."""
    storm = Storm(seed=7)
    with house(tmp_path) as home:
        assert wait_until(lambda: home.has_warmed() and home.is_idle())
        before = left(LEFT_BEHIND)
        storm.rage(home.door, REQUESTS // 5)
        assert _asks_well(home)
        assert wait_until(home.is_idle)
        fds, storm.whole = psutil.Process().num_fds(), 0

        def rage() -> None:
            storm.breaks(home.ollama, REQUESTS)
            storm.rage(home.door, REQUESTS)
            home.ollama.talking.breaks = []
            assert _asks_well(home)
            assert wait_until(home.is_idle)

        assert not grows_each_time(rage, GROWN_BYTES)
        assert storm.whole > REQUESTS / 3
        outcomes = {event.outcome for event in home.told if isinstance(event, RequestFinished)}
        assert outcomes == {"answered", "cancelled", "broken"}
        assert home.numbers(RequestRefused) - home.numbers(RequestStarted)
        home.ollama.stop()
        assert wait_until(lambda: _descriptors(home.door) <= fds), (
            psutil.Process().net_connections()
        )
        assert wait_until(lambda: not left(LEFT_BEHIND) - before), left(LEFT_BEHIND) - before
