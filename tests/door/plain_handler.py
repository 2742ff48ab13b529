"""A handler that changes nothing, and records the requests and how each ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aider_guard.core.chat.types import Upstream
from aider_guard.door.chat_handler import ChatExchange, ChatHandler
from aider_guard.door.interfaces import (
    Abort,
    Forward,
    IncomingRequest,
    Outcome,
    Pass,
    Reply,
    Retry,
    Trouble,
)

HANDLED = ("/api/chat", "/api/generate", "/v1/chat/completions", "/chat/completions")


@dataclass
class PlainExchange(ChatExchange):
    """Forwards everything; tests override single methods."""

    incoming: IncomingRequest
    ended: Callable[[Outcome], None] = lambda _outcome: None

    async def begin(self) -> Forward | Reply:
        return Forward(self.incoming.body)

    async def on_trouble(self, trouble: Trouble) -> Reply | Retry:
        return Reply(f"{trouble.kind}: {trouble.words}".encode(), 502, "text/plain")

    async def on_refusal(
        self,
        status: int,  # noqa: ARG002  # as in ChatExchange
        content: bytes,  # noqa: ARG002
        location: str = "",  # noqa: ARG002
    ) -> Reply | Retry | Pass:
        return Pass()

    def on_chunk(self, chunk: bytes) -> bytes | Reply:
        return chunk

    def remainder(self) -> bytes:
        return b""

    def on_broken(self, trouble: Trouble) -> Reply | Abort:  # noqa: ARG002  # as above
        return Abort()

    async def end(self, outcome: Outcome) -> None:
        self.ended(outcome)


@dataclass
class PlainHandler(ChatHandler):
    """Makes exchanges by ``make_exchange``; ``refuse`` decides about requests that are not for text."""

    make_exchange: Callable[[IncomingRequest, Callable[[Outcome], None]], PlainExchange] = (
        PlainExchange
    )
    refuse: Callable[[str, bytes | None], Reply | None] = lambda _path, _body: None
    handled: tuple[str, ...] = HANDLED
    received: list[IncomingRequest] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def handles(self, upstream: Upstream, method: str, path: str) -> bool:  # noqa: ARG002  # as in ChatHandler
        return method == "POST" and path in self.handled

    def open_exchange(self, incoming: IncomingRequest) -> PlainExchange:
        self.received.append(incoming)
        return self.make_exchange(incoming, self.outcomes.append)

    async def refusal(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        del upstream, method
        return self.refuse(path, body)
