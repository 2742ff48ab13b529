"""Finds the process that listens at Ollama's address on this machine: its user, and the settings it runs with.

No call of Ollama's API reports its settings. They are in its environment, which only its own user
and root may read; some of them in the line that it logs at its start; some on the command lines of
its runners, which every user may read.
"""

from __future__ import annotations

import pwd
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psutil

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.ollama.names import parse_address, targets
from aider_guard.proc_net import LISTENING, PROC, SocketRow, holder, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aider_guard.ollama.names import Address

# The settings of a running Ollama server, from three places; None where a place has none.
#
# Only ``OLLAMA_*`` and ``LLAMA_ARG_*`` variables are taken, and none that could hold a secret.

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
    """The settings in a process's environment; a setting that is missing has Ollama's default."""
    try:
        environment = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return None
    # No process has an empty one: that is how macOS hides it.
    return ollama_settings(environment.items()) if environment else None


def from_log(log: Path, pid: int) -> dict[str, str] | None:
    """The settings that the server logged at its start, its defaults too, if this log is of this process.

    Flash attention is left out if it is off there, because that may also mean automatic.
    """
    try:
        started_at = psutil.Process(pid).create_time()
        with log.open("rb") as file:
            text = file.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    except (psutil.Error, OSError):
        return None
    for at, zone, words in _CONFIG.findall(text):
        with suppress(ValueError, OverflowError):  # not a time
            logged_at = datetime.fromisoformat(at + zone.replace("Z", "+00:00")).timestamp()
            if abs(logged_at - started_at) <= LOGGED_WITHIN_SECONDS:
                pairs = [pair for pair in _PAIR.findall(words) if pair[1]]
                return ollama_settings(pair for pair in pairs if pair != (_FLASH, "false"))
    return None


def from_runner(pid: int) -> dict[str, str] | None:
    """The settings with which one of the server's runners was started; None where no model is loaded.

    Its parallel slots may be fewer than the setting says: some models only ever get one.
    """
    try:
        runners = psutil.Process(pid).children()
    except (psutil.Error, OSError):
        return None
    for runner in runners:
        with suppress(psutil.Error, OSError):
            if settings := from_command_line(runner.cmdline()):
                return settings
    return None


def from_command_line(words: Sequence[str]) -> dict[str, str]:
    """The settings on the command line of a runner, by the names of Ollama's variables."""
    settings = {}
    for flag, value in pairwise([*words, "--"]):
        name = _FLAGS.get(flag)
        if name == _FLASH and value.startswith("-"):
            settings[name] = "1"
        elif name and _SWITCH.get(value, value) != "auto":
            settings[name] = _SWITCH.get(value, value)
    return settings


