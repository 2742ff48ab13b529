"""A chat handler whose services give prepared answers, and exchanges without any HTTP."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from core.chat.aider_prompts import OLLAMA, settings

from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.events import RequestFinished
from aider_guard.core.chat.replies import Timestamp
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import Sizes
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.core.truncation import LogEvidence
from aider_guard.door.chat_handler import ChatExchange, ChatHandler
from aider_guard.door.interfaces import (
    Forward,
    IncomingRequest,
    ModelLoading,
    Reply,
    RequestTarget,
    Services,
)
from aider_guard.door.reading import ReadingWatch
from aider_guard.door.slots import Slot

if TYPE_CHECKING:
    from aider_guard.core.events import Event

Kind = TypeVar("Kind")
Result = TypeVar("Result")
AT = Timestamp("2026-01-02T03:04:05Z", 1767323045)


@dataclass
class FixedCounter:
    """Counts characters, exactly, or returns ``result``."""

    result: Count | Unavailable | None = None
    later: Count | None = None
    """What it returns from the second time on."""
    gate: asyncio.Event | None = None
    """Until it is set, no count is ready."""
    waiting: asyncio.Event | None = None
    """Set when a count waits at the gate."""
    seen: list[ChatRequest] = field(default_factory=list)
    """The requests that it was asked about."""
    counted: int = 0
    cancelled: int = 0
    learned: list[tuple[Count | Unavailable, int]] = field(default_factory=list)
    sizes: Sizes = field(default_factory=Sizes)

    def serve(self, _settings: DoorSettings) -> None:
        """Do nothing."""

    def wake(self) -> None:
        """Do nothing."""

    async def count(
        self, request: ChatRequest, _target: RequestTarget | None = None
    ) -> Count | Unavailable:
        try:
            if self.waiting is not None:
                self.waiting.set()
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.counted += 1
        if self.later is not None and self.counted > 1:
            return self.later
        size = sum(len(message.content) for message in request.messages)
        return Count(size, exact=True) if self.result is None else self.result

    def fits(self, request: ChatRequest, room_tokens: int) -> bool:
        self.seen.append(request)
        return self.sizes.fits(request, room_tokens)

    def guess(self, request: ChatRequest) -> Count:
        return self.sizes.guess(request)

    async def count_texts(
        self, _model: str, texts: Sequence[str], _target: RequestTarget | None = None
    ) -> tuple[int, ...] | Unavailable:
        return tuple(len(text) for text in texts)

    def learn(self, _asked: ChatRequest, counted: Count | Unavailable, prompt_tokens: int) -> None:
        self.learned.append((counted, prompt_tokens))


@dataclass
class FixedLogWatch:
    """Returns the evidence that it is given."""

    log: LogEvidence | Unavailable = Unavailable("the server's log is not read")
    marks: int = 0

    def serve(self, _settings: DoorSettings) -> None:
        """Do nothing."""

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    async def since(self, _mark: int) -> LogEvidence | Unavailable:
        return self.log


@dataclass
class RecordingResidency:
    """Records its calls."""

    version: str | Unavailable = "0.24.0"
    windows: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    loading: Callable[[], None] | None = None
    """What happens when the model that is being loaded is there."""

    def serve(self, _settings: DoorSettings) -> None:
        """Do nothing."""

    def warm(self, _ours: Sequence[str] = ()) -> None:
        self.calls.append("warm")

    async def wait_for_load(self, _request: ChatRequest, _upstream: Upstream) -> bool:
        if self.loading is None:
            return False
        self.calls.append("wait")
        self.loading()
        return True

    async def on_request_start(self, request: ChatRequest, _upstream: Upstream) -> None:
        self.calls.append(f"start {request.model}")

    def on_request_end(
        self, request: ChatRequest, _upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        seconds = "?" if isinstance(load_seconds, Unavailable) else f"{load_seconds:.1f}"
        self.calls.append(f"end {request.model} {seconds}")

    def loaded_window(self, model: str) -> int | Unavailable:
        return self.windows.get(model, Unavailable("not loaded"))


@dataclass
class FixedInstalled:
    """Knows the hosts that it is given; every other model runs here, but for those that are ``absent``."""

    remote: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    why_silent: Unavailable = Unavailable("connection refused")
    silent: bool = False
    """Whether the server does not answer."""
    lookups: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    mlx: tuple[str, ...] = ()

    def serve(self, _settings: DoorSettings) -> None:
        """Do nothing."""

    async def host_of(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        self.lookups.append(model)
        if upstream.kind != "ollama":
            return ""
        return await self.host_now(upstream, model)

    async def host_now(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        if upstream.kind != "ollama":
            return None
        if self.silent or isinstance(self.why_silent, NoAnswer):
            return self.why_silent
        return None if model in self.absent else self.remote.get(model, "")

    async def reread(self, _upstream: Upstream) -> None:
        self.names = tuple(name for name in self.names if name not in self.deleted)

    def similar_names(self, _upstream: Upstream, _model: str) -> tuple[str, ...]:
        return self.names

    def never_truncates(self, _upstream: Upstream, model: str) -> bool:
        return model in self.mlx


@dataclass
class FixedModelInfo:
    """Knows the facts that it is given, once ``learn`` was called for them."""

    contexts: dict[str, int] = field(default_factory=dict)
    thinking: set[str] = field(default_factory=set)
    sliding: set[str] = field(default_factory=set)
    known_version: str | Unavailable = Unavailable("Ollama was not asked")
    requests: list[tuple[str, bool]] = field(default_factory=list)

    def serve(self, _settings: DoorSettings) -> None:
        """Do nothing."""

    async def learn(self, model: str, *, version: bool) -> None:
        self.requests.append((model, version))

    def goes_back(self, model: str) -> bool:
        return model not in self.sliding

    def even_tokens(self, _model: str) -> float | Unavailable:
        return math.inf

    def thinks(self, model: str) -> bool:
        return model in self.thinking and any(model == name for name, _ in self.requests)

    def trained(self, model: str) -> int | Unavailable:
        is_known = model in self.contexts and any(model == name for name, _ in self.requests)
        return self.contexts[model] if is_known else Unavailable("it was not asked")

    @property
    def version(self) -> str | Unavailable:
        was_asked = any(version for _, version in self.requests)
        return self.known_version if was_asked else Unavailable("Ollama was not asked")


@dataclass
class FixedOthers:
    """Servers that have all models loaded, but for what ``steps`` says of the next requests."""

    steps: list[ModelLoading | Failure] = field(default_factory=list)
    model: OtherModel | None = None
    ended: list[int] = field(default_factory=list)

    def serve(self, _settings: DoorSettings) -> None:
        """It is told of every change."""

    async def describe(self, _upstream: Upstream, _model: str) -> OtherModel | None:
        return self.model

    async def prepare(
        self, _number: int, _request: ChatRequest, _upstream: Upstream
    ) -> ModelLoading | Failure | None:
        return self.steps.pop(0) if self.steps else None

    def end(self, number: int) -> None:
        self.ended.append(number)

    def known(self, _upstream: Upstream, _model: str) -> OtherModel | None:
        return self.model

    def window(self, _request: ChatRequest, _upstream: Upstream) -> int | Unavailable:
        return self.model.window_tokens if self.model else Unavailable("it was not asked")


@dataclass
class HandlerSetup:
    """A chat handler with all its services, and a clock that a test moves."""

    settings: DoorSettings = field(default_factory=settings)
    counter: FixedCounter = field(default_factory=FixedCounter)
    log_watch: FixedLogWatch = field(default_factory=FixedLogWatch)
    residency: RecordingResidency = field(default_factory=RecordingResidency)
    installed: FixedInstalled = field(default_factory=FixedInstalled)
    model_info: FixedModelInfo = field(default_factory=FixedModelInfo)
    others: FixedOthers = field(default_factory=FixedOthers)
    events: list[Event] = field(default_factory=list)
    now: float = 100.0
    slots: list[Slot | Unavailable] = field(default_factory=list)
    """What the process of the model shows, look for look; the last of it again and again."""
    passes: int = 0
    """How often something waited for time to pass, which then passed."""
    most_passes: int = 1000
    """Beyond that time stands still."""

    def __post_init__(self) -> None:
        self.readings = ReadingWatch(
            *(self._look, self.model_info.goes_back, self.model_info.even_tokens),
            clock=lambda: self.now,
            sleep=self._pass,
        )
        self.readings.serve(self.settings)
        services = Services(
            *(self.counter, self.log_watch, self.residency, self.installed, self.model_info),
            *(self.others, self.readings),
        )
        self.handler = ChatHandler(
            lambda: self.settings, services, self.events.append, lambda: self.now, lambda: AT
        )
        self._number = 0

    def _look(self, _base: str, _model: str) -> Slot | Unavailable:
        unseen = Unavailable("it is not seen")
        return self.slots.pop(0) if len(self.slots) > 1 else next(iter(self.slots), unseen)

    async def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.passes += 1
        if self.passes > self.most_passes:
            await asyncio.get_running_loop().create_future()

    def exchange(
        self, body: bytes, path: str = "/api/chat", upstream: Upstream = OLLAMA
    ) -> ChatExchange:
        self._number += 1
        return self.handler.open_exchange(
            IncomingRequest(self._number, upstream, path, body, self.now)
        )

    def answer(self, content: bytes, answer: bytes) -> tuple[Forward, RequestFinished]:
        """See a request through that is answered with these bytes; return what is sent, and its last event."""

        async def story() -> Forward:
            exchange = self.exchange(content)
            decision = await exchange.begin()
            assert isinstance(decision, Forward)
            exchange.on_chunk(answer)
            await exchange.end("answered")
            return decision

        return run(story()), self.last(RequestFinished)

    def last(self, kind: type[Kind]) -> Kind:
        """Return the last event, which is of this kind."""
        event = self.events[-1]
        assert isinstance(event, kind)
        return event

    def event_names(self) -> list[str]:
        """Return the names of the events' classes, in their order."""
        return [type(event).__name__ for event in self.events]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on an event loop of its own."""
    return asyncio.run(work)


def text_of(reply: object) -> str:
    """Return the text of an assistant's answer, streamed or not, in any protocol."""
    assert isinstance(reply, Reply)
    text = ""
    for raw in reply.content.decode().splitlines():
        line = raw.removeprefix("data: ")
        if line and line != "[DONE]":
            text += _text_in(json.loads(line))
    return text


def _text_in(piece: Any) -> str:
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
