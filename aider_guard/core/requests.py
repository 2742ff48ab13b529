"""What the guard asks of the sidecar: one line each way, see core/wire.py. The answers are events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SurveyServer:
    """Ask Ollama about itself and about models by name; one ``ServerSurveyed`` comes back, in time or with gaps."""

    names: tuple[str, ...]
    within_seconds: float = 3.0


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
class StopSidecar:
    """End the sidecar."""


Request = SurveyServer | CountFiles | CountTexts | UnloadModels | StopSidecar
