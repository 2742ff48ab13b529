"""An attendant that sees text go by and changes nothing, and remembers how each request ended."""

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

ATTENDED = ("/api/chat", "/api/generate", "/v1/chat/completions", "/chat/completions")


@dataclass
class PlainVisit(ChatExchange):
    """Forwards everything; tests override what they are about."""

    call: IncomingRequest
    ended: Callable[[Outcome], None] = lambda _outcome: None

    async def begin(self) -> Forward | Reply:
        return Forward(self.call.body)

    async def failed(self, trouble: Trouble) -> Reply | Retry:
        return Reply(f"{trouble.kind}: {trouble.words}".encode(), 502, "text/plain")

    async def refused(self, status: int, content: bytes) -> Reply | Retry | Pass:  # noqa: ARG002  # the protocol's
        return Pass()

    def passed(self, chunk: bytes) -> bytes | Reply:
        return chunk

    def rest(self) -> bytes:
        return b""

    def broke(self, trouble: Trouble) -> Reply | Abort:  # noqa: ARG002  # as above
        return Abort()

    async def end(self, outcome: Outcome) -> None:
        self.ended(outcome)


@dataclass
class PlainAttendant(ChatHandler):
    """``visits`` makes them; ``forbids`` is asked about what is not for text."""

    visits: Callable[[IncomingRequest, Callable[[Outcome], None]], PlainVisit] = PlainVisit
    forbids: Callable[[str, bytes | None], Reply | None] = lambda _path, _body: None
    attended: tuple[str, ...] = ATTENDED
    calls: list[IncomingRequest] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def attends(self, upstream: Upstream, method: str, path: str) -> bool:  # noqa: ARG002  # the protocol's
        return method == "POST" and path in self.attended

    def visit(self, call: IncomingRequest) -> PlainVisit:
        self.calls.append(call)
        return self.visits(call, self.outcomes.append)

    async def permits(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        del upstream, method
        return self.forbids(path, body)
