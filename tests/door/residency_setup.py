"""A residency with a fake Ollama, and Aider's requests through it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import httpx
from fakes.ollama_server import FakeModel, FakeOllama

from aider_guard.core.chat.body import body_to_send
from aider_guard.core.chat.request import ChatRequest, read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.events import ModelsRead, ServerRead
from aider_guard.core.readings import Unavailable
from aider_guard.door.reload_cause import OllamaProcesses, ReloadInspector
from aider_guard.door.residency import OllamaResidency
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    from aider_guard.core.events import Event

CAP_SECONDS = 20.0
WINDOW_TOKENS = 8192
Kind = TypeVar("Kind")
Parameters = ParamSpec("Parameters")

MAIN = FakeModel("qwen3:8b", kv_bytes_per_token=1024)
EDITOR = FakeModel("editor:latest")
OTHER = FakeModel("llama3:70b")
CLOUD = FakeModel("kimi-k2:cloud")
STUB = FakeModel("mine:latest", remote_host="https://ollama.com:443")
MODELS = (MAIN, EDITOR, OTHER, CLOUD, STUB)

SYSTEM = ("system", "Act as an expert software developer. " * 60)
MAP = (
    (
        "user",
        "Here are summaries of some files present in my git repository.\n" + "def a(): b\n" * 90,
    ),
    ("assistant", "Ok, I won't try and edit those files without asking first."),
)
QUESTION = ("user", "What is a basket?")


class Clock:
    """Real time, and what a test adds to it."""

    added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@dataclass
class ResidencySetup:
    """A residency with its Ollama and its events."""

    ollama: FakeOllama
    residency: OllamaResidency
    settings: DoorSettings
    clock: Clock
    client: OllamaClient
    seen: list[Event]
    processes: list[OllamaProcesses] = field(default_factory=lambda: [OllamaProcesses()])

    @property
    def upstream(self) -> Upstream:
        return self.settings.upstreams[0]

    async def poll(self) -> None:
        """Read what the sidecar polls every two seconds."""
        for event in (ServerRead(self.client.version()), ModelsRead(self.client.loaded_models())):
            await asyncio.to_thread(self.residency.observe, event)
        await asyncio.sleep(0)

    async def send(
        self, *messages: tuple[str, str], model: str = MAIN.name, **options: Any
    ) -> float:
        """Send a request as the door does; return its ``load_duration`` in seconds, once Ollama is idle again."""
        request = self.request(*messages, model=model, **options)
        await self.residency.on_request_start(request, self.upstream)
        body = body_to_send(request, b"", self.settings, self.upstream, self.residency.version)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=CAP_SECONDS) as http:
            answer = (await http.post(f"{self.ollama.url}/api/chat", content=body)).json()
        load_seconds = answer["load_duration"] / 1e9
        await until(lambda: self.ollama.runners.idle)
        self.residency.on_request_end(request, self.upstream, load_seconds)
        return float(load_seconds)

    def request(
        self, *messages: tuple[str, str], model: str = MAIN.name, **options: Any
    ) -> ChatRequest:
        """Return a request of Aider's."""
        texts = messages or (SYSTEM, *MAP, QUESTION)
        listed = [{"role": role, "content": content} for role, content in texts]
        body = {"model": model, "messages": listed, "stream": False, "options": options}
        return read("chat", body, self.settings, "")

    async def wait_for(self, kind: type[Kind], count: int = 1) -> Kind:
        """Wait for this number of events of a kind; return the last of these."""
        await until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    async def settled(self) -> None:
        """Wait until no background task is running."""
        await until(lambda: not self.residency._tasks._tasks)

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Return every event of a kind."""
        return [event for event in self.seen if isinstance(event, kind)]

    def loads(self) -> list[dict[str, Any]]:
        """Return the bodies of requests that only load a model, in order."""
        bodies = [
            received.body for received in self.ollama.received if received.path == "/api/generate"
        ]
        return [body for body in bodies if not body.get("prompt") and body.get("keep_alive") != 0]


async def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + CAP_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def residency_setup(
    ollama: FakeOllama | None = None,
    *,
    roles: Sequence[tuple[str, str]] = (("main", MAIN.name), ("editor", EDITOR.name)),
    user_keep_alive: bool = False,
) -> AsyncIterator[ResidencySetup]:
    """Open a residency that serves, and has read Ollama once."""
    ollama = ollama or FakeOllama(models=MODELS)
    ollama.talking.speed = type(ollama.talking.speed)(load_seconds=1.5, share=0.01)
    seen: list[Event] = []
    clock = Clock()
    with ollama:
        client = OllamaClient(ollama.url, clock=clock)
        processes = [OllamaProcesses()]
        residency = OllamaResidency(
            client,
            seen.append,
            inspector=ReloadInspector(client, lambda _base: processes[-1]),
            clock=clock,
        )
        settings = DoorSettings(
            "token",
            (Upstream("", ollama.url, "ollama"),),
            tuple(DoorRole(role, model) for role, model in roles),  # type: ignore[arg-type]
            WINDOW_TOKENS,
            user_keep_alive=user_keep_alive,
        )
        residency.serve(settings)
        setup = ResidencySetup(ollama, residency, settings, clock, client, seen, processes)
        try:
            await setup.poll()
            assert not isinstance(residency.version, Unavailable)
            yield setup
        finally:
            await asyncio.to_thread(residency.release, ())
            client.close()


def in_residency(
    test: Callable[Concatenate[ResidencySetup, Parameters], Awaitable[None]],
) -> Callable[Parameters, None]:
    """Run a test with a residency of its own, on an event loop of its own."""

    async def with_setup(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        async with residency_setup() as setup:
            await test(setup, *arguments, **named)

    @functools.wraps(test)
    def run(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        asyncio.run(with_setup(*arguments, **named))

    signature = inspect.signature(test)
    _, *parameters = signature.parameters.values()
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # pytest reads it
    return run
