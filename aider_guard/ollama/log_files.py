"""Where the log of this machine's Ollama server is: a file, the journal, or a container's output.

Ollama logs to stderr. A service manager or a container keeps that, the macOS app writes it to a file, and a server that
was started by hand may have been given one (docs/troubleshooting.md of Ollama's).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.ollama.log_lines import LINE_BYTES, DebugLine, LogLine, read_line
from aider_guard.ollama.names import is_this_machine
from aider_guard.ollama.server_process import APP_LOG, PROC, is_ollama_name, server_process

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


# A log that is followed: what it said since a mark, and nothing else of it.
#
# A file is read only when it is asked for, from where it was read last: between the requests it costs nothing. A
# child's output (a journal, a container) is read by a thread as it comes. Of both only the numbers of recognised lines
# are kept.

CHUNK_BYTES: Final = 65536
MAX_BEHIND_BYTES: Final = 16 * 1024 * 1024
"""How much of a log is read at once; of more only the end is."""
MAX_SAYINGS: Final = 2000

_NEWLINE: Final = b"\n"


class FollowedLog(Protocol):
    """A log whose places are numbers that only grow."""

    def mark(self) -> int:
        """The place where it ends now. Does not block."""

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """What it says from this place on, as far as it is written. May block for the time of reading it."""

    @property
    def tells_all(self) -> bool:
        """Whether lines of the level DEBUG were seen in it."""

    def close(self) -> None:
        """Let go of it."""


class LogLines:
    """Bytes of a log → what its lines say, and where. Of a line that is not complete its beginning is held."""

    def __init__(self, start: int = 0) -> None:
        self.at = start
        """The place up to which the log was read."""
        self.tells_all = False
        self._line = bytearray()
        self._said: deque[tuple[int, LogLine]] = deque()
        self._known_from = start

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        *complete, rest = chunk.split(_NEWLINE)
        for piece in complete:
            self.at += len(piece) + 1
            self._add(piece)
            self._note(bytes(self._line))
            self._line.clear()
        self.at += len(rest)
        self._add(rest)

    def skip(self, size_bytes: int) -> None:
        """These bytes are not read: of what was said before them nothing is told any more."""
        self.at += size_bytes
        self._line.clear()
        self._known_from = self.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """What was said from this place on, as far as it was read."""
        if mark < self._known_from:
            return Unavailable("the log grew too fast to be read")
        return tuple(said for place, said in self._said if place > mark)

    def _add(self, piece: bytes) -> None:
        self._line += piece[: max(LINE_BYTES - len(self._line), 0)]

    def _note(self, line: bytes) -> None:
        said = read_line(line)
        if isinstance(said, DebugLine):
            self.tells_all = True
        elif said is not None:
            self._said.append((self.at, said))
        while len(self._said) > MAX_SAYINGS:
            self._known_from = self._said.popleft()[0]


@dataclass(frozen=True)
class _Place:
    """An open file, and where in it the log's place is."""

    fd: int
    offset: int
    at: int


class LogFile:
    """A file that others write. A new file of the same name follows it, as after a rotation; so does one cut short."""

    def __init__(self, path: Path) -> None:
        """Follow it from its end. Raises ``OSError``."""
        self._path = path
        fd = _open(path)
        self._place = _Place(fd, os.fstat(fd).st_size, 0)
        self._sayings = LogLines()
        self._reading = threading.Lock()

    @property
    def tells_all(self) -> bool:
        """See `FollowedLog`."""
        return self._sayings.tells_all

    def mark(self) -> int:
        """See `FollowedLog`."""
        place = self._place
        with suppress(OSError):
            size = os.fstat(place.fd).st_size
            rest = size - place.offset if size >= place.offset else size
            now = self._path.stat()
            is_same = (now.st_dev, now.st_ino) == _identity(place.fd)
            return place.at + rest + (0 if is_same else now.st_size)
        return place.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """See `FollowedLog`."""
        try:
            with self._reading:
                self._read_on()
                return self._sayings.since(mark)
        except OSError as error:
            return Unavailable(f"the server's log cannot be read ({error.strerror})")

    def close(self) -> None:
        """See `FollowedLog`."""
        with self._reading, suppress(OSError):
            os.close(self._place.fd)

    def _read_on(self) -> None:
        """Read to the end of the file, and all of the next one where it was replaced."""
        self._read_file()
        with suppress(FileNotFoundError):  # between the renaming and the new file
            now = self._path.stat()
            if (now.st_dev, now.st_ino) != _identity(self._place.fd):
                fd = _open(self._path)
                old, self._place = self._place, _Place(fd, 0, self._sayings.at)
                os.close(old.fd)
                self._read_file()

    def _read_file(self) -> None:
        place = self._place
        size = os.fstat(place.fd).st_size
        if size < place.offset:
            place = _Place(place.fd, 0, place.at)
        if size - place.offset > MAX_BEHIND_BYTES:
            skipped = size - place.offset - MAX_BEHIND_BYTES
            self._sayings.skip(skipped)
            place = _Place(place.fd, place.offset + skipped, self._sayings.at)
        while chunk := os.pread(place.fd, CHUNK_BYTES, place.offset):
            self._sayings.feed(chunk)
            place = _Place(place.fd, place.offset + len(chunk), self._sayings.at)
            self._place = place
        self._place = place


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class LogStream:
    """The output of a child that follows the log for us; read until it ends."""

    def __init__(self, fd: int, ended: Callable[[], str]) -> None:
        """``ended`` says why, after the output's end."""
        self._fd = fd
        self._sayings = LogLines()
        self._lock = threading.Lock()
        self._ended = ended
        self._end: Unavailable | None = None
        self._thread = threading.Thread(target=self._read, name="ollama-log", daemon=True)
        self._thread.start()

    @property
    def tells_all(self) -> bool:
        """See `FollowedLog`."""
        return self._sayings.tells_all

    def mark(self) -> int:
        """See `FollowedLog`."""
        return self._sayings.at

    def since(self, mark: int) -> tuple[LogLine, ...] | Unavailable:
        """See `FollowedLog`."""
        with self._lock:
            return self._end or self._sayings.since(mark)

    def close(self) -> None:
        """See `FollowedLog`. Its child must have been ended."""
        self._thread.join(timeout=1)

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self._fd, CHUNK_BYTES):
                with self._lock:
                    self._sayings.feed(chunk)
        self._end = Unavailable(self._ended())


# A child that follows a log for us, and ends when we do, however we end.
#
# A shell starts it and waits for the end of a pipe that we hold: it closes when this process is gone, killed by SIGKILL
# too, which a child cannot learn otherwise before it writes its next line.

STOP_SECONDS: Final = 2.0

_WATCHED: Final = (
    '"$@" </dev/null & child=$!; exec >/dev/null; cat; kill "$child" 2>/dev/null; wait'
)


@contextmanager
def followed_child(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[LogStream]:
    """What ``command`` prints, as a log. Raises ``OSError`` when there is no shell."""
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
    stream = LogStream(process.stdout.fileno(), lambda: f"{command[0]} has ended")
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
