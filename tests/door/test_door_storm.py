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
from door.random_clients import RandomClients, grows_each_time, left, wait_until
from door.scripted import CAP_SECONDS, TOKEN, OpenDoor, door_to
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
from aider_guard.door.other_servers import OtherServerModels
from aider_guard.door.prompt_counter import CounterProcess
from aider_guard.door.reading import ReadingWatch
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
class DoorSetup:
    """A session's door with all its services, and its events."""

    ollama: FakeOllama
    residency: OllamaResidency
    events: list[Event]
    door: OpenDoor = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)

    def numbers(self, *kinds: type[RequestEvent]) -> set[int]:
        """The requests that events of these kinds are about."""
        return {event.number for event in self.events if isinstance(event, kinds)}

    def has_warmed(self) -> bool:
        """Return whether a model was loaded ahead. The last background task is kept until the next."""
        return any(isinstance(event, ModelWarmed) for event in self.events)

    def is_idle(self) -> bool:
        """Return whether every request that started was reported as finished, and no background task runs."""
        began = self.numbers(RequestStarted)
        is_over = began <= self.numbers(RequestFinished, RequestRefused)
        return is_over and not self.residency._running and not self.residency._tasks._tasks


@contextmanager
def door_setup(folder: Path) -> Iterator[DoorSetup]:
    """It serves, Ollama's log is read, and everything is closed afterwards."""
    talking = Talking(says="word " * PIECES, speed=Speed(0.5, 10_000, 50, share=0.05))
    events: list[Event] = []
    with ExitStack() as stack:
        log = folder / "server.log"
        ollama = stack.enter_context(FakeOllama("0.24.0", MODELS, talking=talking, log_path=log))
        client = OllamaClient(ollama.url)
        stack.callback(client.close)
        counter = CounterProcess(vocabularies=str(folder / "vocabularies"))
        stack.callback(counter.close)
        log_watch = OllamaLogWatch()
        stack.callback(log_watch.close)
        installed = OllamaTags(client)
        installed.read()
        setup = DoorSetup(ollama, OllamaResidency(client, events.append), events)
        installed_models, model_info = (
            InstalledModelsByServer(lambda _base: installed),
            OllamaModelInfo(client),
        )
        others = OtherServerModels()
        stack.callback(others.close)
        readings = ReadingWatch(goes_back=model_info.goes_back)
        services = Services(
            *(counter, log_watch, setup.residency, installed_models, model_info),
            *(others, readings),
        )

        def on_open(settings: DoorSettings) -> None:
            setup.loop = asyncio.get_running_loop()
            for one in (counter, log_watch, setup.residency):
                one.serve(settings)

        handler = ChatHandler(lambda: setup.door.settings[-1], services, events.append)
        roles = tuple(DoorRole(role, f"{role}:latest") for role in ("main", "editor", "weak"))
        more: dict[str, Any] = {
            "roles": roles,
            "window_tokens": WINDOW_TOKENS,
            "ollama_log": str(log),
        }
        setup.door = stack.enter_context(door_to(handler, ollama.url, on_open=on_open, **more))
        stack.enter_context(_polled(setup, client))
        yield setup


@contextmanager
def _polled(setup: DoorSetup, client: OllamaClient) -> Iterator[None]:
    """Ollama is read all the time, and the main model loaded ahead between requests."""
    stopped = threading.Event()

    def poll() -> None:
        setup.residency.observe(ServerRead(client.version()))
        while not stopped.wait(0.1):
            setup.residency.observe(ModelsRead(client.loaded_models()))
            setup.loop.call_soon_threadsafe(setup.residency.warm)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(CAP_SECONDS)


class Storm(RandomClients):
    """Clients of a session that cut some of their requests."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.whole = 0
        self._lock = threading.Lock()

    def script_breaks(self, ollama: FakeOllama, requests: int) -> None:
        """Let one answer of ten break off, at a random place."""
        chance = self.chance
        ollama.talking.breaks = [
            Break(chance.choice(("error", "crash", "cut")), chance.randrange(PIECES))
            if chance.random() < 0.1
            else None
            for _ in range(requests)
        ]

    def _request(self, connected: socket.socket, chance: random.Random) -> bool:
        """Send one request; return whether its connection can be used for another."""
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
    """Read an answer to its end, or until enough was read of it; return whether its end came."""
    received, is_over = b"", _is_whole(b"")
    while not is_over:
        piece = connected.recv(65536)
        received += piece
        if not piece or (stop_at is not None and len(received) > stop_at):
            return False
        is_over = _is_whole(received)
    return True


def _is_whole(received: bytes) -> bool:
    head, stopped, body = received.partition(b"\r\n\r\n")
    if not stopped:
        return False
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return len(body) >= int(fields[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


def _is_answered(setup: DoorSetup) -> bool:
    """Return whether an ordinary request is answered as usual."""
    body = {"model": MAIN, "messages": [{"role": "user", "content": "Hello."}], "stream": False}
    answer = httpx.post(
        f"{setup.door.base}/api/chat", json=body, trust_env=False, verify=False, timeout=20
    )
    return bool(answer.json()["message"]["content"] == "word " * PIECES)


def _descriptors(door: OpenDoor) -> int:
    """Open files, after a request: that lets go of kept connections which the upstream closed."""
    assert httpx.get(f"{door.base}/api/tags", trust_env=False, verify=False).status_code == 502
    return psutil.Process().num_fds()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_500_requests_with_random_cuts_leave_nothing_behind_in_a_session(tmp_path: Path) -> None:
    """Each that started is reported as finished; then sockets, tasks and memory are as before."""
    storm = Storm(seed=7)
    with door_setup(tmp_path) as setup:
        assert wait_until(lambda: setup.has_warmed() and setup.is_idle())
        before = left(LEFT_BEHIND)
        storm.run(setup.door, REQUESTS // 5)
        assert _is_answered(setup)
        assert wait_until(setup.is_idle)
        fds, storm.whole = psutil.Process().num_fds(), 0

        def rage() -> None:
            storm.script_breaks(setup.ollama, REQUESTS)
            storm.run(setup.door, REQUESTS)
            setup.ollama.talking.breaks = []
            assert _is_answered(setup)
            assert wait_until(setup.is_idle)

        assert not grows_each_time(rage, GROWN_BYTES)
        assert storm.whole > REQUESTS / 3
        outcomes = {event.outcome for event in setup.events if isinstance(event, RequestFinished)}
        assert outcomes == {"answered", "cancelled", "broken"}
        assert setup.numbers(RequestRefused) - setup.numbers(RequestStarted)
        setup.ollama.stop()
        assert wait_until(lambda: _descriptors(setup.door) <= fds), (
            psutil.Process().net_connections()
        )
        assert wait_until(lambda: not left(LEFT_BEHIND) - before), left(LEFT_BEHIND) - before
