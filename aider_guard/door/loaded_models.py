"""What is remembered of the models that this session has loaded, and of Ollama's lists of loaded models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """What the last request said."""
    loaded: bool = False
    """Whether it was loaded for this session, and not unloaded by it since."""
    entry: LoadedEntry | None = None
    first_load_seconds: float | None = None
    touched_at: float = 0.0
    """When its stay was renewed last."""
    released_at: float = float("-inf")

    def hold(self, now: float, options: Mapping[str, Any], load_seconds: float) -> None:
        """It was asked for with these options, and is in memory."""
        if is_load(load_seconds, self.first_load_seconds) or not self.loaded:
            self.entry = None
            self.first_load_seconds = self.first_load_seconds or load_seconds
        self.loaded, self.touched_at, self.options = True, now, dict(options)

    def release(self, now: float) -> None:
        """This session has it unloaded: the next load is no reload."""
        self.loaded, self.entry, self.released_at = False, None, now


class LoadedModels:
    """All models of the session, and the last lists that differ from each other, oldest first."""

    def __init__(self) -> None:
        self._known: dict[str, SessionModel] = {}
        self._readings: tuple[ModelsReading | Unavailable, ...] = ()

    def get(self, model: str) -> SessionModel:
        """What is remembered of a model, under any spelling of its name."""
        return self._known.setdefault(canonical_name(model), SessionModel(model))

    @property
    def all(self) -> tuple[SessionModel, ...]:
        """Every model that was asked for."""
        return tuple(self._known.values())

    @property
    def readings(self) -> tuple[ModelsReading | Unavailable, ...]:
        """The lists that are kept."""
        return self._readings

    @property
    def newest(self) -> ModelsReading | Unavailable:
        """The newest list."""
        return self._readings[-1] if self._readings else NOT_READ

    def take(self, reading: ModelsReading | Unavailable) -> None:
        """The newest list; it takes the place of one that says the same. Learns how models of ours are listed."""
        older = self._readings
        if older and _same(older[-1], reading):
            older = older[:-1]
        self._readings = (*older[1 - KEPT_READINGS :], reading)
        if isinstance(reading, ModelsReading):
            for resident in self._known.values():
                _learn(resident, reading)


def asked_options(asked: ChatRequest, settings: DoorSettings) -> Mapping[str, Any]:
    """The runner's options of a request as the door sends it; /v1 has no field for them."""
    if asked.form not in ("chat", "generate"):
        return {}
    pinned = loading_body(asked.model, runner_options(asked.body), settings, None)
    return runner_options(pinned)


def keep_alive(resident: SessionModel, settings: DoorSettings) -> object:
    """How long a model shall stay: the door's word, or the user's where the user has one."""
    return resident.keep_alive if settings.user_keep_alive else KEEP_ALIVE


def listed(reading: ModelsReading | Unavailable, name: str) -> LoadedModel | None:
    """A model's entry in a list."""
    if isinstance(reading, Unavailable):
        return None
    return next((model for model in reading.models if same_model(model.name, name)), None)


def _learn(resident: SessionModel, reading: ModelsReading) -> None:
    found = listed(reading, resident.name)
    unknown = resident.loaded and resident.entry is None
    if found is not None and unknown and reading.taken_at >= resident.touched_at:
        resident.entry = LoadedEntry(found.window_tokens, found.size_bytes)


def _same(one: ModelsReading | Unavailable, other: ModelsReading | Unavailable) -> bool:
    if isinstance(one, Unavailable) or isinstance(other, Unavailable):
        return one == other
    return replace(one, taken_at=0.0) == replace(other, taken_at=0.0)
