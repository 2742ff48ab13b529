"""Actions, which the policy decides and the session performs, and requests, which the guard sends to the sidecar.

Each is one frozen dataclass, named in the imperative. An action that the sidecar carries out is the request itself. A
request is one line on the sidecar's stdin (core/wire.py); its answer is an event (core/events.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import TurnFinished
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServedModel


@dataclass(frozen=True)
class Notice:
    """Lines for the user. ``name`` is stable and goes to the journal; ``lines`` may name files and do not.

    One that ``is_short`` is a single line, of parts that ``PART`` joins: those that do not fit are left out.
    """

    name: str
    lines: tuple[str, ...] = field(metadata={"journal": False})
    is_short: bool = field(default=False, metadata={"journal": False})


PART: Final = " \u00b7 "


@dataclass(frozen=True)
class ShowNotice:
    """Print a notice above the main prompt, now if its line is untouched, else above the next one."""

    notice: Notice


@dataclass(frozen=True)
class ShowTitle:
    """Show a text as the title of the terminal's window until the next one; "" gives it back the title it had."""

    text: str = field(metadata={"journal": False})


@dataclass(frozen=True)
class RingBell:
    """Tell the user who looks elsewhere that a turn is over, or that Aider asks, so many seconds after the last key."""

    reason: Literal["turn_finished", "question"]
    seconds: float
    model: str = ""
    fill_percent: float | Unavailable = Unavailable("not known")


@dataclass(frozen=True)
class RunHidden:
    """Run a command at the main prompt so that the user sees nothing of it, while all of some files are there."""

    command: Literal["tokens", "save"]
    needs: tuple[str, ...] = field(default=(), metadata={"journal": False})
    """Paths. ``/tokens`` takes a file that is missing out of the chat, as does the user's next message; until then it
    may be back, as after a ``git stash``.
    """


@dataclass(frozen=True)
class CountFiles:
    """Have the sidecar estimate the size of files below ``root`` (paths may also be absolute): ``FilesCounted``."""

    root: str = field(metadata={"journal": False})
    paths: tuple[str, ...] = field(metadata={"journal": False})


@dataclass(frozen=True)
class StopAider:
    """Type ``/exit`` at the empty main prompt."""


@dataclass(frozen=True)
class SignalAider:
    """Send a signal to Aider's process group."""

    signal: Literal["TERM", "KILL"]


@dataclass(frozen=True)
class StartStandby:
    """Start the next Aider ahead: it loads its code and waits for its arguments (``StandbyReady``)."""


@dataclass(frozen=True)
class AskStandby:
    """Tell the Aider that was started ahead that it is its turn: it reads the settings, and asks."""


@dataclass(frozen=True)
class StopStandby:
    """End the Aider that was started ahead."""


@dataclass(frozen=True)
class RetireAider:
    """Take the running Aider off the terminal and have it end in the background: ``AiderRetired``."""


@dataclass(frozen=True)
class SignalRetired:
    """Send a signal to the process group of the Aider that was retired."""

    signal: Literal["TERM", "KILL"]


@dataclass(frozen=True)
class UnloadModels:
    """Have the sidecar unload models and wait until their memory is back: ``ModelsUnloaded``.

    It waits for ``wait_seconds`` at most.
    """

    names: tuple[str, ...]
    wait_seconds: float = 6.0


@dataclass(frozen=True)
class Handoff:
    """The state of the chat that the next Aider takes over from the last."""

    editable: tuple[str, ...] = field(default=(), metadata={"journal": False})
    read_only: tuple[str, ...] = field(default=(), metadata={"journal": False})
    mode: str = ""
    multiline: bool = False
    known: bool = True
    """Whether the files are known; if not, the next Aider begins with the files of its command line."""

    @property
    def files(self) -> int:
        """How many files the next Aider takes over."""
        return len(self.editable) + len(self.read_only)


@dataclass(frozen=True)
class StartAider:
    """Start Aider again with the files and the mode of the last one.

    With ``standby`` the one that was started ahead goes on; else, or if that ended meanwhile, another is started.
    """

    reason: str
    handoff: Handoff
    standby: bool = False


@dataclass(frozen=True)
class OfferRestart:
    """Tell the user that Aider died, and ask whether to start it again."""

    notice: Notice


@dataclass(frozen=True)
class EndSession:
    """End with this exit status; ``notice`` is printed after the terminal is the user's again."""

    exit_status: int
    notice: Notice | None = None


@dataclass(frozen=True)
class StartSidecar:
    """Start the sidecar; one that still runs is killed."""


@dataclass(frozen=True)
class RememberNeed:
    """Keep for the next start how much more memory a model needs than was computed (negative: less)."""

    name: str
    error_bytes: int


@dataclass(frozen=True)
class WarmModel:
    """Have the sidecar load the main model, with its pin, and evaluate the head of the last prompt: ``ModelWarmed``.

    It is dropped when a real request comes, and where a model of another program is loaded. ``ours`` are the other
    models of this session, which an earlier sidecar may have loaded.
    """

    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class WakeCounter:
    """Have the sidecar start the counting process while the user types a prompt; there is no answer."""


@dataclass(frozen=True)
class SetDeadline:
    """Report ``DeadlinePassed(name)`` at the monotonic instant ``at``; a second call moves it."""

    name: str
    at: float


@dataclass(frozen=True)
class CancelDeadline:
    """Forget a deadline."""

    name: str


@dataclass(frozen=True)
class Announce:
    """Decide about this event next: it follows from the one that was decided about."""

    event: TurnFinished


Action = (
    ShowNotice
    | ShowTitle
    | RingBell
    | RunHidden
    | CountFiles
    | StopAider
    | SignalAider
    | StartStandby
    | AskStandby
    | StopStandby
    | RetireAider
    | SignalRetired
    | UnloadModels
    | StartAider
    | OfferRestart
    | EndSession
    | StartSidecar
    | RememberNeed
    | WarmModel
    | WakeCounter
    | SetDeadline
    | CancelDeadline
    | Announce
)


# Requests that are no actions of the policy


@dataclass(frozen=True)
class SurveyServer:
    """Ask Ollama about itself and about models by name; one ``ServerSurveyed`` comes back, in time or with gaps."""

    names: tuple[str, ...]
    within_seconds: float = 3.0
    others: tuple[ServedModel, ...] = ()
    """Models on other servers of this machine, whose windows are asked for as well."""


@dataclass(frozen=True)
class CountTexts:
    """Estimate the size of texts; ``TextsCounted`` with the same ``request`` comes back."""

    request: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class ServeDoor:
    """Serve the door with these settings from now on; ``DoorOpened`` comes back the first time."""

    settings: DoorSettings


@dataclass(frozen=True)
class StopSidecar:
    """End the sidecar."""


Request = (
    SurveyServer
    | CountFiles
    | CountTexts
    | UnloadModels
    | ServeDoor
    | WarmModel
    | WakeCounter
    | StopSidecar
)
