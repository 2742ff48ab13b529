"""Between the way through (transport) and what is made of a request (attendant): values and one protocol.

The transport carries bytes, holds connections and knows no model; the attendant knows what the bytes mean and does no
I/O of HTTP's. Everything runs on the door's one event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence

Headers = tuple[tuple[str, str], ...]
Outcome = Literal["answered", "cancelled", "broken", "replied"]
"""How a request ended: with the upstream's answer, because Aider went, with a cut connection, or by a ``Reply``."""


@dataclass(frozen=True)
class IncomingRequest:
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


# What an attendant works with, each in a module of its own and used on the door's event loop.


class PromptCounter(Protocol):
    """Counts prompts before they are sent."""

    def serve(self, settings: DoorSettings) -> None:
        """Begin to learn the vocabularies of these models, in the background. Called again when they change."""

    def wake(self) -> None:
        """Get ready to count: a prompt is being typed."""

    async def count(self, asked: ChatRequest) -> Count | Unavailable:
        """The tokens of the whole prompt, template included; Unavailable within 2 s when it cannot be counted."""

    async def count_texts(self, model: str, texts: Sequence[str]) -> tuple[int, ...] | Unavailable:
        """The tokens of single texts, by the same way of counting, without any template."""

    def fits(self, asked: ChatRequest, room_tokens: int) -> bool:
        """Whether a prompt certainly has no more tokens than that, without counting it now."""

    def guess(self, asked: ChatRequest) -> Count:
        """The size of a prompt that could not be counted in time, with its error."""

    def measured(
        self, asked: ChatRequest, counted: Count | Unavailable, prompt_tokens: int
    ) -> None:
        """Learn from what the server evaluated of a prompt that it saw whole."""


class LogWatch(Protocol):
    """Reads Ollama's log beside the traffic."""

    def serve(self, settings: DoorSettings) -> None:
        """Find the log of this server and follow it."""

    def mark(self) -> int:
        """The place in the log now."""

    async def since(self, mark: int) -> LogEvidence | Unavailable:
        """What the log says since that place; waits a moment for lines on their way. Unavailable: it is not read."""


class Residency(Protocol):
    """Knows which models are in memory because of this session, keeps them there, and warms them."""

    def serve(self, settings: DoorSettings) -> None:
        """These are the session's models and their pin."""

    def warm(self, ours: Sequence[str] = ()) -> None:
        """Load the main model ahead, and evaluate the head of the last request ahead; in the background.

        ``ours`` are models of this session, too, whoever loaded them.
        """

    async def begins(self, asked: ChatRequest, upstream: Upstream) -> None:
        """A real request comes: drop whatever is evaluated ahead, and wait until the server was told."""

    def ended(
        self, asked: ChatRequest, upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        """A request is over: its head is remembered (in memory only), and a reload is told with its cause."""

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last read."""

    def loaded_window(self, model: str) -> int | Unavailable:
        """The window that Ollama has loaded for a model, as last read."""


class InstalledModels(Protocol):
    """Knows what each Ollama has installed (``/api/tags``), as last read."""

    def serve(self, settings: DoorSettings) -> None:
        """Read it, and again from time to time, in the background."""

    async def where(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Where a model really runs that may only have its name here: "" for here; None for one that is not installed.

        At once for what is known; else the server is asked, in bounded time. Of a server that is no Ollama it is "".
        """

    async def look(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """The same, as the server says now, whatever is known. Of a server that is no Ollama it is None."""

    def alike(self, upstream: Upstream, model: str) -> tuple[str, ...]:
        """Installed models of a similar name, nearest first; none when nothing is known."""

    def never_truncates(self, upstream: Upstream, model: str) -> bool:
        """Whether it is known to be run by MLX, which refuses what is too long (x/mlxrunner/pipeline.go)."""


class ModelInfo(Protocol):
    """Knows what Ollama tells of itself and of each model when it is asked."""

    def serve(self, settings: DoorSettings) -> None:
        """Begin to ask about these models, in the background."""

    async def learn(self, model: str, *, version: bool) -> None:
        """Ask about a model, and for the server's version, unless it is known; within a second, told or not."""

    def trained(self, model: str) -> int | Unavailable:
        """The longest context that a model was trained for."""

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as ``learn`` read it last."""


@dataclass(frozen=True)
class Services:
    """All that an attendant works with."""

    counts: PromptCounter
    witness: LogWatch
    residency: Residency
    shelf: InstalledModels
    facts: ModelInfo
