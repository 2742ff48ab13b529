"""Asking Aider what it would use, without starting it: its own Python describes, and ends."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider import Aider
from aider_guard.launch.settings import AiderSettings, decode
from aider_guard.launch.starting import INSIDE_AIDER

ANSWER_SECONDS = 30.0
"""Importing Aider takes about a second; the rest is for a cold disk."""
_EXIT_SECONDS = 2.0
_UNRECOGNIZED = "unrecognized arguments: "
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


def ask_aider(
    aider: Aider,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout_seconds: float = ANSWER_SECONDS,
) -> AiderSettings | Unavailable:
    """What Aider would use if it were started in this folder with these arguments and this environment."""
    with Asking(aider, arguments, environment) as asking:
        return asking.result(timeout_seconds)


class Asking:
    """One question that is under way, so that other work can be done meanwhile. Leaving the ``with`` ends it.

    Aider's process gets no terminal: nothing is shown, and it can ask nothing. What it says when its parser refuses
    the arguments is the reason in the answer.
    """

    def __init__(
        self, aider: Aider, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._words = [str(INSIDE_AIDER), "", aider.script, *arguments]
        self._interpreter = aider.interpreter
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        self._wait_seconds = 0.0

    def __enter__(self) -> Asking:
        """Start the process. One that cannot be started is told by ``result``."""
        self._channel, theirs = socket.socketpair()
        self._said: IO[bytes] = tempfile.TemporaryFile(prefix="aider-guard-")
        self._words[1] = f"only:{theirs.fileno()}"
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self._interpreter, *self._words],
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                )
            except OSError as error:
                self._problem = f"{self._interpreter[0]} cannot be started: {error.strerror}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave nothing running."""
        self._channel.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._wait_seconds)
            self._process.kill()
            self._process.wait()
        self._said.close()

    def result(self, timeout_seconds: float = ANSWER_SECONDS) -> AiderSettings | Unavailable:
        """The answer, waited for at most so long; else why there is none."""
        if self._process is None:
            return Unavailable(self._problem)
        line = self._read_line(time.monotonic() + timeout_seconds)
        if line is None:
            return Unavailable(
                f"Aider did not say within {timeout_seconds:g} seconds what it will use"
            )
        self._wait_seconds = _EXIT_SECONDS
        return decode(line) if line.endswith(b"\n") else Unavailable(self._last_words())

    def _read_line(self, deadline: float) -> bytes | None:
        """All until the channel is closed; None when the time is up."""
        read = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = self._channel.recv(65536)
                read += data
                if not data or len(read) > _MAX_ANSWER_BYTES:
                    return bytes(read)
        return None

    def _last_words(self) -> str:
        """The last line that Aider printed before it ended without an answer."""
        assert self._process is not None
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_SECONDS)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        last = _complaint([line.strip() for line in lines if line.strip()])
        if status == 0 or not last:
            return (
                f"Aider ended at once, with status {status}, and said nothing of what it will use"
            )
        return last


def _complaint(lines: list[str]) -> str:
    """What a program printed last; of argparse's ``error:`` all lines, but no value that was not recognised: a key
    in a configuration file with a wrong name would be one.
    """
    began = [index for index, line in enumerate(lines) if ": error: " in line]
    said = " ".join(lines[began[-1] :] if began else lines[-1:])
    start, unrecognized, values = said.partition(_UNRECOGNIZED)
    if not unrecognized:
        return said
    flags = [word.partition("=")[0] for word in values.split() if word.startswith("-")]
    return f"{start}{unrecognized}{' '.join(flags)}"
