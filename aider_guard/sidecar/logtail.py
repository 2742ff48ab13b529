"""Where the log of this machine's Ollama server is: a file, the journal, or a container's output.

Ollama logs to stderr. A service manager or a container keeps that, the macOS app writes it to a file, and a server that
was started by hand may have been given one (docs/troubleshooting.md of Ollama's).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.sidecar.here import is_this_machine
from aider_guard.sidecar.listeners import PROC, is_ollama_name
from aider_guard.sidecar.server_process import APP_LOG, server_process

NOT_FOUND: Final = Unavailable("no log of this Ollama server was found that may be read")
ELSEWHERE: Final = Unavailable("Ollama runs on another machine, and so is its log")

# systemd's scopes and docker's own folders (cgroups(7)); the ids have 64 hexadecimal digits.
_CONTAINER: Final = re.compile(r"(?:^|[/:-])(?P<kind>docker|libpod)[-/](?P<id>[0-9a-f]{64})")
_UNIT: Final = re.compile(r"/(?P<unit>[^/\s]+\.service)$", re.MULTILINE)
_INHERITED: Final = ("PATH", "HOME", "XDG_RUNTIME_DIR")


@dataclass(frozen=True)
class LogFileAt:
    """A file."""

    path: Path


@dataclass(frozen=True)
class LogOf:
    """What a command prints while it runs."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What is looked at."""

    proc: Path = PROC
    app_log: Path = APP_LOG
    is_macos: bool = sys.platform == "darwin"
    journals: tuple[Path, ...] = (Path("/var/log/journal"), Path("/run/log/journal"))
    docker_sockets: tuple[Path, ...] = (Path("/var/run/docker.sock"),)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    process: Callable[[str], ServerProcess | Unavailable] = server_process


THIS_MACHINE: Final = Machine()


def find_log(
    base_url: str, named: str = "", machine: Machine = THIS_MACHINE
) -> LogFileAt | LogOf | Unavailable:
    """The log of the server at this address, or why there is none to read. ``named`` is a file that the user named.

    Takes as long as it takes to find the server's process (below 0.1 s); never raises.
    """
    if named:
        path = Path(named).expanduser()
        return LogFileAt(path) if _is_readable_file(path) else Unavailable(f"{path} cannot be read")
    if not is_this_machine(base_url):
        return ELSEWHERE
    server = machine.process(base_url)
    pid = server.pid if isinstance(server, ServerProcess) and is_ollama_name(server.name) else 0
    if pid:
        return _of_process(pid, machine) or _of_app(machine) or NOT_FOUND
    return _of_app(machine) or _of_the_one_container(machine) or NOT_FOUND


def _of_process(pid: int, machine: Machine) -> LogFileAt | LogOf | None:
    """Standard error first: gin's lines are on stdout, all others on stderr."""
    for fd in (2, 1):
        open_file = machine.proc / str(pid) / "fd" / str(fd)
        if _is_readable_file(open_file):
            return LogFileAt(_name_of(open_file))
    groups = _groups(pid, machine)
    return _of_container(groups, machine) or _of_unit(groups, machine)


def _name_of(open_file: Path) -> Path:
    """The file's name, where it leads to the same file: a server's next start may make a new one of that name."""
    with suppress(OSError):
        named = open_file.readlink()
        if named.samefile(open_file):
            return named
    return open_file


def _is_readable_file(path: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK)
    return False


def _groups(pid: int, machine: Machine) -> str:
    """A process's control groups, which everybody may read; "" where there are none."""
    with suppress(OSError):
        return (machine.proc / str(pid) / "cgroup").read_text("utf-8", "replace")
    return ""


def _of_container(groups: str, machine: Machine) -> LogOf | None:
    """``docker`` is told its socket: its own settings may lead it to another machine."""
    match = _CONTAINER.search(groups)
    if match is None:
        return None
    follow = ("logs", "--follow", "--tail", "0", match["id"])
    if match["kind"] == "libpod":
        podman = shutil.which("podman", path=machine.environment.get("PATH"))
        return LogOf((podman, *follow), _environment(machine)) if podman else None
    docker = shutil.which("docker", path=machine.environment.get("PATH"))
    for socket in _docker_sockets(machine):
        if docker and os.access(socket, os.R_OK | os.W_OK):
            return LogOf((docker, "--host", f"unix://{socket}", *follow), _environment(machine))
    return None


def _docker_sockets(machine: Machine) -> Iterator[Path]:
    yield from machine.docker_sockets
    if folder := machine.environment.get("XDG_RUNTIME_DIR"):
        yield Path(folder) / "docker.sock"


def _of_unit(groups: str, machine: Machine) -> LogOf | None:
    """A unit of the system's, or of the user's own service manager."""
    match = _UNIT.search(groups)
    journalctl = shutil.which("journalctl", path=machine.environment.get("PATH"))
    if match is None or journalctl is None:
        return None
    is_users = "/user@" in groups
    name = f"user-{os.getuid()}.journal" if is_users else "system.journal"
    if not any(os.access(journal, os.R_OK) for journal in _journals(name, machine)):
        return None
    flag = "--user-unit" if is_users else "--unit"
    follow = ("--follow", "--lines=0", "--output=cat", "--quiet", "--no-pager")
    return LogOf((journalctl, *follow, f"{flag}={match['unit']}"), _environment(machine))


def _journals(name: str, machine: Machine) -> Iterator[Path]:
    for folder in machine.journals:
        with suppress(OSError):
            yield from folder.glob(f"*/{name}")


def _environment(machine: Machine) -> dict[str, str]:
    """None of the variables that lead a client to another machine."""
    kept = {name: machine.environment[name] for name in _INHERITED if name in machine.environment}
    return {**kept, "LANG": "C.UTF-8"}


def _of_app(machine: Machine) -> LogFileAt | None:
    path = machine.app_log.expanduser()
    return LogFileAt(path) if machine.is_macos and _is_readable_file(path) else None


def _of_the_one_container(machine: Machine) -> LogOf | None:
    """Behind a container's published port listens a proxy: the log is that of the one server in a container."""
    found = {log.command: log for pid in _servers(machine) if (log := _in_container(pid, machine))}
    return next(iter(found.values())) if len(found) == 1 else None


def _in_container(pid: int, machine: Machine) -> LogOf | None:
    return _of_container(_groups(pid, machine), machine)


def _servers(machine: Machine) -> Iterator[int]:
    """Processes that are Ollama's server, by their command lines, which everybody may read."""
    with suppress(OSError):
        for entry in machine.proc.iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    program, verb, *_ = [*(entry / "cmdline").read_bytes().split(b"\0"), b"", b""]
                    if verb in (b"serve", b"start") and is_ollama_name(
                        Path(os.fsdecode(program)).name
                    ):
                        yield int(entry.name)
