"""What may be done: one frozen dataclass an action, imperative. The session carries them out, nothing else acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aider_guard.core.events import TurnFinished


@dataclass(frozen=True)
class Notice:
    """Lines for the user. ``name`` is stable and goes to the journal; ``lines`` may name files and do not."""

    name: str
    lines: tuple[str, ...] = field(metadata={"journal": False})


@dataclass(frozen=True)
class ShowNotice:
    """Print a notice above the main prompt, now if its line is untouched, else above the next one."""

    notice: Notice


@dataclass(frozen=True)
class RunHidden:
    """Run a command at the main prompt so that the user sees nothing of it."""

    command: Literal["tokens", "save"]


@dataclass(frozen=True)
class CountFiles:
    """Have the sidecar estimate the size of these files."""

    paths: tuple[str, ...] = field(metadata={"journal": False})


@dataclass(frozen=True)
class StopAider:
    """Type ``/exit`` at the empty main prompt."""


@dataclass(frozen=True)
class SignalAider:
    """Send a signal to Aider's process group."""

    signal: Literal["TERM", "KILL"]


@dataclass(frozen=True)
class UnloadModels:
    """Have the sidecar unload models and wait for their memory, ``wait_seconds`` at most."""

    names: tuple[str, ...]
    wait_seconds: float


@dataclass(frozen=True)
class Handoff:
    """What the next Aider takes over from the last."""

    editable: tuple[str, ...] = field(default=(), metadata={"journal": False})
    read_only: tuple[str, ...] = field(default=(), metadata={"journal": False})
    mode: str = ""
    multiline: bool = False
    known: bool = True
    """Whether the files are known; if not, the next Aider begins with those of its command line."""

    @property
    def files(self) -> int:
        """How many files are handed over."""
        return len(self.editable) + len(self.read_only)


@dataclass(frozen=True)
class StartAider:
    """Start Aider again with what the last one held."""

    reason: str
    handoff: Handoff


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
    """Start the sidecar, killing one that still runs."""


@dataclass(frozen=True)
class RememberNeed:
    """Keep by how much a model needs more memory (less: negative) than was computed, for the next start."""

    name: str
    error_bytes: int


@dataclass(frozen=True)
class WarmModel:
    """Have the sidecar load the main model while the user types, and evaluate what its next prompt begins with.

    ``ours`` are the other models that the session has loaded: they are no reason to leave it.
    """

    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class WakeCounter:
    """Have the sidecar make ready what counts a prompt, while the user types one."""


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
    | RunHidden
    | CountFiles
    | StopAider
    | SignalAider
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
