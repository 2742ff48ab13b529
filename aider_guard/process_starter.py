"""Starts the guard's helpers as forks of one process that loads all their code before Aider begins.

A program inside may find a way to change the guard's files, and to kill a helper so that the guard starts another one.
So helpers run what is in memory by then: no module is read from a file that this user may change once all are loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.abc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# `python -m` looks for modules in the working directory first, and the user's may hold a json.py.
PACKAGE_PARENT: Final = Path(__file__).resolve().parents[1]
_LOADED: Final = b"l"
_MOST_FDS: Final = 250
_HIGH_FD: Final = 500
"""Descriptors are moved up here first: their places may be taken by others."""

_requests: socket.socket | None = None
"""Where this process asks for helpers; None where it starts them itself."""


class NotLoadedError(ImportError):
    """A module was asked for that was not loaded before Aider began, and that a program inside may have changed."""


class _LoadedOnly(importlib.abc.MetaPathFinder):
    """Finds only modules in files that this user may not change."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find. Raises NotLoadedError."""
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.has_location and may_change(spec.origin or ""):
                    raise NotLoadedError(f"{name} was not loaded before Aider began", name=name)
                return spec
        return None


def may_change(path: str) -> bool:
    """Whether this user may change the file at a path, or put another one there."""
    real = Path(os.path.realpath(path))
    return any(os.access(part, os.W_OK) for part in (real, *real.parents))


def forbid_loading() -> None:
    """From now on load no module from a file that this user may change. Twice is no error."""
    if not any(isinstance(finder, _LoadedOnly) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LoadedOnly())


# The end of a process that wants a helper.


