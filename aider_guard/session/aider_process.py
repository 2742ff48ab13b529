"""Runs Aider in a pty of its own: its start, size, signals and terminal modes, its output on the relay, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import termios
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import ptyprocess

from aider_guard.errors import LaunchError
from aider_guard.loop import READ
from aider_guard.session.terminal import Size, put_size
from aider_guard.signals import INHERITED, all_blocked

# Only the start of a process is left to pexpect, and only here: its ``interact``, ``send``, ``isalive`` and
# ``terminate`` lose output, sleep, or block.

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aider_guard.loop import Loop
    from aider_guard.session.relay import Relay
    from aider_guard.session.side_channels import SideChannels
    from aider_guard.session.terminal import Terminal

    _PexpectSpawn = pexpect.spawn[bytes]
else:
    _PexpectSpawn = pexpect.spawn


class _Pty(ptyprocess.PtyProcess):  # type: ignore[misc]  # published without types
    """A PtyProcess that does not set rows and columns again after the start, which would wipe the pixels out."""

    def setwinsize(self, rows: int, cols: int) -> None:
        """Do nothing: the child has set the whole size before its program started."""


class _Spawn(_PexpectSpawn):
    """pexpect.spawn with ``pass_fds``, and with a lone command not split at its spaces.

    ``forked`` gets the fork as soon as there is one: pexpect forgets it when its start fails.
    """

    def __init__(
        self, argv: Sequence[str], pass_fds: Sequence[int], forked: list[_Pty], **options: Any
    ) -> None:
        self._argv = list(argv)
        self._pass_fds = tuple(pass_fds)
        self._forked = forked
        super().__init__(argv[0], ["see _spawnpty"], timeout=None, encoding=None, **options)

    def _spawnpty(self, _args: list[str], **options: Any) -> Any:
        forked = self._forked

        class Pty(_Pty):
            def __init__(self, pid: int, fd: int) -> None:
                super().__init__(pid, fd)
                forked.append(self)

        return Pty.spawn(self._argv, pass_fds=self._pass_fds, **options)


@dataclass(frozen=True)
class Spawned:
    """A running process and the master end of its pty."""

    pid: int
    fd: int
    _pty: _Pty
    _spawn: _Spawn

    def close(self) -> None:
        """Close the master end, once."""
        _close(self._pty)
        self._spawn.closed = True
        self._spawn.child_fd = -1


@dataclass(frozen=True)
class Preparation:
    """Prepares the fork before it becomes the child's program."""

    size: Size
    cwd: str | None = None
    pass_fds: Sequence[int] = ()
    attributes: list[Any] | None = None
    preexec: Callable[[], None] | None = None
    preexec_fds: Sequence[int] = ()
    name_terminal: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        """Prepare; an error reaches ``spawn`` in the parent as a sentence."""
        try:
            put_size(0, self.size)
            if self.attributes is not None:
                termios.tcsetattr(0, termios.TCSANOW, self.attributes)
            for fd in self.pass_fds:
                fcntl.fcntl(fd, fcntl.F_SETFD, 0)
            # Not by ptyprocess, which does not catch a missing folder: see below.
            if self.cwd is not None:
                os.chdir(self.cwd)
            self.name_terminal()
            INHERITED.restore()
            if self.preexec is not None:
                self.preexec()
        except BaseException as error:  # noqa: BLE001  # raised again
            # ptyprocess catches Exception only; another would let the fork go on as a guard.
            raise RuntimeError(_in_words(error)) from None


