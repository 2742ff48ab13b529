"""Aider in a pty of its own: its size, its signals, how it treats what is typed, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aider_guard.session.spawn import Preparation, Spawned, spawn
from aider_guard.session.terminal import Size, put_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        """The exit status, minus the signal that killed it, or None while it runs. Never blocks.

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
        """How the pty treats input now, as the child set it; None once it cannot be told."""
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
        """The processes of the child's session that run, it included; zombies do not count."""
        import psutil

        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == self.pid and psutil.Process(pid).status() != "zombie":
                    found.append(pid)
        return found

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
            self._kill_all(grace_seconds)

    def _kill_all(self, seconds: float) -> None:
        """Kill until nothing is left, also what was forked meanwhile; give up on the unkillable."""
        deadline = time.monotonic() + seconds
        while (self.poll() is None or self.survivors()) and time.monotonic() < deadline:
            self.kill_group()
            time.sleep(_LOOK_AGAIN_SECONDS)
