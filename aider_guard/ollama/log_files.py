"""Finds and follows the log of this machine's Ollama server: a file, the journal, or a container's output.

Ollama logs to stderr. A service manager or a container keeps that, the macOS app writes it to a file, and a server that
was started by hand may write to one (Ollama's docs/troubleshooting.md).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.ollama.log_lines import LINE_BYTES, DebugLine, LogLine, read_line
from aider_guard.ollama.names import is_this_machine
from aider_guard.ollama.server_process import APP_LOG, is_ollama_name, server_process
from aider_guard.proc_net import PROC
from aider_guard.process_starter import may_change

NOT_FOUND: Final = Unavailable("no readable log of this Ollama server was found")
ELSEWHERE: Final = Unavailable("Ollama runs on another machine, where its log is")

# systemd's scopes and docker's own folders (cgroups(7)); the ids have 64 hexadecimal digits.
_CONTAINER: Final = re.compile(r"(?:^|[/:-])(?P<kind>docker|libpod)[-/](?P<id>[0-9a-f]{64})")
_UNIT: Final = re.compile(r"/(?P<unit>[^/\s]+\.service)$", re.MULTILINE)
_INHERITED: Final = ("PATH", "HOME", "XDG_RUNTIME_DIR")


@dataclass(frozen=True)
class LogFileAt:
    """A log that is a file."""

    path: Path


@dataclass(frozen=True)
class LogOf:
    """A log that is the output of a command, which prints it until it is ended."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """The parts of this machine that the search for a log reads."""

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
    """The log of the server at this address, or why none can be read. ``named`` is a file that the user named.

    Takes as long as the search for the server's process (below 0.1 s); never raises.
    """
    if named:
        path = Path(named).expanduser()
        return LogFileAt(path) if _is_readable_file(path) else Unavailable(f"{path} cannot be read")
    if not is_this_machine(base_url):
        return ELSEWHERE
    server = machine.process(base_url)
    pid = server.pid if isinstance(server, ServerProcess) and is_ollama_name(server.name) else 0
    if not pid:
        return _of_app(machine) or _of_the_one_container(machine) or NOT_FOUND
    for fd in (2, 1):  # standard error first: gin's lines are on stdout, all others on stderr
        open_file = machine.proc / str(pid) / "fd" / str(fd)
        if _is_readable_file(open_file):
            return LogFileAt(_path_of(open_file))
    groups = _groups(pid, machine)
    log = _of_container(groups, machine) or _of_unit(groups, machine)
    return log or _of_app(machine) or NOT_FOUND


def _path_of(open_file: Path) -> Path:
    """The path of an open file, if it still leads to that file: the next start of a server may make a new one there."""
    with suppress(OSError):
        path = open_file.readlink()
        if path.samefile(open_file):
            return path
    return open_file


def _is_readable_file(path: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK)
    return False


def _groups(pid: int, machine: Machine) -> str:
    """The control groups of a process, which every user may read; "" where there are none."""
    with suppress(OSError):
        return (machine.proc / str(pid) / "cgroup").read_text("utf-8", "replace")
    return ""


@functools.cache
def find_program(name: str, search_path: str) -> str | None:
    """Return the absolute path of a program on a PATH, as it was at the first question: one that comes later is not it.

    One that this user may not change is preferred: a program inside the air gap could have written any other.
    """
    folders = [folder for folder in search_path.split(os.pathsep) if os.path.isabs(folder)]
    found = [path for folder in folders if (path := shutil.which(name, path=folder)) is not None]
    return next((path for path in found if not may_change(path)), next(iter(found), None))


def find_programs() -> None:
    """Look for all of them now, before Aider begins."""
    for name in ("podman", "docker", "journalctl"):
        find_program(name, os.environ.get("PATH", os.defpath))


def _of_container(groups: str, machine: Machine) -> LogOf | None:
    """The log of a container. ``docker`` gets its socket as an option: its settings may lead to another machine."""
    match = _CONTAINER.search(groups)
    if match is None:
        return None
    follow = ("logs", "--follow", "--tail", "0", match["id"])
    if match["kind"] == "libpod":
        podman = find_program("podman", machine.environment.get("PATH", os.defpath))
        return LogOf((podman, *follow), _environment(machine)) if podman else None
    docker = find_program("docker", machine.environment.get("PATH", os.defpath))
    folder = machine.environment.get("XDG_RUNTIME_DIR")
    for socket in (*machine.docker_sockets, *([Path(folder) / "docker.sock"] if folder else [])):
        if docker and os.access(socket, os.R_OK | os.W_OK):
            return LogOf((docker, "--host", f"unix://{socket}", *follow), _environment(machine))
    return None


def _of_unit(groups: str, machine: Machine) -> LogOf | None:
    """The log of a unit, of the system's service manager or the user's."""
    match = _UNIT.search(groups)
    journalctl = find_program("journalctl", machine.environment.get("PATH", os.defpath))
    if match is None or journalctl is None:
        return None
    of_user = "/user@" in groups
    name = f"user-{os.getuid()}.journal" if of_user else "system.journal"
    if not any(os.access(journal, os.R_OK) for journal in _journals(name, machine)):
        return None
    flag = "--user-unit" if of_user else "--unit"
    follow = ("--follow", "--lines=0", "--output=cat", "--quiet", "--no-pager")
    return LogOf((journalctl, *follow, f"{flag}={match['unit']}"), _environment(machine))


def _journals(name: str, machine: Machine) -> Iterator[Path]:
    for folder in machine.journals:
        with suppress(OSError):
            yield from folder.glob(f"*/{name}")


def _environment(machine: Machine) -> dict[str, str]:
    """The environment of a command, without the variables that could lead a client to another machine."""
    kept = {name: machine.environment[name] for name in _INHERITED if name in machine.environment}
    return {**kept, "LANG": "C.UTF-8"}


def _of_app(machine: Machine) -> LogFileAt | None:
    path = machine.app_log.expanduser()
    return LogFileAt(path) if machine.is_macos and _is_readable_file(path) else None


def _of_the_one_container(machine: Machine) -> LogOf | None:
    """The log of the only Ollama server in a container: the process behind a published port is a proxy."""
    groups = (_groups(pid, machine) for pid in _servers(machine))
    logs = {log.command: log for group in groups if (log := _of_container(group, machine))}
    return next(iter(logs.values())) if len(logs) == 1 else None


def _servers(machine: Machine) -> Iterator[int]:
    """The processes that are Ollama servers, by their command lines, which every user may read."""
    with suppress(OSError):
        for entry in machine.proc.iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    program, verb, *_ = [*(entry / "cmdline").read_bytes().split(b"\0"), b"", b""]
                    name = Path(os.fsdecode(program)).name
                    if verb in (b"serve", b"start") and is_ollama_name(name):
                        yield int(entry.name)


# Following a log: the recognised lines since a mark.
#
# A file is read only on demand, from the place where reading ended before: between the requests it costs nothing. The
# output of a child (a journal, a container) is read by a thread as it comes. Only the numbers in recognised lines are
# kept.

CHUNK_BYTES: Final = 65536
MAX_BEHIND_BYTES: Final = 16 * 1024 * 1024
"""How much of a file is read at once; if there is more, only its end is read."""
MAX_LINES: Final = 2000


class FollowedLog(ABC):
    """A log that is read from marks on; a mark is a number of bytes, which only grows."""

    def __init__(self) -> None:
        self._lines = LogLines()

    @property
    def tells_all(self) -> bool:
        """Whether it has had lines of the level DEBUG, so that Ollama logs all that it does."""
        return self._lines.tells_all

    @abstractmethod
    def mark(self) -> int:
        """The present end of the log. Does not block."""

    @abstractmethod
    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """The recognised lines after a mark that are written so far. May block while they are read."""

    @abstractmethod
    def close(self) -> None:
        """Release the file or the thread."""


class LogLines:
    """Collects the recognised lines of a log from its bytes, with their places. Keeps the beginning of an incomplete
    line.
    """

    def __init__(self) -> None:
        self.at = 0
        """The place up to which the log has been read."""
        self.tells_all = False
        self._line = bytearray()
        self._recognised: deque[tuple[int, LogLine]] = deque()
        self._known_from = 0

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self.at += len(piece) + 1
            self._add(piece)
            line = read_line(bytes(self._line))
            self._line.clear()
            if isinstance(line, DebugLine):
                self.tells_all = True
            elif line is not None:
                self._recognised.append((self.at, line))
            while len(self._recognised) > MAX_LINES:
                self._known_from = self._recognised.popleft()[0]
        self.at += len(rest)
        self._add(rest)

    def skip(self, size_bytes: int) -> None:
        """Leave out so many bytes. Marks before them get no lines any more."""
        self.at += size_bytes
        self._line.clear()
        self._known_from = self.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """The recognised lines after a mark, as far as the log was read."""
        if mark < self._known_from:
            return Unavailable("the log grew too fast to be read")
        return tuple(line for place, line in self._recognised if place > mark)

    def _add(self, piece: bytes) -> None:
        self._line += piece[: max(LINE_BYTES - len(self._line), 0)]


@dataclass(frozen=True)
class _FilePosition:
    """An open file, an offset in it, and the place in the log that this offset is."""

    fd: int
    offset: int
    at: int


class LogFile(FollowedLog):
    """Follows a file that a server writes, also into the next file of the same name after a rotation, and from the
    beginning after the file was truncated.
    """

    def __init__(self, path: Path) -> None:
        """Follow the file from its present end. Raises ``OSError``."""
        super().__init__()
        self._path = path
        fd = _open(path)
        self._position = _FilePosition(fd, os.fstat(fd).st_size, 0)
        self._reading = threading.Lock()

    def mark(self) -> int:
        """See `FollowedLog`."""
        position = self._position
        with suppress(OSError):
            size = os.fstat(position.fd).st_size
            rest = size - position.offset if size >= position.offset else size
            status = self._path.stat()
            return position.at + rest + (0 if _is_open_as(position.fd, status) else status.st_size)
        return position.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """See `FollowedLog`."""
        try:
            with self._reading:
                self._read_on()
                return self._lines.since(mark)
        except OSError as error:
            return Unavailable(f"the server's log cannot be read ({error.strerror})")

    def close(self) -> None:
        """See `FollowedLog`."""
        with self._reading, suppress(OSError):
            os.close(self._position.fd)

    def _read_on(self) -> None:
        """Read to the end of the file, and all of the next one if the file was replaced."""
        self._read_file()
        with suppress(FileNotFoundError):  # between the renaming and the new file
            if not _is_open_as(self._position.fd, self._path.stat()):
                fd = _open(self._path)
                old, self._position = self._position, _FilePosition(fd, 0, self._lines.at)
                os.close(old.fd)
                self._read_file()

    def _read_file(self) -> None:
        fd, offset = self._position.fd, self._position.offset
        size = os.fstat(fd).st_size
        if size < offset:
            offset = 0
        if size - offset > MAX_BEHIND_BYTES:
            self._lines.skip(size - MAX_BEHIND_BYTES - offset)
            offset = size - MAX_BEHIND_BYTES
        while chunk := os.pread(fd, CHUNK_BYTES, offset):
            self._lines.feed(chunk)
            offset += len(chunk)
            self._position = _FilePosition(fd, offset, self._lines.at)
        self._position = _FilePosition(fd, offset, self._lines.at)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _is_open_as(fd: int, status: os.stat_result) -> bool:
    """Whether a descriptor has the file open that has this status."""
    return os.path.samestat(os.fstat(fd), status)


class LogStream(FollowedLog):
    """Follows the output of a child, which prints a log, until it ends."""

    def __init__(self, fd: int, ended: str) -> None:
        """``ended`` is the reason that is reported after the end of the output."""
        super().__init__()
        self._fd = fd
        self._lock = threading.Lock()
        self._ended = Unavailable(ended)
        self._end: Unavailable | None = None
        self._thread = threading.Thread(target=self._read, name="ollama-log", daemon=True)
        self._thread.start()

    def mark(self) -> int:
        """See `FollowedLog`."""
        return self._lines.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """See `FollowedLog`."""
        with self._lock:
            return self._end or self._lines.since(mark)

    def close(self) -> None:
        """See `FollowedLog`. The child must have ended."""
        self._thread.join(timeout=1)

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self._fd, CHUNK_BYTES):
                with self._lock:
                    self._lines.feed(chunk)
        self._end = self._ended


# A child that prints a log, and ends when this process does, in whatever way.
#
# A shell starts it and waits for the end of a pipe that this process holds open: the pipe also closes when this process
# is killed by SIGKILL, which a child could not notice otherwise before it writes its next line.

STOP_SECONDS: Final = 2.0

_WATCHED: Final = (
    '"$@" </dev/null & child=$!; exec >/dev/null; cat; kill "$child" 2>/dev/null; wait'
)


@contextmanager
def followed_child(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[LogStream]:
    """The output of ``command`` as a log; the command ends with the context. Raises ``OSError`` without a shell."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHED, "sh", *command],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stream = LogStream(process.stdout.fileno(), f"{command[0]} has ended")
    try:
        yield stream
    finally:
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        stream.close()
        process.stdout.close()