class ForkedProcess:
    """A helper that was forked by the starter, with the methods of ``subprocess.Popen`` that its users need.

    Nothing here blocks but ``wait``. ``pid`` is 0 until the starter has forked it: one that is given up before ends by
    itself, as its stdin is closed then.
    """

    def __init__(
        self,
        requests: socket.socket,
        request: Mapping[str, object],
        stderr: int | None,
        pass_fds: Sequence[int],
    ) -> None:
        self._text, self._status_fd = b"", -1
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            pipes = [os.pipe() for _ in range(3)]
            (to_read, to_write), (from_read, from_write), (status_read, status_write) = pipes
            for fd in (to_read, from_write, status_write):
                theirs.callback(os.close, fd)
            self.stdin = ours.enter_context(open(to_write, "wb", 0))
            self.stdout = ours.enter_context(open(from_read, "rb", 0))
            ours.callback(os.close, status_read)
            os.set_blocking(status_read, False)
            no_output = theirs.enter_context(open(os.devnull, "wb"))
            errors = no_output.fileno() if stderr == subprocess.DEVNULL else stderr or 2
            # In memory: the environment may hold a key.
            body = theirs.enter_context(open(os.memfd_create("request"), "wb"))
            body.write(json.dumps(request).encode("ascii"))
            body.flush()
            fds = [body.fileno(), status_write, to_read, from_write, errors, *pass_fds]
            socket.send_fds(requests, [b"s"], fds, socket.MSG_DONTWAIT)
            ours.pop_all()
        self._status_fd = status_read

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._status_fd >= 0:
            os.close(self._status_fd)
        self._status_fd = -1

    @property
    def pid(self) -> int:
        """The process id; 0 until it is known."""
        return (self._numbers() or [0])[0]

    def poll(self) -> int | None:
        """Return its status as ``subprocess`` gives it; None while it runs, -9 where the starter is gone."""
        numbers = self._numbers()
        if len(numbers) > 1:
            return numbers[1]
        return -signal.SIGKILL if self._status_fd < 0 else None

    def wait(self, timeout: float) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            select.select([self._status_fd], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("a helper", timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _numbers(self) -> list[int]:
        """Its process id and its status, as far as they are known."""
        while self._status_fd >= 0:
            try:
                data = os.read(self._status_fd, 64)
            except BlockingIOError:
                break  # nothing more for now
            self._text += data
            if not data:
                self._close()
        return [int(number) for number in self._text.split(b"\n")[:-1]]


def start(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    *,
    stderr: int | None,
    pass_fds: Sequence[int],
    own_session: bool,
) -> subprocess.Popen[bytes] | ForkedProcess:
    """Start a helper, ``PYTHON -m MODULE …``, by the starter where there is one. Raises OSError."""
    if _requests is not None and list(command[:2]) == [sys.executable, "-m"]:
        request = {
            "module": command[2],
            "arguments": list(command[3:]),
            "environment": dict(os.environ if environment is None else environment),
            "fds": [0, 1, 2, *pass_fds],
            "own_session": own_session,
        }
        return ForkedProcess(_requests, request, stderr, pass_fds)
    return subprocess.Popen(
        command,
        cwd=PACKAGE_PARENT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=own_session,
    )


class ProcessStarter:
    """The starter as the guard sees it. As a ``with``: this process's helpers are started by it, and it ends then.

    ``modules`` are loaded in their order, and the function ``find_programs`` is called of one that has it. A helper's
    own module comes after all that it loads later.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        fds = [theirs.fileno(), self._requests.fileno()]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, fds), *modules],
                cwd=PACKAGE_PARENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
            )
        self._has_loaded = False
        self.is_final = False
        """Whether this process, too, loads nothing more."""

    def __enter__(self) -> ProcessStarter:
        global _requests  # noqa: PLW0603  # one a process
        _requests = self._requests
        return self

    def __exit__(self, *_: object) -> None:
        global _requests  # noqa: PLW0603
        _requests = None
        self._requests.close()
        self._process.kill()
        self._process.communicate()

    def fileno(self) -> int:
        """Readable when all is loaded, or the starter has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def has_loaded(self, within_seconds: float | None = 0.0) -> bool:
        """Whether all is loaded, or the starter has ended; waits for it at most so long, None without an end."""
        self._has_loaded = self._has_loaded or bool(
            select.select([self.fileno()], [], [], within_seconds)[0]
        )
        return self._has_loaded


# The starter itself.


@dataclass
class _Server:
    """Forks helpers as they are asked for, and tells the askers how they end."""

    channel: socket.socket
    askers_end: socket.socket
    wakeups: int
    loaded: set[str] = field(default_factory=set)
    waiting: list[tuple[dict[str, Any], list[int]]] = field(default_factory=list)
    running: dict[int, int] = field(default_factory=dict)

    def serve(self, seconds: float | None) -> None:
        """Do what there is to do, after waiting for it at most so long."""
        ends: list[socket.socket | int] = [self.channel, 0, self.wakeups]
        readable, _, _ = select.select(ends, [], [], seconds)
        if 0 in readable:  # the guard has ended
            os._exit(0)
        if self.wakeups in readable:
            os.read(self.wakeups, 512)
            self._reap()
        if self.channel in readable:
            self._receive()
        self._fork_loaded()

    def load(self, module: str) -> None:
        """Load a module, have it look for programs that it starts later, and start the helpers that waited for it."""
        getattr(importlib.import_module(module), "find_programs", lambda: None)()
        self.loaded.add(module)
        self._fork_loaded()

    def _fork_loaded(self) -> None:
        for request, fds in [one for one in self.waiting if _main(one[0]) in self.loaded]:
            self.waiting.remove((request, fds))
            self._fork(request, fds)

    def _receive(self) -> None:
        _, fds, _, _ = socket.recv_fds(self.channel, 8, _MOST_FDS)
        with open(fds[0], "rb") as body:
            request = json.loads(os.pread(body.fileno(), os.fstat(body.fileno()).st_size, 0))
        self.waiting.append((request, fds[1:]))

    def _fork(self, request: dict[str, Any], fds: list[int]) -> None:
        status, *others = fds
        pid = os.fork()
        if pid == 0:
            _become(request, status, others, self.askers_end)
        self.running[pid] = status
        for fd in others:
            os.close(fd)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                asker = self.running.pop(pid)
                _tell(asker, os.waitstatus_to_exitcode(status))
                os.close(asker)


def _tell(asker: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # it does not wait for that any more
        os.write(asker, b"%d\n" % number)


def _main(request: Mapping[str, Any]) -> str:
    """The module with the helper's ``main``: a package's is in a module of its own."""
    name: str = request["module"]
    is_package = hasattr(sys.modules.get(name), "__path__")
    return f"{name}.__main__" if is_package else name


def _become(
    request: Mapping[str, Any], asker: int, fds: Sequence[int], askers_end: socket.socket
) -> NoReturn:
    """Run in the fork: become the helper. Never returns."""
    global _requests  # noqa: PLW0603
    status = 70
    try:
        _tell(asker, os.getpid())  # before anything that the helper says
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request["own_session"]:
            os.setsid()
        askers_end = socket.socket(fileno=fcntl.fcntl(askers_end, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD))
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for fd in fds]
        for fd, target in zip(high, request["fds"], strict=True):
            os.dup2(fd, target)
        kept = {*request["fds"], askers_end.fileno()}
        for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if fd not in kept:
                with contextlib.suppress(OSError):
                    os.close(fd)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        _requests = askers_end
        forbid_loading()
        main: Callable[[], object] = sys.modules[_main(request)].main
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # the fork must not go on as the starter
        traceback.print_exc()
    finally:
        os._exit(status)


def _told_of_children() -> int:
    """A descriptor that is readable when a child has ended."""
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def main() -> NoReturn:
    """Run the starter until the guard closes its stdin."""
    channel, askers_end = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    server = _Server(channel, askers_end, _told_of_children())
    for module in sys.argv[3:]:
        server.serve(0)
        server.load(module)
    forbid_loading()
    os.write(1, _LOADED)
    while True:
        server.serve(None)


if __name__ == "__main__":
    # By its own name: the helpers' modules know this module by it.
    importlib.import_module("aider_guard.process_starter").main()
