"""Events, which say what happened: one frozen dataclass each, named in the past tense. ``Event`` is their union.

Events of the child come from the recogniser (core/screen.py) and the side channels, the others from the sidecar and
the session. None carries the user's text or a file's content; the journal leaves out names of files (journal.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aider_guard.core.chat.events import (
    DoorOpened,
    ModelWarmed,
    NextPromptCompared,
    NextPromptUnknown,
    PromptReadAhead,
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    ReloadSeen,
    RequestFinished,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.egress import Attempt, Layer, Protocol
from aider_guard.core.findings import Finding
from aider_guard.core.fit import Need
from aider_guard.core.printable import printable
from aider_guard.core.readings import ContextReading, MemoryReading, ModelsReading, Unavailable
from aider_guard.core.server_report import ServerReport

# From the sidecar; those of its door are in core/chat/events.py.


@dataclass(frozen=True)
class SidecarStarted:
    """The sidecar runs."""

    pid: int
    version: str


@dataclass(frozen=True)
class SidecarLost:
    """The sidecar died or fell silent; every reading is unavailable until the next one runs."""

    reason: str


@dataclass(frozen=True)
class ServerRead:
    """Ollama's version was read, or why it did not answer."""

    version: str | Unavailable


@dataclass(frozen=True)
class ModelsRead:
    """The list of loaded models was read from Ollama, or why not."""

    reading: ModelsReading | Unavailable


@dataclass(frozen=True)
class MemoryRead:
    """The memory of the GPUs and of the machine was read."""

    reading: MemoryReading


@dataclass(frozen=True)
class ServerSurveyed:
    """Ollama described itself and the models of a ``SurveyServer``."""

    report: ServerReport


@dataclass(frozen=True)
class FilesCounted:
    """The sizes of files in the chat were estimated, in cl100k tokens, as they are on disk now."""

    tokens: dict[str, int | Unavailable] = field(metadata={"journal": False})


@dataclass(frozen=True)
class TextsCounted:
    """The sizes of the texts of ``request`` were estimated, in cl100k tokens and in their order."""

    request: int
    tokens: tuple[int, ...] | Unavailable


@dataclass(frozen=True)
class ModelsUnloaded:
    """Ollama no longer lists these models, and the memory had time to come back.

    ``freed_bytes`` is the difference of two measurements of the GPU (of Ollama's own processes when the model
    was on the CPU); it is unavailable when either measurement failed.
    """

    names: tuple[str, ...]
    freed_bytes: int | Unavailable
    seconds: float
    problem: str = ""


SidecarEvent = (
    SidecarStarted
    | ServerRead
    | ModelsRead
    | MemoryRead
    | ServerSurveyed
    | FilesCounted
    | TextsCounted
    | ModelsUnloaded
    | DoorOpened
    | RequestStarted
    | RequestFinished
    | RequestRefused
    | ModelWarmed
    | PromptReadAhead
    | NextPromptCompared
    | NextPromptUnknown
    | ReloadSeen
    | ReadingEstimated
    | ReadingFinished
    | PromptReread
)
"""What only the sidecar reports: each of these shows that it is alive, and may come over its pipe."""


# From the air gap

MOST_CHARACTERS = 253
"""The longest name or path of an attempt that is kept: a host's name has no more (RFC 1035)."""


def shown(text: str) -> str:
    """Return a text of an attempt as it may be shown and written: a program can put anything into it."""
    return printable(text)[:MOST_CHARACTERS]


@dataclass(frozen=True)
class AirGapChosen:
    """The layer that confines Aider was chosen. ``because`` says why no better one, as in ``LayerChoice``."""

    layer: Layer
    because: str = ""


@dataclass(frozen=True)
class EgressBlocked:
    """A program in the air gap tried to reach something else than the door, ``count`` times more.

    The facts are those of ``Attempt``. With the layer ``asked`` the proxy refused it, with the protocol ``http`` the
    door did: neither is a block by the kernel.
    """

    host: str
    port: int
    protocol: Protocol
    program: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        """Keep only characters that may be shown."""
        object.__setattr__(self, "host", shown(self.host))
        object.__setattr__(self, "program", shown(self.program))

    @classmethod
    def of(cls, attempt: Attempt) -> EgressBlocked | EgressAllowed:
        """Return the event of an attempt, or of what the user lets through."""
        if attempt.is_allowed:
            return EgressAllowed(attempt.host, attempt.port, attempt.count)
        return cls(
            attempt.host, attempt.port, attempt.protocol, attempt.program, count=attempt.count
        )


