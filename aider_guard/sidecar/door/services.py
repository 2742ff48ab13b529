"""What an attendant works with, each in a module of its own and used on the door's event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aider_guard.core.chat.request import Asked
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence

_NOT_ASKED = Unavailable("Ollama was not asked")


class Counts(Protocol):
    """Counts prompts before they are sent."""

    def serve(self, settings: DoorSettings) -> None:
        """Begin to learn the vocabularies of these models, in the background. Called again when they change."""

    async def count(self, asked: Asked) -> Count | Unavailable:
        """The tokens of the whole prompt, template included; Unavailable within 2 s when it cannot be counted."""

    async def count_texts(self, model: str, texts: Sequence[str]) -> tuple[int, ...] | Unavailable:
        """The tokens of single texts, by the same way of counting, without any template."""

    def fits(self, asked: Asked, room_tokens: int) -> bool:
        """Whether a prompt certainly has no more tokens than that, without counting it now."""

    def guess(self, asked: Asked) -> Count:
        """The size of a prompt that could not be counted in time, with its error."""

    def measured(self, asked: Asked, counted: Count | Unavailable, prompt_tokens: int) -> None:
        """Learn from what the server evaluated of a prompt that it saw whole."""


class Witness(Protocol):
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

    async def begins(self, asked: Asked, upstream: Upstream) -> None:
        """A real request comes: drop whatever is evaluated ahead, and wait until the server was told."""

    def ended(self, asked: Asked, upstream: Upstream, load_seconds: float | Unavailable) -> None:
        """A request is over: its head is remembered (in memory only), and a reload is told with its cause."""

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last read."""

    def loaded_window(self, model: str) -> int | Unavailable:
        """The window that Ollama has loaded for a model, as last read."""


class Shelf(Protocol):
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


class Facts(Protocol):
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
class NoFacts:
    """Where nobody asks."""

    version: str | Unavailable = _NOT_ASKED

    def serve(self, settings: DoorSettings) -> None:
        """Ask nothing."""

    async def learn(self, model: str, *, version: bool) -> None:
        """Ask nothing."""

    def trained(self, model: str) -> int | Unavailable:  # noqa: ARG002  # the protocol's
        """It is not known."""
        return _NOT_ASKED


@dataclass(frozen=True)
class NoShelf:
    """Where nobody reads what is installed."""

    def serve(self, settings: DoorSettings) -> None:
        """Read nothing."""

    async def where(self, upstream: Upstream, model: str) -> str | Unavailable | None:  # noqa: ARG002  # the protocol's
        """No model is known to run elsewhere."""
        return ""

    async def look(self, upstream: Upstream, model: str) -> str | Unavailable | None:  # noqa: ARG002  # the protocol's
        """None is known to be there."""
        return None

    def alike(self, upstream: Upstream, model: str) -> tuple[str, ...]:  # noqa: ARG002  # the protocol's
        """None is known."""
        return ()

    def never_truncates(self, upstream: Upstream, model: str) -> bool:  # noqa: ARG002  # the protocol's
        """No model is known to."""
        return False


@dataclass(frozen=True)
class Services:
    """All that an attendant works with."""

    counts: Counts
    witness: Witness
    residency: Residency
    shelf: Shelf = NoShelf()
    facts: Facts = NoFacts()
