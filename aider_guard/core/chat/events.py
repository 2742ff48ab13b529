"""Events that the door reports. They hold no text of a prompt or an answer; the journal leaves out names of files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aider_guard.core.chat.types import CountedBy, Purpose, RoleName, Verdict
from aider_guard.core.readings import ContextRow, Unavailable

NOT_TOLD = Unavailable("the server did not tell")

PartedAt = Literal[
    "message",
    "instructions",
    "map",
    "history_grew",
    "history_changed",
    "file_edited",
    "files_changed",
]
"""Where a prompt differs first from the one before. ``history_grew``: the conversation goes on where files stood."""
RereadCause = PartedAt | Literal["no_checkpoint", "own_request", "other_program"]
"""Why much of a prompt was read again: from where it differs on, or because the server had not kept what is alike."""

BrokeOff = Literal["", "no_end", "repetition", "error"]
"""Why an answer is not whole that Aider takes as whole: it has no end, and before that the model repeated itself, or
the server failed in words that Aider does not read. "" where it is whole, or Aider asks for it again.
"""

Reason = Literal[
    "overflow",
    "cloud",
    "down",
    "missing",
    "memory",
    "unsupported",
    "crashed",
    "lost",
    "busy",
    "strange",
    "proxy",
    "refused",
    "forbidden",
]


@dataclass(frozen=True)
class DoorOpened:
    """The door accepts requests."""

    port: int


@dataclass(frozen=True)
class RequestStarted:
    """A request for text was sent to a model. ``server`` is the kind of its server."""

    number: int
    role: RoleName
    purpose: Purpose
    model: str
    server: Literal["ollama", "openai"] = "ollama"


@dataclass(frozen=True)
class RequestFinished:
    """A request for text that reached the model is over.

    ``prompt_tokens`` and ``answer_tokens`` are the server's own numbers, and so is ``cached_tokens``: how many of the
    prompt's it knew already and did not read. ``counted_tokens`` is the door's count before the answer, made as
    ``counted_by`` says. ``window_tokens`` is the window in the request (the pin), or the one that the server is known
    to have loaded. Seconds are the server's own, but for ``first_byte_seconds``, from the request to the first byte of
    the answer. ``left_out`` is how many of the user's messages were left out: the door had refused them before, and the
    prompt does not fit with them. ``parts`` are the parts of the prompt, in tokens that sum up to about
    ``counted_tokens``.
    """

    number: int
    role: RoleName
    purpose: Purpose
    model: str
    outcome: Literal["answered", "cancelled", "broken"]
    verdict: Verdict
    window_tokens: int | Unavailable = NOT_TOLD
    prompt_tokens: int | Unavailable = NOT_TOLD
    answer_tokens: int | Unavailable = NOT_TOLD
    counted_tokens: int | Unavailable = NOT_TOLD
    counted_exactly: bool = False
    error_percent: float = 0.0
    counted_by: CountedBy = field(default="", kw_only=True)
    load_seconds: float | Unavailable = NOT_TOLD
    prefill_seconds: float | Unavailable = NOT_TOLD
    generation_seconds: float | Unavailable = NOT_TOLD
    first_byte_seconds: float | Unavailable = NOT_TOLD
    done_reason: str = ""
    left_out: int = 0
    cached_tokens: int | Unavailable = field(default=NOT_TOLD, kw_only=True)
    broke_off: BrokeOff = field(default="", kw_only=True)
    parts: tuple[ContextRow, ...] = field(default=(), metadata={"journal": False})

    @property
    def read_tokens(self) -> int | Unavailable:
        """How much of the prompt was read, and not known already."""
        prompt, cached = self.prompt_tokens, self.cached_tokens
        if isinstance(prompt, Unavailable) or isinstance(cached, Unavailable):
            return NOT_TOLD
        return max(0, prompt - cached)

    @property
    def known_sizes(self) -> list[int]:
        """The sizes of the prompt in tokens, as evaluated and as counted, as far as they are known."""
        return [n for n in (self.prompt_tokens, self.counted_tokens) if isinstance(n, int)]


@dataclass(frozen=True)
class RequestRefused:
    """The door answered a request itself. ``over_tokens`` is by how much it was too large, ``said`` the answer.

    ``number`` is 0 for a request of another kind than for text; ``model`` is then the model it named, or its path.
    """

    number: int
    role: RoleName
    purpose: Purpose
    model: str
    reason: Reason
    counted_tokens: int | Unavailable = NOT_TOLD
    over_tokens: int = 0
    window_tokens: int | Unavailable = NOT_TOLD
    counted_by: CountedBy = field(default="", kw_only=True)
    said: tuple[str, ...] = field(default=(), metadata={"journal": False})


@dataclass(frozen=True)
class ModelWarmed:
    """A model was loaded ahead of the next request (``load``), or the head of the last prompt evaluated (``head``).

    ``problem`` says why that failed; ``tokens`` is how much of a prompt was evaluated.
    """

    model: str
    kind: Literal["load", "head"]
    seconds: float = 0.0
    tokens: int = 0
    problem: str = ""


@dataclass(frozen=True)
class PromptReadAhead:
    """The prompt that is expected next was evaluated while the user reads and types.

    ``tokens`` is how much of it is in the server's cache now, ``cached_tokens`` how much of that was expected to be
    there before, ``seconds`` how long the rest took; ``problem`` says why it is not all of it.
    """

    model: str
    tokens: int = 0
    seconds: float = 0.0
    problem: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True)
class NextPromptCompared:
    """The request of a message was compared with the prompt that was expected.

    It began with ``matched_percent`` of that, and they part in ``parted_in``, a part of the request ("" where it began
    with all of it); ``read_tokens`` is how much had been evaluated.
    """

    model: str
    read_tokens: int
    matched_percent: int
    parted_in: str = ""


@dataclass(frozen=True)
class NextPromptUnknown:
    """Aider could not tell its next prompt; until it does, only the head of the last one is evaluated, when loaded."""

    reason: str


@dataclass(frozen=True)
class ReloadSeen:
    """A request had to wait until its model was loaded again; ``cause`` is in the user's words."""

    model: str
    load_seconds: float
    cause: str


@dataclass(frozen=True)
class ReadingEstimated:
    """A long prompt is being read: how far that is, and how long the rest will take.

    ``cached_tokens`` of ``prompt_tokens`` were known to the server, ``read_tokens`` are read by now. ``known_by`` is
    whether the model's process told that (``slots``), or it follows from earlier prompts (``pace``).
    """

    number: int
    model: str
    prompt_tokens: int
    cached_tokens: int
    read_tokens: int
    seconds_left: float
    known_by: Literal["slots", "pace"]

    @property
    def percent(self) -> float:
        """How much of what is to be read is read, in per cent."""
        unread = max(1, self.prompt_tokens - self.cached_tokens)
        return min(100.0, 100 * self.read_tokens / unread)


@dataclass(frozen=True)
class ReadingFinished:
    """The answer to a long prompt began, or the request ended.

    ``estimated_seconds`` is what was estimated first for the whole of the reading, ``seconds`` what it took.
    """

    number: int
    model: str
    seconds: float
    estimated_seconds: float


@dataclass(frozen=True)
class PromptReread:
    """A model read much of a prompt again that it had read before, and why.

    ``common_tokens`` is how long the prompt begins as the one before, exactly so or by the share of its text.
    """

    number: int
    model: str
    cause: RereadCause
    prompt_tokens: int
    read_tokens: int
    common_tokens: int
    is_exact: bool
    seconds: float | Unavailable = NOT_TOLD
