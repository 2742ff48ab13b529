"""A person at a terminal: starts any command in a pty, types, resizes, hangs up, looks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

CHILDREN = Path(__file__).parent / "children"
PYTHON = (sys.executable, "-I", "-S")
"""Starts in a few milliseconds; the children need the standard library only."""
MINI_GUARD = (sys.executable, str(CHILDREN / "mini_guard.py"))
CAP_SECONDS = 60.0
"""No wait takes longer; what was shown until then is in the failure."""

PATIENT = {
    "AIDER_GUARD_TEST_WAIT_SECONDS": "15",
    "AIDER_GUARD_READ_AHEAD": "off",
    "AIDER_GUARD_GREETING": "off",
}
"""What a guard finds in its environment here: on a busy machine it waits longer, for its sidecar before Aider begins
rather than take the cautious window, and for a count rather than estimate. Without it, or empty, it waits as always.
Nothing is read ahead but where a test asks for it by the flag: whether it is depends on how busy the machine is. Nor
is anything said at the first prompt.
"""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LOOK_AGAIN_SECONDS = 0.02
_MARK = "AIDER_GUARD_TEST_PERSON"
_END = b"\x1b]the end\x07"


def child(name: str, *arguments: object) -> list[str]:
    """The command line of a program in ``children/``."""
    return [*PYTHON, str(CHILDREN / f"{name}.py"), *map(str, arguments)]


def read_until(fd: int, wanted: bytes = b"") -> bytes:
    """Read from the master end until ``wanted`` was seen, or to its end."""
    data = b""
    while not wanted or wanted not in data:
        assert select.select([fd], [], [], CAP_SECONDS)[0], data
        try:
            data += os.read(fd, 65536)
        except OSError:
            return data
    return data


class Person:
    """Plays the user and the terminal emulator for ``argv``, the leader of the terminal's session.

    The program's end of the terminal stays open here too: its modes can be read after the end.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: tuple[int, int, int, int] = (24, 80, 0, 0),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        type_ahead: bytes = b"",
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.shown = bytearray()
        self.master, self.tty = os.openpty()
        os.set_blocking(self.master, False)
        self.resize(size)
        os.write(self.master, type_ahead)
        self._mark = uuid.uuid4().hex

        def become_leader() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            prepare()

        self.process = subprocess.Popen(
            argv,
            stdin=self.tty,
            stdout=self.tty,
            stderr=self.tty,
            cwd=cwd,
            env={**(os.environ if env is None else env), _MARK: self._mark},
            start_new_session=True,
            preexec_fn=become_leader,  # noqa: PLW1509  # one thread
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.hang_up()

    def attributes(self) -> list[Any]:
        """The terminal's modes now."""
        return termios.tcgetattr(self.tty)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """Rows, columns, and pixels across and down."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *size))

    def pump(self, data: memoryview | bytes = b"", *, look: bool = True, seconds: float = 1) -> int:
        """Look at the screen and type, whatever can be done first; return how much was typed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.master, (_READ if look else 0) | (_WRITE if data else 0))
            ready = selector.select(seconds)
        events = ready[0][1] if ready else 0
        if events & _READ:
            with contextlib.suppress(BlockingIOError):
                self.shown += os.read(self.master, 65536)
        if events & _WRITE:
            with contextlib.suppress(BlockingIOError):
                return os.write(self.master, data)
        return 0

    def type(self, data: bytes) -> None:
        """Type all of it, reading meanwhile."""
        rest = memoryview(data)
        deadline = time.monotonic() + CAP_SECONDS
        while rest:
            rest = rest[self.pump(rest) :]
            self._check(deadline, f"{len(rest)} bytes could not be typed")

    def paste_without_looking(self, data: bytes, patience_seconds: float = 0.3) -> int:
        """Type without reading until nothing more is taken; return how many bytes were."""
        typed = 0
        while typed < len(data):
            written = self.pump(memoryview(data)[typed:], look=False, seconds=patience_seconds)
            if not written:
                break
            typed += written
        return typed

    def until(self, wanted: bytes | Callable[[], bool]) -> bytes:
        """Read until ``wanted`` was shown, or holds; return all that was shown."""
        deadline = time.monotonic() + CAP_SECONDS
        while not (wanted in self.shown if isinstance(wanted, bytes) else wanted()):
            self.pump(seconds=_LOOK_AGAIN_SECONDS)
            self._check(deadline, f"waited in vain for {wanted!r}")
        return bytes(self.shown)

    def finish(self) -> int:
        """Read until the command has ended and all it wrote was read; return its status."""
        deadline = time.monotonic() + CAP_SECONDS
        while self.process.poll() is None:
            self.pump(seconds=_LOOK_AGAIN_SECONDS)
            self._check(deadline, "the command does not end")
        with contextlib.suppress(BlockingIOError):
            while True:
                self.shown += os.read(self.master, 65536)
        # What still is on its way in the kernel comes before the mark.
        os.write(self.tty, _END)
        self.until(lambda: self.shown.endswith(_END))
        del self.shown[-len(_END) :]
        return self.process.returncode

    def wait(self) -> tuple[int, float]:
        """Wait for the command without reading, as after a hang-up; its status and CPU seconds."""
        deadline = time.monotonic() + CAP_SECONDS
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        while not pid:
            time.sleep(_LOOK_AGAIN_SECONDS)
            self._check(deadline, "the command does not end")
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, usage.ru_utime + usage.ru_stime

    def hang_up(self) -> None:
        """Close the terminal."""
        for fd in (self.master, self.tty):
            if fd >= 0:
                os.close(fd)
        self.master = self.tty = -1

    def left(self) -> list[int]:
        """The processes that this person started, directly or not, and that still run."""
        running = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.uids().real == os.getuid()
                    and process.environ().get(_MARK) == self._mark
                ):
                    running.append(process.pid)
        return running

    def wait_for_none_left(self) -> None:
        """Wait until none of them runs: helpers of the guard's end by themselves, a moment after it."""
        deadline = time.monotonic() + CAP_SECONDS
        while left := self.left():
            assert time.monotonic() < deadline, f"still running: {left}"
            if self.master >= 0:
                self.pump(seconds=_LOOK_AGAIN_SECONDS)
            else:
                time.sleep(_LOOK_AGAIN_SECONDS)

    def _check(self, deadline: float, problem: str) -> None:
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{problem}; the last that was shown: {bytes(self.shown[-2000:])!r}"
            )
