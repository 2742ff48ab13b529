"""Fixes the window with model settings and metadata files for Aider, merged with the user's own.

Unpinned, Aider asks Ollama for another ``num_ctx`` with every request (aider/models.py: tokens * 1.25 + 8192), and
Ollama reloads the model for each, unless it cuts all of them to the same trained context. Aider reads model settings
from several files; an entry replaces an earlier one of the same name as a whole, so the entries written here contain
everything of the user's entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch.aider_settings import (
    EVERY_MODEL,
    AiderSettings,
    extra_params,
    ollama_name,
    whole_number,
)
from aider_guard.launch.places import redirect_entry

DEFAULT_WINDOW_TOKENS = 8192

Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class OtherServers:
    """The other servers of this machine: the windows that they reported, by Aider's names for the models, and the
    door's addresses by those that they replace (launch/routes.py).
    """

    windows: Mapping[str, int | Unavailable] = field(default_factory=dict)
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


def window_to_pin(
    requested_tokens: int | None,
    settings: Entries,
    model: str,
    trained: Mapping[str, int | Unavailable],
    automatic: int | None = None,
) -> int:
    """Choose the window in tokens: the requested one, else what the user's files pin, else the automatic one, else
    8192. It is at most the shortest of the trained contexts that are known, and what the user's files pin at most the
    main model's own: Ollama loads no more, and does not say so.
    """
    trained_tokens = [tokens for tokens in trained.values() if isinstance(tokens, int)]
    if requested_tokens is not None:
        return min([requested_tokens, *trained_tokens])
    for name in (EVERY_MODEL, model):
        pinned = whole_number(extra_params(settings.get(name, {})).get("num_ctx"))
        if pinned is not None and pinned > 0:
            trained_here = trained.get(ollama_name(model) or model)
            return min(pinned, trained_here) if isinstance(trained_here, int) else pinned
    return min([automatic or DEFAULT_WINDOW_TOKENS, *trained_tokens])


def make_pins(
    aider: AiderSettings,
    requested_tokens: int | None,
    trained: Mapping[str, int | Unavailable],
    automatic: int | None = None,
    others: OtherServers = OtherServers(),  # a frozen value
) -> Pins:
    """Make the pins for a session; *automatic* is the window where the user pins none, None when it is not known.

    Raises LaunchError when one of the user's files cannot be read.
    """
    settings = read_settings(aider.model_settings_files)
    metadata = read_metadata(aider.model_metadata_files)
    names = [name for name in aider.models if ollama_name(name) is not None]
    window = window_to_pin(requested_tokens, settings, aider.model or "", trained, automatic)
    # The entry for every model also reaches one that is switched to later; with a model of another provider in the
    # session it would send num_ctx to a server that refuses it, so then only Ollama's models get an entry.
    pinned = [EVERY_MODEL, *(name for name in names if name in settings)]
    if len(names) < len(aider.models):
        pinned = names
    entries = dict(settings)
    for name in pinned:
        entry = settings.get(name, {"name": name})
        entries[name] = {**entry, "extra_params": {**extra_params(entry), "num_ctx": window}}
    elsewhere = _other_windows(others.windows, requested_tokens, metadata)
    windows = {**elsewhere, **dict.fromkeys(names, window)}
    redirected = {name: redirect_entry(entry, others.urls) for name, entry in entries.items()}
    return Pins(
        window if names else min(elsewhere.values(), default=window),
        [entry for name, entry in redirected.items() if name in pinned or entry != entries[name]],
        {
            name: _metadata_entry(metadata.get(name, {}), name, windows.get(name))
            for name in dict.fromkeys((*names, *others.windows))
        },
        windows,
    )


def _other_windows(
    reported: Mapping[str, int | Unavailable], requested_tokens: int | None, metadata: Entries
) -> dict[str, int]:
    """The windows of models on other servers: the reported one, at most the requested one; where nothing was reported,
    the requested one or that of the user's own metadata.
    """
    windows: dict[str, int] = {}
    for name, window in reported.items():
        users_window = metadata.get(name, {}).get("max_input_tokens")
        if isinstance(window, int):
            windows[name] = min(window, requested_tokens or window)
        elif requested_tokens:
            windows[name] = requested_tokens
        elif type(users_window) is int and users_window > 0:
            windows[name] = users_window
    return windows


def _metadata_entry(entry: Mapping[str, Any], name: str, window: int | None) -> dict[str, Any]:
    """A model's metadata entry with all that Aider would otherwise ask for: prices, of its server, and the context a
    model could have, of Ollama.

    A window that is not known is left out, and Aider then assumes none. An answer may fill the window, unless the
    user's own entry says less: without a number Aider takes any answer for one that is too long (base_coder.py,
    show_exhausted_error). Aider sends no limit because of it.
    """
    prices = dict.fromkeys(("input_cost_per_token", "output_cost_per_token"), 0)
    defaults = {"litellm_provider": name.partition("/")[0], "mode": "chat", **prices}
    window_keys = {} if window is None else {"max_input_tokens": window, "max_tokens": window}
    longest = {} if window is None else {"max_output_tokens": window}
    return {**defaults, **longest, **entry, **window_keys}


def read_settings(paths: Sequence[str]) -> Entries:
    """Read the entries of ``.aider.model.settings.yml`` files by name; a later file's entry replaces an earlier one's.

    Raises LaunchError for a file that is no list of entries with names.
    """
    entries: Entries = {}
    for path in paths:
        if not os.path.exists(path):
            continue
        try:
            items = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            entries.update({str(entry["name"]): _checked(dict(entry)) for entry in items or ()})
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise LaunchError(f"{path} cannot be read as model settings: {error}") from error
    return entries


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(entry.get("extra_params") or {}, dict):
        raise TypeError(f"the extra_params of {entry['name']} are not a mapping")
    return entry


def read_metadata(paths: Sequence[str]) -> Entries:
    """Read the entries of ``.aider.model.metadata.json`` files by name.

    Aider reads them as JSON5; a file that is not plain JSON is left to Aider.
    """
    entries: Entries = {}
    for path in paths:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8") or "{}")
        except (OSError, ValueError):  # not there, or not plain JSON
            continue
        if isinstance(content, dict):
            entries |= {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    return entries


def settings_text(pins: Pins) -> str:
    """The model settings as Aider reads them."""
    return yaml.safe_dump(list(pins.settings), sort_keys=False)


def metadata_text(pins: Pins) -> str:
    """The metadata as Aider reads them."""
    return json.dumps(pins.metadata, indent=1)


def write_pins(pins: Pins, folder: Path) -> tuple[Path, Path]:
    """Write both files into the session's folder and return their paths.

    Raises LaunchError when they cannot be written.
    """
    settings, metadata = folder / "model.settings.yml", folder / "model.metadata.json"
    try:
        settings.write_text(settings_text(pins), encoding="utf-8")
        metadata.write_text(metadata_text(pins), encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            f"the window cannot be fixed: {folder} is not writable ({error.strerror})"
        ) from error
    return settings, metadata
