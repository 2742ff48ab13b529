"""Remembers the models that this session has loaded, and Ollama's last lists of loaded models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.chat.body import KEEP_ALIVE, loading_body, runner_options
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.model_names import canonical_name, same_model
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.core.reloads import LoadedEntry, is_load

KEPT_READINGS: Final = 8
NOT_READ: Final = Unavailable("Ollama has not been asked yet what it has loaded")


@dataclass
class SessionModel:
    """One model that this session asked for."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """The runner's options of the last request."""
    keep_alive: object = None
    """The ``keep_alive`` of the last request."""
    loaded: bool = False
    """Whether it was loaded for this session, and not unloaded by it since."""
    entry: LoadedEntry | None = None
    first_load_seconds: float | None = None
    renewed_at: float = 0.0
    """When its stay was renewed last."""
    unloaded_at: float = float("-inf")

    def mark_loaded(self, now: float, options: Mapping[str, Any], load_seconds: float) -> None:
        """Note that it was requested with these options, and is in memory."""
        if is_load(load_seconds, self.first_load_seconds) or not self.loaded:
            self.entry = None
            self.first_load_seconds = self.first_load_seconds or load_seconds
        self.loaded, self.renewed_at, self.options = True, now, dict(options)

    def mark_unloaded(self, now: float) -> None:
        """Note that this session has it unloaded: the next load is no reload."""
        self.loaded, self.entry, self.unloaded_at = False, None, now


class LoadedModels:
    """All models of the session, and the last lists that differ from each other, oldest first."""

    def __init__(self) -> None:
        self._models: dict[str, SessionModel] = {}
        self.readings: tuple[ModelsReading | Unavailable, ...] = ()
        """The lists that are kept."""

    def get(self, name: str) -> SessionModel:
        """Return what is remembered of a model, under any spelling of its name."""
        return self._models.setdefault(canonical_name(name), SessionModel(name))

    @property
    def all(self) -> tuple[SessionModel, ...]:
        """Every model that was requested."""
        return tuple(self._models.values())

    @property
    def newest(self) -> ModelsReading | Unavailable:
        """The newest list."""
        return self.readings[-1] if self.readings else NOT_READ

    def update(self, reading: ModelsReading | Unavailable) -> None:
        """Take in the newest list, in place of an equal one, and learn how the session's models are listed."""
        older = self.readings
        if older and _content(older[-1]) == _content(reading):
            older = older[:-1]
        self.readings = (*older[1 - KEPT_READINGS :], reading)
        if isinstance(reading, Unavailable):
            return
        for model in self._models.values():
            listed = find_listed(reading, model.name)
            unknown = model.loaded and model.entry is None
            if listed is not None and unknown and reading.taken_at >= model.renewed_at:
                model.entry = LoadedEntry(listed.window_tokens, listed.size_bytes)


def pinned_options(request: ChatRequest, settings: DoorSettings) -> Mapping[str, Any]:
    """Return the runner's options of a request as the door sends it; /v1 has no field for them."""
    if request.form not in ("chat", "generate"):
        return {}
    pinned = loading_body(request.model, runner_options(request.body), settings, None)
    return runner_options(pinned)


def keep_alive(model: SessionModel, settings: DoorSettings) -> object:
    """Return how long a model shall stay: as the door sets it, or as the user does where the user has set it."""
    return model.keep_alive if settings.user_keep_alive else KEEP_ALIVE


def find_listed(reading: ModelsReading | Unavailable, name: str) -> LoadedModel | None:
    """Return a model's entry in a list."""
    models = () if isinstance(reading, Unavailable) else reading.models
    return next((model for model in models if same_model(model.name, name)), None)


def _content(reading: ModelsReading | Unavailable) -> object:
    return reading.models if isinstance(reading, ModelsReading) else reading
