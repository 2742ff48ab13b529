"""Between the way through (transport) and what is made of a request (attendant): values and one protocol.

The transport carries bytes, holds connections and knows no model; the attendant knows what the bytes mean and does no
I/O of HTTP's. Everything runs on the door's one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aider_guard.core.chat.types import DoorSettings, Upstream

Headers = tuple[tuple[str, str], ...]
Outcome = Literal["answered", "cancelled", "broken", "replied"]
"""How a request ended: with the upstream's answer, because Aider went, with a cut connection, or by a ``Reply``."""


@dataclass(frozen=True)
class Call:
    """A request of Aider's for text, complete with its body.

    ``path`` is as the upstream understands it (``/api/chat``): behind its base, and with percent codes undone.
    """

    number: int
    upstream: Upstream
    method: str
    path: str
    query: str
    headers: Headers
    body: bytes = field(repr=False)
    received_at: float
    """Monotonic seconds."""


@dataclass(frozen=True)
class Forward:
    """Send this body to the upstream."""

    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """Answer so, without the upstream. In an answer that has begun already only ``content`` is used."""

    content: bytes = field(repr=False)
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True)
class Retry:
    """Try the upstream again after this time, and meanwhile show that something happens: ``meanwhile`` is sent at
    once if it is not empty (that begins an answer with status 200 of ``content_type``).
    """

    after_seconds: float
    meanwhile: bytes = field(default=b"", repr=False)
    content_type: str = "application/x-ndjson"


@dataclass(frozen=True)
class Pass:
    """Hand the upstream's own answer on as it is."""


@dataclass(frozen=True)
class Abort:
    """Close the connection without an end of the answer: Aider takes it as broken and tries again."""


@dataclass(frozen=True)
class Trouble:
    """The upstream could not be reached, fell silent, or broke off. ``words`` are the system's."""

    kind: Literal["down", "silent", "broken"]
    words: str


class Visit(Protocol):
    """One request for text on its way. ``begin`` comes first, ``end`` last and always, once."""

    async def begin(self) -> Forward | Reply:
        """What to do with the request. It may take its time; cancelled when Aider gives up."""

    async def failed(self, trouble: Trouble) -> Reply | Retry:
        """The upstream could not be reached, or answered nothing."""

    async def refused(self, status: int, content: bytes) -> Reply | Retry | Pass:
        """The upstream answered with another status than 200. ``content`` is all of it, any coding undone.

        A redirect comes here, too; it is not handed on as it is: ``Pass`` makes it an error of the door's.
        """

    def passed(self, chunk: bytes) -> bytes | Reply:
        """A piece of the answer, as it came (after any transfer or content coding was undone): what Aider gets in
        its place, usually the same bytes. A ``Reply`` ends the answer with its content, and closes the upstream.
        """

    def rest(self) -> bytes:
        """The answer has come to its end: what Aider gets of it besides."""

    def broke(self, trouble: Trouble) -> Reply | Abort:
        """The answer broke off in the middle, with nothing or some of it passed."""

    async def end(self, outcome: Outcome) -> None:
        """Everything is sent, or Aider is gone (``cancelled``), or the answer was aborted. Must not raise."""


class Attendant(Protocol):
    """Whoever decides about requests for text."""

    def attends(self, upstream: Upstream, method: str, path: str) -> bool:
        """Whether a request of this kind is attended (its body is then read as a whole), or only passed on."""

    def visit(self, call: Call) -> Visit:
        """A new request for text."""

    async def permits(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        """The answer to a request that is not for text but must not be passed on (a question about a cloud model);
        None lets it pass. ``body`` is None where it is streamed: only small bodies are shown.
        """


@dataclass(frozen=True)
class Door:
    """What a door is served with: settings that may change while it serves, and who attends to its requests."""

    settings: Callable[[], DoorSettings]
    attendant: Attendant
