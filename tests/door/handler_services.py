"""Services of a door whose answers are data, and a visit without any HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from core.chat.aider_prompts import OLLAMA, settings

from aider_guard.core.chat.replies import Timestamp
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import Sizes
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence
from aider_guard.door.chat_handler import ChatExchange, ChatHandler
from aider_guard.door.interfaces import IncomingRequest, Reply, Services

if TYPE_CHECKING:
    from aider_guard.core.events import Event

Result = TypeVar("Result")
AT = Timestamp("2026-01-02T03:04:05Z", 1767323045)


@dataclass
class FixedCounts:
    """Counts characters, exactly, unless it is told what to say."""

    says: Count | Unavailable | None = None
    gate: asyncio.Event | None = None
    """Until it is set, no count is ready."""
    waiting: asyncio.Event | None = None
    """Set when somebody waits at the gate."""
    counted: int = 0
    cancelled: int = 0
    learned: list[tuple[Count | Unavailable, int]] = field(default_factory=list)
    sizes: Sizes = field(default_factory=Sizes)

    def serve(self, _settings: DoorSettings) -> None:
        """Nothing is to be read."""

    def wake(self) -> None:
        """Always ready."""

    async def count(self, asked: ChatRequest) -> Count | Unavailable:
        try:
            if self.waiting is not None:
                self.waiting.set()
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.counted += 1
        size = sum(len(message.content) for message in asked.messages)
        return Count(size, exact=True) if self.says is None else self.says

    def fits(self, asked: ChatRequest, room_tokens: int) -> bool:
        return self.sizes.fits(asked, room_tokens)

    def guess(self, asked: ChatRequest) -> Count:
        return self.sizes.guess(asked)

    async def count_texts(self, _model: str, texts: Sequence[str]) -> tuple[int, ...] | Unavailable:
        return tuple(len(text) for text in texts)

    def measured(
        self, _asked: ChatRequest, counted: Count | Unavailable, prompt_tokens: int
    ) -> None:
        self.learned.append((counted, prompt_tokens))


@dataclass
class SilentWitness:
    """Reads the log that it is given."""

    log: LogEvidence | Unavailable = Unavailable("the server's log is not read")
    marks: int = 0

    def serve(self, _settings: DoorSettings) -> None:
        """Nothing is to be followed."""

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    async def since(self, _mark: int) -> LogEvidence | Unavailable:
        return self.log


@dataclass
class NotingResidency:
    """Notes what it is told."""

    version: str | Unavailable = "0.24.0"
    windows: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def serve(self, _settings: DoorSettings) -> None:
        """Nothing is to be kept."""

    def warm(self, _ours: Sequence[str] = ()) -> None:
        self.told.append("warm")

    async def begins(self, asked: ChatRequest, _upstream: Upstream) -> None:
        self.told.append(f"begins {asked.model}")

    def ended(
        self, asked: ChatRequest, _upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        seconds = "?" if isinstance(load_seconds, Unavailable) else f"{load_seconds:.1f}"
        self.told.append(f"ended {asked.model} {seconds}")

    def loaded_window(self, model: str) -> int | Unavailable:
        return self.windows.get(model, Unavailable("not loaded"))


@dataclass
class ListedShelf:
    """Knows what it is given; every other name is that of a model here, but for those that are ``absent``."""

    remote: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    silent: bool = False
    """Whether the server says nothing."""
    asked: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    mlx: tuple[str, ...] = ()

    def serve(self, _settings: DoorSettings) -> None:
        """Nothing is to be read."""

    async def where(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        self.asked.append(model)
        if upstream.kind != "ollama":
            return ""
        return await self.look(upstream, model)

    async def look(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        if upstream.kind != "ollama":
            return None
        if self.silent:
            return Unavailable("connection refused")
        return None if model in self.absent else self.remote.get(model, "")

    def alike(self, _upstream: Upstream, _model: str) -> tuple[str, ...]:
        return self.names

    def never_truncates(self, _upstream: Upstream, model: str) -> bool:
        return model in self.mlx


@dataclass
class KnownFacts:
    """Knows what it is given, once it was asked."""

    contexts: dict[str, int] = field(default_factory=dict)
    said: str | Unavailable = Unavailable("Ollama was not asked")
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def serve(self, _settings: DoorSettings) -> None:
        """Nothing is to be asked."""

    async def learn(self, model: str, *, version: bool) -> None:
        self.asked.append((model, version))

    def trained(self, model: str) -> int | Unavailable:
        told = model in self.contexts and any(model == name for name, _ in self.asked)
        return self.contexts[model] if told else Unavailable("it was not asked")

    @property
    def version(self) -> str | Unavailable:
        wanted = any(version for _, version in self.asked)
        return self.said if wanted else Unavailable("Ollama was not asked")


@dataclass
class Desk:
    """An attendant with all that it works with, and a clock that only moves when it is told."""

    settings: DoorSettings = field(default_factory=settings)
    counts: FixedCounts = field(default_factory=FixedCounts)
    witness: SilentWitness = field(default_factory=SilentWitness)
    residency: NotingResidency = field(default_factory=NotingResidency)
    shelf: ListedShelf = field(default_factory=ListedShelf)
    facts: KnownFacts = field(default_factory=KnownFacts)
    events: list[Event] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        services = Services(self.counts, self.witness, self.residency, self.shelf, self.facts)
        self.attendant = ChatHandler(
            lambda: self.settings, services, self.events.append, lambda: self.now, lambda: AT
        )
        self._number = 0

    def visit(
        self, body: bytes, path: str = "/api/chat", upstream: Upstream = OLLAMA
    ) -> ChatExchange:
        self._number += 1
        return self.attendant.visit(
            IncomingRequest(self._number, upstream, "POST", path, "", (), body, self.now)
        )

    def named(self) -> list[str]:
        """The kinds of the events, in their order."""
        return [type(event).__name__ for event in self.events]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """On an event loop of its own."""
    return asyncio.run(work)


def text_of(reply: object) -> str:
    """What an assistant's answer says, streamed or not, in any protocol."""
    assert isinstance(reply, Reply)
    said = ""
    for raw in reply.content.decode().splitlines():
        line = raw.removeprefix("data: ")
        if line and line != "[DONE]":
            said += _said_in(json.loads(line))
    return said


def _said_in(piece: Any) -> str:
    match piece:
        case {"message": {"content": str(text)}} | {"response": str(text)} | {"error": str(text)}:
            return text
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"choices": [{"message": {"content": str(text)}}]} | {
            "choices": [{"text": str(text)}]
        }:
            return text
    return ""
