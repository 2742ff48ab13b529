"""What the guard asks of the sidecar: one line each way, see core/wire.py. The answers are events."""

from __future__ import annotations

from dataclasses import dataclass

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.server_report import ServedModel


@dataclass(frozen=True)
class SurveyServer:
    """Ask Ollama about itself and about models by name; one ``ServerSurveyed`` comes back, in time or with gaps."""

    names: tuple[str, ...]
    within_seconds: float = 3.0
    others: tuple[ServedModel, ...] = ()
    """Models on other servers of this machine, whose windows are asked for as well."""


@dataclass(frozen=True)
class CountFiles:
    """Estimate the size of files below ``root`` (paths may also be absolute); ``FilesCounted`` comes back."""

    root: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class CountTexts:
    """Estimate the size of texts; ``TextsCounted`` with the same ``request`` comes back."""

    request: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class UnloadModels:
    """Unload models and wait until their memory is back, ``wait_seconds`` at most; ``ModelsUnloaded`` comes back."""

    names: tuple[str, ...]
    wait_seconds: float = 6.0


@dataclass(frozen=True)
class ServeDoor:
    """Serve the door with these settings from now on; ``DoorOpened`` comes back the first time."""

    settings: DoorSettings


@dataclass(frozen=True)
class WarmModel:
    """Load the main model ahead of its next request, with its pin, and evaluate the head of the last request if there
    was one; ``ModelWarmed`` comes back for each. Dropped when a real request comes, and where another program's model
    is loaded; ``ours`` are models of this session that a sidecar of before may have loaded.
    """

    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class WakeCounter:
    """Make the door's counting process ready: a prompt is about to come. Nothing comes back."""


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
