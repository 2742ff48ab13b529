"""The settings of a running Ollama server, from three places; None where a place does not tell.

Only ``OLLAMA_*`` and ``LLAMA_ARG_*`` variables are taken, and none that could hold a secret.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MAX_LOG_BYTES: Final = 1024 * 1024
# The line comes milliseconds after the start; the system's start times are exact to 10 ms.
LOGGED_WITHIN_SECONDS: Final = 30.0

_OURS: Final = re.compile(r"(?:OLLAMA|LLAMA_ARG)_[A-Z0-9_]+")
_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|AUTH|CREDENTIAL")
_USERINFO: Final = re.compile(r"(?<=//)[^/@\s]*@")
# envconfig.AsMap, printed by Go and quoted by slog (routes.go).
_CONFIG: Final = re.compile(
    r"^time=([0-9-]{10}T[0-9:]{8})(?:\.[0-9]+)?(Z|[+-][0-9:]{5}) .*"
    r'msg="server config" env="map\[(.*)\]"$',
    re.MULTILINE,
)
_PAIR: Final = re.compile(r"(?:^| )([A-Za-z][A-Za-z0-9_]*):(\[[^\]]*\]|.*?)(?= [A-Za-z]\w*:|$)")

_PARALLEL: Final = "OLLAMA_NUM_PARALLEL"
_KV_TYPE: Final = "OLLAMA_KV_CACHE_TYPE"
_FLASH: Final = "OLLAMA_FLASH_ATTENTION"
# llm/llama_server.go (0.30 and later), llm/server.go (before).
_FLAGS: Final = {
    "-np": _PARALLEL,
    "--parallel": _PARALLEL,
    "--cache-type-k": _KV_TYPE,
    "--kv-cache-type": _KV_TYPE,
    "--flash-attn": _FLASH,
}
_SWITCH: Final = {"on": "1", "off": "0"}


def from_process(pid: int) -> dict[str, str] | None:
    """The variables that the process was started with: what is not there has Ollama's default."""
    try:
        environment = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return None
    # No process has an empty one: that is how macOS hides it.
    return chosen(environment.items()) if environment else None


def from_log(log: Path, pid: int) -> dict[str, str] | None:
    """What the server logged at its start, if this log is of this process: also its defaults.

    Flash attention that is off there may as well be automatic, and is left out.
    """
    try:
        started_at = psutil.Process(pid).create_time()
        with log.open("rb") as file:
            text = file.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    except (psutil.Error, OSError):
        return None
    for at, zone, words in _CONFIG.findall(text):
        if abs(_seconds(at, zone) - started_at) <= LOGGED_WITHIN_SECONDS:
            told = [pair for pair in _PAIR.findall(words) if pair[1] and pair != (_FLASH, "false")]
            return chosen(told)
    return None


def _seconds(at: str, zone: str) -> float:
    """Seconds since 1970, or a time that is near none."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(at + zone.replace("Z", "+00:00")).timestamp()
    return float("-inf")


def from_runner(pid: int) -> dict[str, str] | None:
    """What one of the server's runners was started with, where a model is loaded.

    Parallel slots may be fewer than the setting: some models only ever get one.
    """
    try:
        runners = psutil.Process(pid).children()
    except (psutil.Error, OSError):
        return None
    for runner in runners:
        with suppress(psutil.Error, OSError):
            settings = from_command_line(runner.cmdline())
            if settings:
                return settings
    return None


def from_command_line(words: Sequence[str]) -> dict[str, str]:
    """The settings that a runner's command line shows, in the words of the variables."""
    settings = {}
    for flag, value in pairwise([*words, "--"]):
        name = _FLAGS.get(flag)
        if name == _FLASH and value.startswith("-"):
            settings[name] = "1"
        elif name and _SWITCH.get(value, value) != "auto":
            settings[name] = _SWITCH.get(value, value)
    return settings


def chosen(variables: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those that are Ollama's and no secret; a password in an address is taken out."""
    return {
        name: _USERINFO.sub("", value)
        for name, value in variables
        if _OURS.fullmatch(name) and not _SECRET.search(name)
    }
