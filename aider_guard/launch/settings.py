"""What Aider said of itself (launch/inside_aider.py), as a value."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aider_guard.core.readings import Unavailable
from aider_guard.core.wire import build

OLLAMA_PREFIXES = ("ollama_chat/", "ollama/")
TRIED_VERSIONS = ("0.86.2",)


@dataclass(frozen=True)
class AiderSettings:
    """The settings of Aider that the guard needs, by the names Aider gives them. Paths are as Aider would open them."""

    version: str = ""
    git_root: str | None = None
    model: str | None = None
    weak_model: str | None = None
    editor_model: str | None = None
    chat_history_file: str | None = None
    input_history_file: str | None = None
    restore_chat_history: bool = False
    analytics_log: str | None = None
    notifications: bool = False
    notifications_command: str | None = None
    default_notifications_command: str | None = None
    multiline: bool = False
    encoding: str = "utf-8"
    read: tuple[str, ...] | None = None
    ollama_api_base: str = ""
    tokenizers: str = ""
    model_settings_files: tuple[str, ...] = ()
    model_metadata_files: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are named, main first, each once. One that is not named follows from the main model."""
        named = (self.model, self.weak_model, self.editor_model)
        return tuple(dict.fromkeys(name for name in named if name))


def decode(line: bytes) -> AiderSettings | Unavailable:
    """The settings in one line from Aider's process, or why they are not known."""
    try:
        found = json.loads(line)
        if isinstance(found, dict) and "problem" in found:
            return Unavailable(str(found["problem"]))
        settings: AiderSettings = build(AiderSettings, found)
    except ValueError as error:  # WireError is one
        return Unavailable(f"Aider's answer cannot be read: {error}")
    return settings


def ollama_name(model: str) -> str | None:
    """The name that Ollama knows the model by; None for a model of another provider."""
    for prefix in OLLAMA_PREFIXES:
        if model.startswith(prefix):
            return model.removeprefix(prefix)
    return None
