"""Decodes Aider's own description of what it will use (launch/inside_aider.py) into values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aider_guard.core.codec import build
from aider_guard.core.readings import Unavailable

OLLAMA_PREFIXES = ("ollama_chat/", "ollama/")
EVERY_MODEL = "aider/extra_params"
TRIED_VERSIONS = ("0.80.4", "0.82.3", "0.84.0", "0.85.2", "0.86.2")
UNRESOLVED = "Aider's models cannot be resolved"
"""The beginning of a problem from inside/describing.py, for an Aider that was never tried."""


@dataclass(frozen=True)
class Role:
    """One role that a model has in a session, and where that choice comes from.

    ``asked`` is the name before aliases. ``source`` is where it was said, in words (``--model on the command line``,
    ``AIDER_MODEL in /repo/.env``, ``/repo/.aider.conf.yml``, ``the key OPENAI_API_KEY``). ``api_base`` and
    ``num_ctx`` are those of its extra parameters; the address is as it may be shown.
    """

    role: str
    """``main``, ``editor`` or ``weak``."""
    model: str
    asked: str = ""
    source: str = ""
    api_base: str = ""
    num_ctx: int | None = None
    edit_format: str = ""
    settings_source: str = ""
    """The file whose entry gives the role its extra parameters or named the model, "" for none of the user's."""
    address: str = field(default="", repr=False)
    """The complete ``api_base``, which may hold a secret: never shown."""
    redirects: tuple[str, ...] = ()
    """Extra parameters with which litellm sends requests to another model or provider: ``fallbacks: gpt-4o``."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The key, as a header, and the extra headers that litellm sends to the server: secrets, never shown."""


@dataclass(frozen=True)
class Variable:
    """An environment variable as Aider will see it, and where it was set. ``value`` is filled only where it is no
    secret; ``address`` is a server's complete address, which may hold one, and is never shown.
    """

    name: str
    source: str
    value: str = ""
    address: str = field(default="", repr=False)


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
    fancy_input: bool = True
    """Whether Aider reads with prompt_toolkit; on a dumb terminal it does not."""
    encoding: str = "utf-8"
    read: tuple[str, ...] | None = None
    ollama_api_base: str = field(default="", repr=False)
    tokenizers: str = ""
    model_settings_files: tuple[str, ...] = ()
    model_metadata_files: tuple[str, ...] = ()

    problems: tuple[str, ...] = ()
    """What Aider cannot read, a sentence with the file's name for each: it would not start, or not as meant."""
    roles: tuple[Role, ...] = ()
    """Main first, then editor, then weak; each has a model, the main model's own name where none is set."""
    keys: tuple[Variable, ...] = ()
    """Keys and tokens of clouds that are set, never their values."""
    addresses: tuple[Variable, ...] = ()
    """Where traffic would go: Ollama's and other providers' addresses, proxies and their exceptions."""
    config_files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    """Where an option below was set, by its name; options at their default are left out."""
    map_tokens: int | None = None
    map_refresh: str | None = None
    max_chat_history_tokens: int | None = None
    auto_test: bool = False
    test_cmd: str | None = None
    auto_lint: bool = True
    lint_cmd: tuple[str, ...] = ()
    detect_urls: bool = True
    cache_keepalive_pings: int = 0
    check_update: bool = True
    analytics: bool | None = None
    show_release_notes: bool | None = None
    verify_ssl: bool = True
    subtree_only: bool = False
    load: str | None = None
    architect: bool = False
    sends_message: bool = False
    """Whether a message is given at the start: the main model is certain to be needed."""
    python: str = ""
    """The version of the Python that runs Aider."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are named, main first, each once. One that is not named follows from the main model."""
        names = (self.model, self.weak_model, self.editor_model)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def map_follows_words(self) -> bool:
        """Whether the repository map is chosen by the words of each message (``--map-refresh auto``, Aider's default).

        Not where it was asked for at this start; a file may have it from ``aider-guard init``, as the default.
        """
        source = self.sources.get("map_refresh", "")
        return self.map_refresh == "auto" and source in ("", *self.config_files)

    @property
    def are_roles_known(self) -> bool:
        """Whether Aider reported its models; if it did and named none, there are none."""
        return not any(problem.startswith(UNRESOLVED) for problem in self.problems)


def decode(line: bytes) -> AiderSettings | Unavailable:
    """Decode one line from Aider's process: the settings, or why they are not known."""
    try:
        answer = json.loads(line)
        if isinstance(answer, dict) and "problem" in answer:
            return Unavailable(str(answer["problem"]))
        settings: AiderSettings = build(AiderSettings, answer)
    except ValueError as error:  # WireError is one
        return Unavailable(f"Aider's answer cannot be read: {error}")
    return settings


def extra_params(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that an entry of ``.aider.model.settings.yml`` sends with every request."""
    params = entry.get("extra_params")
    return params if isinstance(params, dict) else {}


def whole_number(value: object) -> int | None:
    """A number as Ollama reads it, which takes 16384.0 for a whole one; None for any other value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def ollama_name(model: str) -> str | None:
    """The name that Ollama knows the model by; None for a model of another provider."""
    for prefix in OLLAMA_PREFIXES:
        if model.startswith(prefix):
            return model.removeprefix(prefix)
    return None
