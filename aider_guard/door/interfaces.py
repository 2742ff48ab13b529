"""The values and services that the parts of the door share.

The transport (app, forwarding, upstream) carries bytes, holds connections and knows no model. The chat handler knows
what the bytes mean and does no HTTP. Everything runs on the door's one event loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.request import PREFIX, ChatRequest
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence

if TYPE_CHECKING:
    from aider_guard.door.reading import ReadingWatch

Outcome = Literal["answered", "cancelled", "broken", "replied"]
"""How a request ended: with the upstream's answer, because Aider closed its connection, with a cut connection, or by
a ``Reply``.
"""


@dataclass(frozen=True)
class IncomingRequest:
    """A request of Aider's for text, complete with its body.

    ``path`` is as the upstream understands it (``/api/chat``): behind its base, and with percent codes undone.
    """

    number: int
    upstream: Upstream
    path: str
    body: bytes = field(repr=False)
    received_at: float
    """Monotonic seconds."""


@dataclass(frozen=True)
class RequestTarget:
    """Where a request goes: its server, that server's version, and the window in which the request is evaluated.

    ``loaded_tokens`` is the window with which its model is loaded there, as last read.
    """

    upstream: Upstream
    version: str | Unavailable
    window_tokens: int | Unavailable
    loaded_tokens: int | Unavailable


@dataclass(frozen=True)
class Forward:
    """Send this body to the upstream."""

    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """Answer with this content, without the upstream. In an answer that has begun only ``content`` is used."""

    content: bytes = field(repr=False)
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True)
class Retry:
    """Try again after some seconds: to send the request, or to begin with it.

    ``meanwhile`` is sent to Aider at once if it is not empty, which begins an answer with status 200 of
    ``content_type``.
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


def error_reply(words: str, status: int, path: str = "/api/") -> Reply:
    """Return an error in the form of the path's protocol: Ollama's (api/types.go, StatusError) or OpenAI's."""
    message: object = f"{PREFIX}{words}"
    if not path.startswith("/api/"):
        message = {"message": message, "type": "api_error", "param": None, "code": None}
    return Reply(json.dumps({"error": message}).encode("ascii"), status)


# The services of the chat handler, each in a module of its own and used on the door's event loop.


class PromptCounter(Protocol):
    """Counts prompts before they are sent."""

    def serve(self, settings: DoorSettings) -> None:
        """Begin to learn the vocabularies of these models, in the background. Called again when they change."""

    def wake(self) -> None:
        """Get ready to count: a prompt is being typed."""

    async def count(
        self, request: ChatRequest, target: RequestTarget | None = None
    ) -> Count | Unavailable:
        """Count the tokens of the whole prompt, template included; Unavailable within 2 s when it cannot be counted.

        Its server is asked where ``target`` says that it may be.
        """

    async def count_texts(
        self, model: str, texts: Sequence[str], target: RequestTarget | None = None
    ) -> tuple[int, ...] | Unavailable:
        """Count the tokens of single texts, in the same way and without any template."""

    def fits(self, request: ChatRequest, room_tokens: int) -> bool:
        """Return whether a prompt certainly has no more tokens than that, without counting it now."""

    def guess(self, request: ChatRequest) -> Count:
        """Estimate the size of a prompt that could not be counted in time, with its error."""

    def learn(self, request: ChatRequest, counted: Count | Unavailable, prompt_tokens: int) -> None:
        """Learn from the number of tokens that the server evaluated of a prompt that it saw whole."""


class LogWatch(Protocol):
    """Reads Ollama's log beside the traffic."""

    def serve(self, settings: DoorSettings) -> None:
        """Find the log of this server and follow it."""

    def mark(self) -> int:
        """Return the place in the log now."""

    async def since(self, mark: int) -> LogEvidence | Unavailable:
        """Return what the log says since that place; waits a moment for lines on their way.

        Unavailable: the log is not read.
        """


