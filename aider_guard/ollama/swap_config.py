"""Reads the window of a model that llama-swap has not started yet, from llama-swap's own configuration file.

llama-swap lists the command lines of running models only (internal/server/api.go, handleRunning). Its configuration
(config.example.yaml) has the others, as ``models.NAME.cmd`` with macros ``${name}`` in it; the file is named on its own
command line, which every user of the machine may read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from aider_guard.core.other_servers import is_window, window_in_command
from aider_guard.core.readings import Unavailable
from aider_guard.ollama.names import targets
from aider_guard.ollama.server_process import find_listener

PROGRAM: Final = "llama-swap"
_OPTIONS: Final = ("-config", "--config")
_USUAL: Final = "config.yaml"
_MACRO: Final = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_DEPTH: Final = 8
_MAX_BYTES: Final = 4 * 1024 * 1024


def configured_window(
    base: str, model: str, *, find: Callable[..., Any] = find_listener
) -> int | None:
    """The window in the command line of a model of the llama-swap at this address.

    None where llama-swap runs elsewhere or as another user, where its file cannot be read, and where the command line
    names no window.
    """
    with suppress(psutil.Error, OSError, ValueError):
        listener = find(targets(base), urlsplit(base).port or 0)
        if isinstance(listener, Unavailable) or not listener.pid:
            return None
        process = psutil.Process(listener.pid)
        if process.name() != PROGRAM:
            return None
        path = Path(process.cwd(), _config_path(process.cmdline()))
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            return window_in_config(path.read_text(encoding="utf-8"), model)
    return None


def window_in_config(text: str, model: str) -> int | None:
    """The window in the command line of a model, by the text of a configuration; None for none."""
    import yaml

    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None
    match config:
        case {"models": {} as models} if isinstance(entry := models.get(model), dict):
            macros = {**_mapping(config.get("macros")), **_mapping(entry.get("macros"))}
            command = _expanded(str(entry.get("cmd") or ""), macros)
            try:
                window = window_in_command(shlex.split(command, comments=True))
            except ValueError:  # a quotation that does not end
                return None
            return window if is_window(window) else None
    return None


def _config_path(words: Sequence[str]) -> str:
    """What a command line of llama-swap's names as its configuration."""
    path = _USUAL
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option in _OPTIONS:
            path = value if equals else following
    return path


def _expanded(command: str, macros: Mapping[str, Any]) -> str:
    """A command line with the macros in it replaced, also those within macros; unknown ones stay."""
    for _ in range(_DEPTH):
        changed = _MACRO.sub(lambda found: str(macros.get(found[1], found[0])), command)
        if changed == command:
            break
        command = changed
    return command


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