@dataclass(frozen=True)
class EgressAllowed:
    """A place that the user allows was reached, ``count`` times more; the path of a socket has the port 0."""

    host: str
    port: int
    count: int = 1


EgressEvent = AirGapChosen | EgressBlocked | EgressAllowed


# From the child


@dataclass(frozen=True)
class AiderStarted:
    """Aider's process runs; ``launch`` counts from 1."""

    launch: int
    pid: int


@dataclass(frozen=True)
class ModelsChosen:
    """Aider named its models, main model first, by Ollama's names; models of other servers are left out.

    ``window_tokens`` is the window that the session pinned for the main model.
    """

    main: str
    models: tuple[str, ...]
    window_tokens: int | Unavailable
    root: str = field(default="", metadata={"journal": False})
    """The folder that the names of files in the chat are relative to."""
    needs: tuple[Need, ...] = ()
    """The GPU memory that each model was computed to need; empty where that is not known."""
    plain_input: bool = False
    """Whether Aider reads lines without prompt_toolkit, so that nothing can be typed for the user."""
    map_follows_words: bool = False
    """Whether Aider chooses the repository map by the words of each message, and the user did not ask for that."""


@dataclass(frozen=True)
class LaunchForbidden:
    """The checks before the first prompt found a reason not to start Aider.

    ``leaks`` is whether code would leave the machine, which the user may allow.
    """

    findings: tuple[Finding, ...]
    leaks: bool = False


@dataclass(frozen=True)
class PromptShown:
    """Aider waits for the user at its main prompt.

    ``mode`` is the chat mode the prompt names ("" when it names none), ``empty`` whether its line holds no text
    (a placeholder fills it), ``files`` the lines above it that name the files in the chat, as drawn.
    """

    mode: str = ""
    multiline: bool = False
    empty: bool = True
    files: tuple[str, ...] = field(default=(), metadata={"journal": False})


@dataclass(frozen=True)
class ConfirmShown:
    """Aider asks a question whose default is Yes: nothing may be typed for the user."""


@dataclass(frozen=True)
class ContinuationShown:
    """Another prompt is shown: the next line of a ``{`` block, or the prompt of a program that the user runs."""


@dataclass(frozen=True)
class PromptRedrawn:
    """The open main prompt was drawn again (a resize, a return from the background): still the same prompt."""

    empty: bool = True


@dataclass(frozen=True)
class PromptClosed:
    """The prompt was answered or given up: Aider is busy."""


@dataclass(frozen=True)
class KeyTyped:
    """The user's first byte since the prompt was shown; the terminal's answers to queries are no keys."""


@dataclass(frozen=True)
class PromptSettled:
    """The main prompt has an empty line, no key came since it was shown, and Aider was silent for a moment."""


@dataclass(frozen=True)
class TurnStarted:
    """A message is on its way to the model."""


@dataclass(frozen=True)
class AiderLogged:
    """What Aider wrote beside the screen since the last main prompt, read when the next one was shown.

    ``requests`` is how many it sent to a model; ``sent_tokens`` and ``received_tokens`` are its estimate for the last
    one, ``mentioned`` the files of the chat that were talked of.
    """

    requests: int
    sent_tokens: int | Unavailable
    received_tokens: int | Unavailable
    mentioned: tuple[str, ...] = field(default=(), metadata={"journal": False})