class Residency(Protocol):
    """Knows which models are in memory because of this session, keeps them there, and loads them ahead."""

    def serve(self, settings: DoorSettings) -> None:
        """Take the session's models and their pin."""

    def warm(self, session_models: Sequence[str] = ()) -> None:
        """Load the main model ahead, and evaluate the head of the last request ahead; in the background.

        ``session_models`` count as this session's own, whichever program loaded them.
        """

    async def wait_for_load(self, request: ChatRequest, upstream: Upstream) -> bool:
        """Wait until a request's model is loaded that is being loaded ahead; return whether that was so."""

    async def on_request_start(self, request: ChatRequest, upstream: Upstream) -> None:
        """Make way for a request: cancel what is evaluated ahead, and wait until its connection is closed."""

    def on_request_end(
        self, request: ChatRequest, upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        """Remember the head of a finished request (in memory only), and report a reload with its cause."""

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last read."""

    def loaded_window(self, model: str) -> int | Unavailable:
        """Return the window that Ollama has loaded for a model, as last read."""


class InstalledModels(Protocol):
    """Knows what each Ollama has installed (``/api/tags``), as last read."""

    def serve(self, settings: DoorSettings) -> None:
        """Read the list now and from time to time, in the background."""

    async def host_of(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Return the host that runs a model: "" for the server itself, None for a model that is not installed.

        What is known is returned at once; else the server is asked, in bounded time. Of a server that is no Ollama it
        is "" unless it passes the model's requests on.
        """

    async def host_now(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Return the same as the server says now, whatever is known. Of a server that is no Ollama it is None."""

    async def reread(self, upstream: Upstream) -> None:
        """Read an Ollama's list now, in bounded time: a model that was on it is gone."""

    def similar_names(self, upstream: Upstream, model: str) -> tuple[str, ...]:
        """Return installed models of a similar name, nearest first; none when nothing is known."""

    def never_truncates(self, upstream: Upstream, model: str) -> bool:
        """Return whether a model is known to be run by MLX, which refuses long prompts (x/mlxrunner/pipeline.go)."""


class ModelInfo(Protocol):
    """Knows the version of Ollama, the context that each model was trained for, and which can think."""

    def serve(self, settings: DoorSettings) -> None:
        """Begin to ask about these models, in the background."""

    async def learn(self, model: str, *, version: bool) -> None:
        """Ask about a model, and for the server's version, unless it is known; within a second, answered or not."""

    def trained(self, model: str) -> int | Unavailable:
        """Return the longest context that a model was trained for, in tokens."""

    def thinks(self, model: str) -> bool:
        """Return whether a model can think before it answers; False where that is not known."""

    def goes_back(self, model: str) -> bool:
        """Return whether a model's cache can be cut back to a common beginning; True where that is not known."""

    def even_tokens(self, model: str) -> float | Unavailable:
        """Return behind how many tokens a model's attention takes as long as its weights."""

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as ``learn`` read it last."""


@dataclass(frozen=True)
class ModelLoading:
    """A request waits: its model is being loaded, or its server answers another one. ``words`` say which."""

    words: str


class OtherModels(Protocol):
    """Knows the models of servers with OpenAI's protocol, and has them loaded before their prompts are judged."""

    def serve(self, settings: DoorSettings) -> None:
        """Take the session's models, and have the main one loaded ahead, in the background."""

    async def describe(self, upstream: Upstream, model: str) -> OtherModel | None:
        """Return what a model's server tells of it now; None where it tells nothing within a second."""

    async def prepare(
        self, number: int, request: ChatRequest, upstream: Upstream
    ) -> ModelLoading | Failure | None:
        """Have a request's model loaded where its server does that on request.

        None means that the request may be judged and sent; else it is to be asked again in a moment, until that or a
        failure of the server comes. ``number`` is the request's own; ``end`` must be called for it.
        """

    def end(self, number: int) -> None:
        """Note that a request is over, answered or not."""

    def known(self, upstream: Upstream, model: str) -> OtherModel | None:
        """Return what the server told of a model last; None where it told nothing."""

    def window(self, request: ChatRequest, upstream: Upstream) -> int | Unavailable:
        """Return the window of a request's model, as its server told it last."""


@dataclass(frozen=True)
class Services:
    """The services that a chat handler works with."""

    counter: PromptCounter
    log_watch: LogWatch
    residency: Residency
    installed: InstalledModels
    model_info: ModelInfo
    others: OtherModels
    readings: ReadingWatch
