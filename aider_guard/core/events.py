"""What happened: one frozen dataclass an event, named in the past tense. ``Event`` is their union.

Those of the child come from the recogniser (core/screen.py) and the side channels, the rest from the sidecar and the
session. None carries the user's text or a file's content; names of files are left out of the journal (journal.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aider_guard.core.egress_events import EgressEvent
from aider_guard.core.findings import Finding
from aider_guard.core.fit import Need
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.sidecar_events import (
    FilesCounted,
    MemoryRead,
    ModelsRead,
    ModelsUnloaded,
    ServerRead,
    ServerSurveyed,
    SidecarLost,
    SidecarStarted,
    TextsCounted,
)
from aider_guard.core.traffic.events import (
    DoorOpened,
    ModelWarmed,
    ReloadSeen,
    RequestFinished,
    RequestRefused,
    RequestStarted,
)

# From the child


@dataclass(frozen=True)
class AiderStarted:
    """Aider's process runs; ``launch`` counts from 1."""

    launch: int
    pid: int


@dataclass(frozen=True)
class ModelsChosen:
    """Aider named the models it works with, main model first, as Ollama knows them; others are left out.

    ``window_tokens`` is what the session pinned for the main model.
    """

    main: str
    models: tuple[str, ...]
    window_tokens: int | Unavailable
    root: str = field(default="", metadata={"journal": False})
    """The folder that the names of files in the chat are relative to."""
    needs: tuple[Need, ...] = ()
    """What each model was computed to need in GPU memory; empty where that is not known."""


@dataclass(frozen=True)
class LaunchForbidden:
    """The checks before the first prompt found what forbids this launch; Aider has not begun. ``leaks`` is whether
    code would leave the machine, which is the user's to allow.
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
    """Another prompt that is neither: the next line of a ``{`` block, or a program of the user's."""


@dataclass(frozen=True)
class PromptRedrawn:
    """The open main prompt was drawn again (a resize, a return from the background): still the same prompt."""

    empty: bool = True


@dataclass(frozen=True)
class PromptClosed:
    """The prompt was answered or given up: Aider is busy."""


@dataclass(frozen=True)
class KeyTyped:
    """The first byte of the user's since the prompt was shown. Answers of the terminal to queries are no keys."""


@dataclass(frozen=True)
class PromptSettled:
    """The main prompt has an empty line, no key came since it was shown, and Aider was silent for a moment."""


@dataclass(frozen=True)
class TurnStarted:
    """A message is on its way to the model."""


@dataclass(frozen=True)
class TurnFinished:
    """A message went to the model and the main prompt is back.

    ``sent_tokens`` and ``received_tokens`` are Aider's estimate for its last request; the other numbers were measured
    at the door and are sums over the turn's requests.
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


@dataclass(frozen=True)
class AiderExited:
    """Aider ended. ``status`` is its exit status, or minus the signal that killed it."""

    status: int


# Answers to actions


@dataclass(frozen=True)
class ContextRead:
    """A hidden ``/tokens`` ended."""

    reading: ContextReading | Unavailable


@dataclass(frozen=True)
class ChatSaved:
    """A hidden ``/save`` ended: the files in the chat are known, or why they are not."""

    editable: tuple[str, ...] = field(default=(), metadata={"journal": False})
    read_only: tuple[str, ...] = field(default=(), metadata={"journal": False})
    problem: str = ""


@dataclass(frozen=True)
class ExchangesCarried:
    """How many of the last exchanges the next Aider is given."""

    exchanges: int


@dataclass(frozen=True)
class NoticeShown:
    """A notice reached the screen."""

    notice: str


@dataclass(frozen=True)
class OfferAnswered:
    """The user said whether Aider, which died, shall be started again."""

    accepted: bool


# From outside


@dataclass(frozen=True)
class RestartRequested:
    """``aider-guard restart`` in another pane."""


@dataclass(frozen=True)
class TerminationRequested:
    """The guard got SIGTERM or SIGHUP, or its terminal went away."""

    signal_number: int


@dataclass(frozen=True)
class DeadlinePassed:
    """An instant that an action asked for (``SetDeadline``) has come."""

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
    | TurnFinished
    | AiderExited
    | ContextRead
    | ChatSaved
    | ExchangesCarried
    | NoticeShown
    | OfferAnswered
    | SidecarStarted
    | SidecarLost
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
    | ReloadSeen
    | EgressEvent
    | RestartRequested
    | TerminationRequested
    | DeadlinePassed
)