def ollama_settings(variables: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The variables that are Ollama's and no secret, without the passwords in addresses."""
    return {
        name: _USERINFO.sub("", value)
        for name, value in variables
        if _OURS.fullmatch(name) and not _SECRET.search(name)
    }


# How the server is run, by its control group (cgroups(7)), which every user may read.

CGROUPS: Final = Path("/sys/fs/cgroup")
_CONTAINER: Final = re.compile(r"docker|containerd|libpod|kubepods|lxc|crio")


def control_group(pid: int, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[str, float]:
    """How a process is run (``ServerProcess.run_by``), and how many processors it may use at once, 0 for no limit."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return "", 0.0
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    if _CONTAINER.search(path):
        return "container", _quota(path, cgroups)
    unit = path.rpartition("/")[2]
    if not unit.endswith(".service") or unit.startswith("user@"):
        return "", _quota(path, cgroups)
    user = "--user " if "/user@" in path else ""
    return f"systemctl {user}{unit.removesuffix('.service')}", _quota(path, cgroups)


def _quota(path: str, cgroups: Path) -> float:
    """The least of the limits of a control group and of those above it (cgroup-v2, ``cpu.max``)."""
    limits = []
    for folder in (Path(path), *Path(path).parents):
        with suppress(OSError, ValueError, ZeroDivisionError):
            text = (cgroups / str(folder).lstrip("/") / "cpu.max").read_text("ascii")
            quota, period = text.split()
            limits.append(int(quota) / int(period))  # "max" for no limit
    return min(limits, default=0.0)


# The process that listens on a port of this machine, and its user.
#
# Linux lists the user of every socket (``/proc/net/tcp``, proc_pid_net(5)), but shows the process that
# has it open only to the user of that process and to root. macOS shows both only of one's own processes.

SEARCH_SECONDS: Final = 0.05


@dataclass(frozen=True)
class ListeningProcess:
    """The owner of a listening socket. ``pid`` is 0 where the system does not show it."""

    uid: int
    pid: int = 0
    inferred: bool = False
    """Whether ``pid`` is a conclusion: the only Ollama server that this user runs."""
    bound: str = field(default="", compare=False)
    """The address of the socket."""


def find_listener(
    addresses: tuple[Address, ...],
    port: int,
    *,
    proc: Path = PROC,
    clock: Callable[[], float] = time.monotonic,
) -> ListeningProcess | Unavailable:
    """The process that a connection to one of these addresses reaches; earlier addresses come first."""
    if not (proc / "net" / "tcp").exists():
        return _find_own_listener(addresses, port, clock)
    try:
        tables = [proc / "net" / name for name in ("tcp", "tcp6")]  # no tcp6 without IPv6
        table = b"".join(path.read_bytes() for path in tables if path.exists())
    except OSError as error:
        return Unavailable(f"the system does not show which process listens ({error.strerror})")
    socket = _best(tuple(rows(table, port, LISTENING)), addresses)
    if socket is None:
        return Unavailable(f"no process of this machine listens on port {port}")
    processes = _process_names(proc)
    # Processes of Ollama come first, and process 1 comes last: it may hold sockets for others.
    pids = sorted(processes, key=lambda each: (not is_ollama_name(each[1]), -each[0]))
    until = clock() + SEARCH_SECONDS
    if pid := holder(socket.inode, (pid for pid, _ in pids), until=until, proc=proc, clock=clock):
        return ListeningProcess(socket.uid, pid, bound=str(socket.address))
    servers = [pid for pid, name in processes if _is_server(proc, pid, name, socket.uid)]
    found = ListeningProcess(socket.uid, *((servers[0], True) if len(servers) == 1 else ()))
    return replace(found, bound=str(socket.address))


def is_ollama_name(name: str) -> bool:
    """Whether a process of this name is Ollama: the server, one of its runners, or its command-line client."""
    return name.lower().startswith("ollama")


def _is_server(proc: Path, pid: int, name: str, uid: int) -> bool:
    """Whether a process is an Ollama server of this user, by its command line, which every user may read."""
    if not is_ollama_name(name):
        return False
    with suppress(OSError):
        folder = proc / str(pid)
        words = (folder / "cmdline").read_bytes().split(b"\0")
        return words[1:2] in ([b"serve"], [b"start"]) and folder.stat().st_uid == uid
    return False


def _best(sockets: Sequence[SocketRow], addresses: tuple[Address, ...]) -> SocketRow | None:
    """The socket to which the kernel gives a connection: the one that is bound most exactly."""
    candidates = [
        (rank, place, index, socket)
        for place, address in enumerate(addresses)
        for index, socket in enumerate(sockets)
        if (rank := _rank(socket.address, address)) is not None
    ]
    return min(candidates)[-1] if candidates else None


def _rank(bound: Address, wanted: Address) -> int | None:
    """How exactly a socket is bound to an address, 0 the most; None if it gets no connection to it."""
    if bound == wanted:
        return 0
    if not bound.is_unspecified:
        return None
    if bound.version == wanted.version:
        return 1
    return 2 if bound.version == 6 else None  # "::" takes IPv4 as well, by default


def _process_names(proc: Path) -> list[tuple[int, str]]:
    """All processes with their short names."""
    processes = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                name = (entry / "comm").read_text("utf-8", "replace").strip()
                processes.append((int(entry.name), name))
    return processes


def _find_own_listener(
    addresses: tuple[Address, ...], port: int, clock: Callable[[], float]
) -> ListeningProcess | Unavailable:
    """The search where there is no /proc: only through the user's own processes, whose sockets the system shows."""
    deadline = clock() + SEARCH_SECONDS
    processes = sorted(
        psutil.process_iter(["name"]), key=lambda each: not is_ollama_name(each.info["name"] or "")
    )
    for process in processes:
        if clock() > deadline:
            break
        with suppress(psutil.Error, OSError):
            connections = getattr(process, "net_connections", None) or process.connections
            bound = [
                parse_address(each.laddr.ip)
                for each in connections(kind="tcp")
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port
            ]
            if any(_rank(own, wanted) is not None for own in bound if own for wanted in addresses):
                return ListeningProcess(process.uids().real, process.pid)
    return Unavailable(f"this system does not show this user which process listens on port {port}")


# The log of the macOS app (cmd and app/server in Ollama's source); a new file at each start of the server.
APP_LOG: Final = Path("~/.ollama/logs/server.log")


def server_process(
    base_url: str,
    *,
    find: Callable[[tuple[Address, ...], int], ListeningProcess | Unavailable] = find_listener,
    app_log: Path = APP_LOG,
) -> ServerProcess | Unavailable:
    """The process that listens at Ollama's address, or why it is not known. Never raises.

    It may be another program than Ollama: a tunnel, or the proxy of a container. Then its settings are not read.
    """
    addresses = targets(base_url)
    if not addresses:
        return Unavailable("Ollama runs on another machine")
    try:
        port = urlsplit(base_url).port
    except ValueError:
        port = None
    if not port:
        return Unavailable("Ollama's address has no port")
    listener = find(addresses, port)
    if isinstance(listener, Unavailable):
        return listener
    user, name = str(listener.uid), ""
    with suppress(KeyError):  # a container's user has no name here
        user = pwd.getpwuid(listener.uid).pw_name
    with suppress(psutil.Error, OSError):
        name = psutil.Process(listener.pid).name() if listener.pid else ""
    settings, source = _settings(listener, name, user, app_log)
    process = ServerProcess(listener.pid, name, user, settings, source, listener.inferred)
    run_by, quota = control_group(listener.pid) if listener.pid else ("", 0.0)
    return replace(process, run_by=run_by, bound=listener.bound, cpu_quota=quota)


def _settings(
    listener: ListeningProcess, name: str, user: str, app_log: Path
) -> tuple[dict[str, str] | Unavailable, str]:
    """The settings, and where they were read: ``process``, ``log`` or ``runner``."""
    if not listener.pid:
        return Unavailable(f"the system does not show which process of {user} this is"), ""
    if not is_ollama_name(name):
        return Unavailable(f"{name or 'a process that ended'} listens there, not Ollama"), ""
    pid, log = listener.pid, app_log.expanduser()
    if (settings := from_process(pid)) is not None:
        return settings, "process"
    if (settings := from_log(log, pid)) is not None:
        return settings, "log"
    if (settings := from_runner(pid)) is not None:
        return settings, "runner"
    return Unavailable(f"this user may not read the settings of {user}'s process {pid}"), ""


def is_wsl(root: Path = Path("/")) -> bool:
    """Whether this is the Windows Subsystem for Linux: its kernels name Microsoft in /proc/version."""
    try:
        return "microsoft" in (root / "proc/version").read_text(encoding="utf-8").lower()
    except OSError:
        return False