def spawn(argv: Sequence[str], env: Mapping[str, str], prepare: Preparation) -> Spawned:
    """Start ``argv`` as the leader of a new session on a new pty.

    Raises:
        LaunchError: the program was not found, or something before its start failed.
    """
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath))  # as execvpe(3) would
    if program is None:
        reason = "it is not executable" if Path(argv[0]).is_file() else "it was not found"
        raise LaunchError(f"{argv[0]} cannot be started: {reason}.")
    forked: list[_Pty] = []
    variables = dict(env)
    outer = _terminal_names()
    prepare = replace(prepare, name_terminal=lambda: _name_terminal(variables, outer))
    with all_blocked():  # no handler of ours may run in the fork
        try:
            spawned = _Spawn(
                [os.path.abspath(program), *argv[1:]],
                pass_fds=[*prepare.pass_fds, *prepare.preexec_fds],
                forked=forked,
                env=variables,
                dimensions=(prepare.size.rows, prepare.size.columns),
                preexec_fn=prepare,
            )
        except Exception as error:  # noqa: BLE001  # it raises by the name that the fork sent
            for pty in forked:
                _close(pty)
                os.waitpid(pty.pid, 0)
            raise LaunchError(f"{argv[0]} cannot be started: {_in_words(error)}.") from None
    return Spawned(forked[0].pid, spawned.child_fd, forked[0], spawned)


def _terminal_names() -> frozenset[str]:
    """Return the names of the terminals that this process reads and writes."""
    names = set()
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            names.add(os.ttyname(fd))
    return frozenset(names)


def _name_terminal(variables: dict[str, str], outer: frozenset[str]) -> None:
    """Give each variable that names the outer terminal the name of the terminal on the standard input.

    ``GPG_TTY`` is the usual one: gpg-agent has the passphrase asked for there (gpg-agent(1)), and on the outer terminal
    the guard would read the keys. Called in the fork, before the program: ptyprocess hands these variables to it.
    """
    for name, value in variables.items():
        if value in outer:
            variables[name] = os.ttyname(0)


def _close(pty: _Pty) -> None:
    """Close the master end. ptyprocess's own close, and its finaliser, sleep, wait and kill."""
    pty.fileobj.close()
    pty.closed = True


