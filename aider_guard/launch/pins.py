"""Fixing the window: settings and metadata files for Aider, merged with the user's own.

Unpinned, Aider asks Ollama for another ``num_ctx`` with every request (aider/models.py: tokens * 1.25 + 8192), and
Ollama loads the model anew for each. Aider reads model settings from several files; an entry replaces an earlier one
of the same name as a whole, so the entries written here carry everything the user's entry says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.routes import redirected

DEFAULT_WINDOW_TOKENS = 8192
EVERY_MODEL = "aider/extra_params"

Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class OtherServers:
    """What matters beside Ollama: the windows that other servers of this machine told, by Aider's names for the
    models, and the addresses that are replaced by the door's (launch/routes.py).
    """

    told: Mapping[str, int | Unavailable] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pins:
    """The window the session fixes, and the files that fix it. ``windows`` has the window of each model where it is
    known, by Aider's names; those of Ollama's models are ``window_tokens``.
    """

    window_tokens: int
    settings: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Mapping[str, Any]]
    windows: Mapping[str, int] = field(default_factory=dict)


def choose_window(
    asked: int | None,
    settings: Entries,
    model: str,
    trained: Mapping[str, int | Unavailable],
    fitting: int | None = None,
) -> int:
    """The window in tokens: what was asked for, else what the user's files pin, else the largest that fits, else
    8192. It is at most the shortest of the trained contexts that are known, and what the user's files pin at most the
    main model's own: Ollama loads no more, and does not say so.
    """
    known = [tokens for tokens in trained.values() if isinstance(tokens, int)]
    if asked is not None:
        return min([asked, *known])
    for name in (EVERY_MODEL, model):
        pinned = (settings.get(name, {}).get("extra_params") or {}).get("num_ctx")
        if isinstance(pinned, int) and pinned > 0:
            own = trained.get(ollama_name(model) or model)
            return min(pinned, own) if isinstance(own, int) else pinned
    return min([fitting or DEFAULT_WINDOW_TOKENS, *known])


def make_pins(
    aider: AiderSettings,
    asked: int | None,
    trained: Mapping[str, int | Unavailable],
    fitting: int | None = None,
    others: OtherServers = OtherServers(),  # a frozen value
) -> Pins:
    """The pins for a session; *fitting* is the largest window that fits, None when it is not known.

    Raises LaunchError when one of the user's files cannot be read.
    """
    settings = read_settings(aider.model_settings_files)
    metadata = read_metadata(aider.model_metadata_files)
    names = [name for name in aider.models if ollama_name(name) is not None]
    window = choose_window(asked, settings, aider.model or "", trained, fitting)
    # The entry for every model also reaches one that is switched to later; with a model of another provider in the
    # session it would send num_ctx to a server that refuses it, so then only Ollama's models get an entry.
    pinned = [EVERY_MODEL, *(name for name in names if name in settings)]
    if len(names) < len(aider.models):
        pinned = names
    entries = {name: _pinned(settings.get(name, {"name": name}), window) for name in pinned}
    elsewhere = _windows_elsewhere(others.told, asked, metadata)
    windows = {**elsewhere, **dict.fromkeys(names, window)}
    return Pins(
        window if names else min(elsewhere.values(), default=window),
        list(_through_the_door({**settings, **entries}, pinned, others.urls)),
        {
            name: _described(metadata.get(name, {}), name, windows.get(name))
            for name in dict.fromkeys((*names, *others.told))
        },
        windows,
    )


def _windows_elsewhere(
    told: Mapping[str, int | Unavailable], asked: int | None, metadata: Entries
) -> dict[str, int]:
    """The windows of models on other servers: what was told, at most what was asked for; where nothing was told, what
    was asked for or what the user's own metadata say.
    """
    found: dict[str, int] = {}
    for name, window in told.items():
        users = metadata.get(name, {}).get("max_input_tokens")
        said = asked or (users if type(users) is int and users > 0 else None)
        if isinstance(window, int):
            found[name] = min(window, asked or window)
        elif said is not None:
            found[name] = said
    return found


def _through_the_door(
    entries: Entries, pinned: Sequence[str], urls: Mapping[str, str]
) -> Iterator[Mapping[str, Any]]:
    """The entries that are pinned and those with an address that the door leads to, each with the door's instead."""
    for name, entry in entries.items():
        changed = redirected(entry, urls)
        if name in pinned or changed != entry:
            yield changed


def _pinned(entry: Mapping[str, Any], window: int) -> dict[str, Any]:
    return {**entry, "extra_params": {**(entry.get("extra_params") or {}), "num_ctx": window}}


def _described(entry: Mapping[str, Any], name: str, window: int | None) -> dict[str, Any]:
    """Metadata with which Aider asks nobody: not its server for prices, not Ollama for the context it could have.

    A window that is not known is left out, and Aider then takes none for granted.
    """
    defaults = {
        "litellm_provider": name.partition("/")[0],
        "mode": "chat",
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    }
    own = {} if window is None else {"max_input_tokens": window, "max_tokens": window}
    return {**defaults, **entry, **own}


def read_settings(paths: Sequence[str]) -> Entries:
    """The entries of ``.aider.model.settings.yml`` files by name; a later file's entry replaces an earlier one's."""
    entries: Entries = {}
    for path in paths:
        entries.update(_entries_in(path) if os.path.exists(path) else {})
    return entries


def _entries_in(path: str) -> Entries:
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return {str(entry["name"]): _checked(dict(entry)) for entry in found or ()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise LaunchError(f"{path} cannot be read as model settings: {error}") from error


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(entry.get("extra_params") or {}, dict):
        raise TypeError(f"the extra_params of {entry['name']} are no mapping")
    return entry


def read_metadata(paths: Sequence[str]) -> Entries:
    """The entries of ``.aider.model.metadata.json`` files by name.

    Aider reads them as JSON5; an entry for one of our models in a file that is no plain JSON is left to Aider.
    """
    entries: Entries = {}
    for path in paths:
        try:
            found = (
                json.loads(Path(path).read_text(encoding="utf-8") or "{}")
                if os.path.exists(path)
                else {}
            )
        except (OSError, UnicodeDecodeError, ValueError):
            continue
        if isinstance(found, dict):
            entries.update(
                {str(name): entry for name, entry in found.items() if isinstance(entry, dict)}
            )
    return entries


def settings_text(pins: Pins) -> str:
    """The model settings as Aider reads them."""
    return yaml.safe_dump(list(pins.settings), sort_keys=False)


def metadata_text(pins: Pins) -> str:
    """The metadata as Aider reads them."""
    return json.dumps(pins.metadata, indent=1)


def write_pins(pins: Pins, folder: Path) -> tuple[Path, Path]:
    """Write both files into the session's folder; their paths. Raises LaunchError when they cannot be written."""
    settings, metadata = folder / "model.settings.yml", folder / "model.metadata.json"
    try:
        settings.write_text(settings_text(pins), encoding="utf-8")
        metadata.write_text(metadata_text(pins), encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            f"the window cannot be fixed: {folder} is not writable ({error.strerror})"
        ) from error
    return settings, metadata