@dataclass(frozen=True)
class TurnFinished:
    """A message went to the model and the main prompt is back.

    ``sent_tokens`` and ``received_tokens`` are Aider's estimate for its last request; the other numbers were measured
    at the door and are sums over the turn's requests. ``cached_tokens`` of the prompts were known to the server, and
    ``read_tokens`` were read: of those requests of which the server told.
    """

    requests: int
    sent_tokens: int | Unavailable = Unavailable("not reported")
    received_tokens: int | Unavailable = Unavailable("not reported")
    mentioned: tuple[str, ...] = field(default=(), metadata={"journal": False})
    prompt_tokens: int | Unavailable = Unavailable("not measured")
    answer_tokens: int | Unavailable = Unavailable("not measured")
    load_seconds: float | Unavailable = Unavailable("not measured")
    prefill_seconds: float | Unavailable = Unavailable("not measured")
    generation_seconds: float | Unavailable = Unavailable("not measured")
    cached_tokens: int | Unavailable = Unavailable("not measured")
    read_tokens: int | Unavailable = Unavailable("not measured")


@dataclass(frozen=True)
class AiderExited:
    """Aider ended. ``status`` is its exit status, or minus the signal that killed it."""

    status: int


@dataclass(frozen=True)
class StandbyReady:
    """The Aider that was started ahead has loaded its code, and waits. ``memory_bytes`` is what it holds resident."""

    pid: int
    memory_bytes: int | Unavailable


@dataclass(frozen=True)
class StandbyLost:
    """The Aider that was started ahead ended, or could not be started."""

    reason: str


@dataclass(frozen=True)
class AiderRetired:
    """Aider was taken off the terminal; it was told to end, and the next one may begin."""


@dataclass(frozen=True)
class RetiredExited:
    """The Aider that was retired ended, with a status as in ``AiderExited``."""

    status: int


# Answers to actions


@dataclass(frozen=True)
class ContextRead:
    """A hidden ``/tokens`` ended."""

    reading: ContextReading | Unavailable
    dropped: tuple[str, ...] = field(default=(), metadata={"journal": False})
    """Files that Aider could not read, and took out of the chat."""


@dataclass(frozen=True)
class ChatSaved:
    """A hidden ``/save`` ended: the files in the chat are known, or why they are not."""

    editable: tuple[str, ...] = field(default=(), metadata={"journal": False})
    read_only: tuple[str, ...] = field(default=(), metadata={"journal": False})
    problem: str = ""


@dataclass(frozen=True)
class CommandNotTyped:
    """``/tokens``, ``/save`` or ``/exit`` was not given to Aider.

    The line was not empty, Aider did not draw it, or a file that it needs (``RunHidden``) is missing. What was typed of
    it is taken back, and never followed by Enter.
    """

    command: Literal["tokens", "save", "exit"]


@dataclass(frozen=True)
class ExchangesCarried:
    """The next Aider was given so many of the last exchanges."""

    exchanges: int


@dataclass(frozen=True)
class NoticeShown:
    """A notice reached the screen."""

    notice: str


@dataclass(frozen=True)
class OfferAnswered:
    """The user answered whether to start Aider, which died, again."""

    accepted: bool


# From outside


@dataclass(frozen=True)
class RestartRequested:
    """The user ran ``aider-guard restart`` in another pane."""


@dataclass(frozen=True)
class JobContinued:
    """The shell continued the session, which Ctrl-Z had stopped for so many seconds."""

    stopped_seconds: float


@dataclass(frozen=True)
class TerminationRequested:
    """The guard got SIGTERM or SIGHUP, or its terminal went away."""

    signal_number: int


@dataclass(frozen=True)
class DeadlinePassed:
    """The instant of a ``SetDeadline`` has come."""

    name: str


Event = (
    AiderStarted
    | ModelsChosen
    | Finding
    | LaunchForbidden
    | PromptShown
    | ConfirmShown
    | ContinuationShown
    | PromptRedrawn
    | PromptClosed
    | KeyTyped
    | PromptSettled
    | TurnStarted
    | AiderLogged
    | TurnFinished
    | AiderExited
    | StandbyReady
    | StandbyLost
    | AiderRetired
    | RetiredExited
    | ContextRead
    | ChatSaved
    | CommandNotTyped
    | ExchangesCarried
    | NoticeShown
    | OfferAnswered
    | SidecarEvent
    | SidecarLost
    | EgressEvent
    | RestartRequested
    | JobContinued
    | TerminationRequested
    | DeadlinePassed
)