def _in_words(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else (str(error) or type(error).__name__).rstrip(".")


UNKNOWN_STATUS = 255
"""The status of a child that something else has waited for."""
_LOOK_AGAIN_SECONDS = 0.005


@dataclass(frozen=True)
class LineModes:
    """How the child's pty treats what is typed. ``suspend_byte`` is -1 when no key suspends."""

    canonical: bool
    echo: bool
    signals: bool
    post_processing: bool
    suspend_byte: int


class Child:
    """A process that leads a session on its own pty. As a context manager it leaves none behind."""

    def __init__(self, spawned: Spawned) -> None:
        self._spawned = spawned
        self._status: int | None = None
        self.pid = spawned.pid
        self.fd = spawned.fd
        """The pty's master end, non-blocking; -1 once closed."""
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        size: Size,
        env: Mapping[str, str],
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
        attributes: list[Any] | None = None,
        preexec: Callable[[], None] | None = None,
        preexec_fds: Sequence[int] = (),
    ) -> Child:
        """Start ``argv`` with this environment and folder, and the signals the guard started with.

        Args:
            argv: the program, looked up in the PATH of ``env``, and its arguments.
            size: the pty's size from the first instruction on, pixels included.
            env: the whole environment.
            cwd: the folder to start in; the guard's own when None.
            pass_fds: descriptors that stay open in the child, under the same numbers.
            attributes: the user's termios attributes, given to the pty.
            preexec: runs last in the fork, before the program.
            preexec_fds: descriptors that it needs, which the program does not get.

        Raises:
            LaunchError: the program was not found, or something before its start failed.
        """
        return cls(
            spawn(argv, env, Preparation(size, cwd, pass_fds, attributes, preexec, preexec_fds))
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def resize(self, size: Size) -> None:
        """Give the pty this size; the kernel sends SIGWINCH when it is another one."""
        if self.fd >= 0:
            put_size(self.fd, size)

    def signal(self, signum: int) -> None:
        """Send it to the child's process group; nothing once the child has been waited for."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal that killed it, or None while it runs. Never blocks.

        ``UNKNOWN_STATUS`` when the status is lost, because something else waited for the process.
        """
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._status = UNKNOWN_STATUS
            else:
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def line_modes(self) -> LineModes | None:
        """Return how the pty treats input now, as the child set it; None when the pty cannot tell any more."""
        try:
            _, oflag, _, lflag, _, _, characters = termios.tcgetattr(self.fd)
            disabled = os.fpathconf(self.fd, "PC_VDISABLE")
        except (termios.error, OSError, ValueError):
            return None
        suspend_byte = characters[termios.VSUSP][0]
        return LineModes(
            canonical=bool(lflag & termios.ICANON),
            echo=bool(lflag & termios.ECHO),
            signals=bool(lflag & termios.ISIG),
            post_processing=bool(oflag & termios.OPOST),
            suspend_byte=-1 if suspend_byte == disabled else suspend_byte,
        )

    def survivors(self) -> list[int]:
        """Return the processes of the child's session that run, it included; zombies do not count."""
        import psutil

        running = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == self.pid and psutil.Process(pid).status() != "zombie":
                    running.append(pid)
        return running

    def kill_group(self) -> None:
        """Kill (SIGKILL) the child and whatever still runs in its session."""
        self.signal(signal.SIGKILL)
        for pid in self.survivors():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int | None:
        """As ``poll``, after waiting up to ``seconds``. It blocks: only for a session's end."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_SECONDS)
        return self.poll()

    def close(self) -> None:
        """Hang up: close the master end. What runs on the pty gets SIGHUP and reads its end."""
        if self.fd >= 0:
            self.fd = -1
            self._spawned.close()

    def end(self, grace_seconds: float = 1.0) -> None:
        """Hang up; if the child runs: SIGHUP, ``grace_seconds`` to go, SIGKILL to its session.

        What a child that ended by itself has left running is left alone, as without the guard.
        """
        running = self.poll() is None
        self.close()
        if running:
            self.signal(signal.SIGHUP)
            self.signal(signal.SIGCONT)  # a stopped process would never see the other one
            self.wait(grace_seconds)
            # Until nothing is left, also of what was forked meanwhile; the unkillable is given up.
            deadline = time.monotonic() + grace_seconds
            while (self.poll() is None or self.survivors()) and time.monotonic() < deadline:
                self.kill_group()
                time.sleep(_LOOK_AGAIN_SECONDS)


class AiderProcess:
    """The Aider that runs now, on the relay; at most one at a time. As a ``with``, none is left behind."""

    def __init__(self, terminal: Terminal, relay: Relay, loop: Loop) -> None:
        self._terminal = terminal
        self._relay = relay
        self._loop = loop
        self.child: Child | None = None
        self.channels: SideChannels | None = None
        """What Aider writes beside the screen, once its files are there."""
        self.on_output: Callable[[bytes], None] = lambda _data: None
        """Called with what Aider wrote."""

    def __enter__(self) -> AiderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self._loop.forget(self.child.fd)
            self.child.end()

    def adopt(self, child: Child) -> None:
        """Relay this Aider from now on."""
        self.child, self.channels = child, None
        child.resize(self._terminal.size())
        self._relay.attach(child.fd)
        self._loop.watch(child.fd, READ, self._read)

    def retire(self) -> Child | None:
        """Relay Aider no more, and hand it over: it still runs. What it has not taken is dropped."""
        child, self.child, self.channels = self.child, None, None
        if child is not None:
            self._loop.forget(child.fd)
            self._relay.detach()
        return child

    def _read(self, _events: int) -> None:
        if data := self._relay.read_child():
            self.on_output(data)

    def line_modes(self) -> LineModes | None:
        """Return how Aider's terminal treats what is typed; None when no Aider runs."""
        return self.child.line_modes() if self.child is not None else None

    def resize(self) -> None:
        """Give Aider the terminal's size."""
        if self.child is not None:
            self.child.resize(self._terminal.size())

    def signal(self, signum: int) -> None:
        """Send a signal to Aider's process group."""
        if self.child is not None:
            self.child.signal(signum)

    def reap(self) -> int | None:
        """Return Aider's status once it ended, after ``on_output`` got all that it wrote; None while it runs."""
        child = self.child
        status = child.poll() if child is not None else None
        if child is None or status is None:
            return None
        while data := self._relay.read_child():
            self.on_output(data)
        self.child = None
        self._loop.forget(child.fd)
        self._relay.detach()
        child.end()
        return status
