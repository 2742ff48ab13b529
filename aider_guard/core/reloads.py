"""Finds out why a model was loaded again, and words the cause for the user."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.model_names import same_model
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable

LOAD_SECONDS: Final = 0.5
"""A loaded model costs about 0.02 s of ``load_duration``, one that is loaded again more than this (0.9.3)."""
SHORTEST_LOAD_SECONDS: Final = 0.2
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_WORDS: Final = {"num_ctx": "window", "shift": "context shift"}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")
DEFAULT_KEEP_ALIVE_SECONDS: Final = 300.0
"""The default of ``OLLAMA_KEEP_ALIVE`` (envconfig/config.go)."""


@dataclass(frozen=True)
class LoadedEntry:
    """How Ollama lists a model that is loaded with this session's window.

    With another window it has another size, which is compared where the window is not listed (before 0.10).
    """

    window_tokens: int | Unavailable
    size_bytes: int

    def differs(self, model: LoadedModel) -> bool:
        """Whether a model is listed with another window than this."""
        if isinstance(self.window_tokens, int) and isinstance(model.window_tokens, int):
            return self.window_tokens != model.window_tokens
        return self.size_bytes != model.size_bytes


@dataclass(frozen=True)
class ReloadEvidence:
    """The evidence on a request that had to wait until its model was loaded again.

    Attributes:
        model: Its name.
        before: The lists of loaded models before the request, oldest first, each as long as nothing in it changed.
        entry: How the model was listed after this session loaded it; None when it was not seen since.
        ours: Names of all models that this session uses.
        same_file: Names of other models that run from the same file.
        options: The runner's options of the request, ``options_before`` of the one before.
        server_restarted: Whether another process serves than before.
        idle_seconds: How long the model had not been used.
        keep_alive_seconds: How long it was to stay; infinite for ever.
    """

    model: str
    before: Sequence[ModelsReading | Unavailable]
    entry: LoadedEntry | None = None
    ours: Iterable[str] = ()
    same_file: Iterable[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    options_before: Mapping[str, Any] = field(default_factory=dict)
    server_restarted: bool = False
    idle_seconds: float = 0.0
    keep_alive_seconds: float = DEFAULT_KEEP_ALIVE_SECONDS


def is_load(load_seconds: float, first_load_seconds: float | None) -> bool:
    """Whether a model was loaded in this time, given how long its first load took, if that is known."""
    if first_load_seconds is None:
        return load_seconds > LOAD_SECONDS
    half = max(SHORTEST_LOAD_SECONDS, first_load_seconds / 2)
    return load_seconds > min(LOAD_SECONDS, half)


def stay_seconds(keep_alive: object) -> float:
    """Return the seconds that ``keep_alive`` lets a model stay: a number, or Go's ``1h30m``; negative is for ever."""
    if isinstance(keep_alive, bool) or not isinstance(keep_alive, int | float | str):
        return DEFAULT_KEEP_ALIVE_SECONDS
    text = f"{keep_alive}s" if not isinstance(keep_alive, str) else keep_alive
    if text.startswith("-"):
        return math.inf
    parts = _DURATION.findall(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def cause(evidence: ReloadEvidence) -> str:
    """Return why the model was loaded again, in one clause without a full stop."""
    if evidence.server_restarted:
        return "Ollama itself was started again"
    now, before = evidence.options, evidence.options_before
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    if changed:
        differences = ", ".join(
            f"another {_WORDS.get(name, name)} than before ({_shown(before, name)}, now {_shown(now, name)})"
            for name in changed
        )
        return f"this session asked for it with {differences}"
    if not evidence.before or isinstance(evidence.before[-1], Unavailable):
        return "it is not known why: Ollama did not list its models before"
    listed = _named(evidence.before[-1].models, evidence.model)
    if listed is None:
        return _why_gone(evidence)
    if evidence.entry is not None and evidence.entry.differs(listed):
        size = listed.window_tokens
        window = f"a window of {size:,} tokens" if isinstance(size, int) else "another window"
        return f"another program had asked for it with {window}"
    return "its process had ended at Ollama, by a crash or for lack of memory"


def _shown(options: Mapping[str, Any], name: str) -> str:
    if name == "shift":
        return "off" if options.get(name) is False else "on"
    value = options.get(name, "none")
    return str(value) if isinstance(value, int | float | str) and len(str(value)) < 20 else "?"


def _why_gone(evidence: ReloadEvidence) -> str:
    models: Sequence[LoadedModel] = ()
    known: Sequence[LoadedModel] = ()
    pusher: str | None = None
    for reading in evidence.before:
        models = () if isinstance(reading, Unavailable) else reading.models
        if _named(models, evidence.model):
            pusher, known = None, models
        # The newest model that came when this one went is only in lists after the last one with this model.
        came = [model.name for model in models if not _named(known, model.name)]
        pusher = came[-1] if came else pusher
    twin = next((name for name in evidence.same_file if _named(models, name)), None)
    if twin is not None:
        return f"{twin} runs from the same file, and only one of the two is loaded at a time"
    if pusher is not None:
        if any(same_model(pusher, name) for name in evidence.ours):
            return f"{pusher}, which this session uses as well, took its place: both do not fit"
        return f"{pusher} took its place, loaded by another program"
    if evidence.idle_seconds >= evidence.keep_alive_seconds:
        minutes = round(evidence.idle_seconds / 60)
        idle = f"{minutes} minutes" if minutes != 1 else "a minute"
        return f"it was not used for {idle}, and Ollama let it go"
    return "it was unloaded before its time, by another program or for lack of memory"


def _named(models: Iterable[LoadedModel], name: str) -> LoadedModel | None:
    return next((model for model in models if same_model(model.name, name)), None)
