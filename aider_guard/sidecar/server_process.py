"""The process behind Ollama's address, on this machine: its user, and the settings it runs with.

No call of Ollama's API tells its settings. They are in its environment, which only its own user
and root may read; some of them in the line that it logs at its start; some on the command lines of
its runners, which everybody may read.
"""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psutil

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.sidecar import server_settings
from aider_guard.sidecar.here import targets
from aider_guard.sidecar.listeners import Listener, find_listener, is_ollama_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from aider_guard.sidecar.here import Address

# The macOS app's (cmd and app/server in Ollama's source); a new file at each start of the server.
APP_LOG: Final = Path("~/.ollama/logs/server.log")


def server_process(
    base_url: str,
    *,
    find: Callable[[tuple[Address, ...], int], Listener | Unavailable] = find_listener,
    app_log: Path = APP_LOG,
) -> ServerProcess | Unavailable:
    """The process that listens where Ollama is asked for, or why it cannot be known. Never raises.

    It may be none of Ollama's: a tunnel, a proxy, a container's. Then it has no settings to tell.
    """
    addresses = targets(base_url)
    if not addresses:
        return Unavailable("Ollama runs on another machine")
    port = _port(base_url)
    if not port:
        return Unavailable("Ollama's address has no port")
    listener = find(addresses, port)
    if isinstance(listener, Unavailable):
        return listener
    user, name = _user_name(listener.uid), _name(listener.pid) if listener.pid else ""
    settings, source = _settings(listener, name, user, app_log)
    return ServerProcess(listener.pid, name, user, settings, source, listener.inferred)


def _port(base_url: str) -> int:
    """The port of an address as names.connectable_base makes them, or 0."""
    try:
        return urlsplit(base_url).port or 0
    except ValueError:
        return 0


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user
        return str(uid)


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, OSError):
        return ""


def _settings(
    listener: Listener, name: str, user: str, app_log: Path
) -> tuple[dict[str, str] | Unavailable, str]:
    """The settings, and where they were read: process, log or runner."""
    if not listener.pid:
        return Unavailable(f"the system does not tell which process of {user} this is"), ""
    if not is_ollama_name(name):
        why = f"{name or 'a process that ended'} listens there, not Ollama itself"
        return Unavailable(why), ""
    pid, log = listener.pid, app_log.expanduser()
    if (settings := server_settings.from_process(pid)) is not None:
        return settings, "process"
    if (settings := server_settings.from_log(log, pid)) is not None:
        return settings, "log"
    if (settings := server_settings.from_runner(pid)) is not None:
        return settings, "runner"
    return Unavailable(f"the settings of {user}'s process {listener.pid} may not be read here"), ""
