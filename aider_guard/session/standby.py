"""The Aiders beside the one that runs: one that was started ahead and waits, and one that was retired and ends."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aider_guard.core.events import Event, StandbyLost, StandbyReady
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch.command import send_variables
from aider_guard.launch.environment import LocalEnvironment
from aider_guard.loop import READ, Loop
from aider_guard.session.aider_process import Child
from aider_guard.session.start_aider import Started

_MOST_BYTES = 4096


@dataclass
class StandbyAider:
    """The Aider that was started ahead, at most one; its outcome is posted. As a ``with``, none is left behind.

    What it writes on its pty stays there for the relay, as it does not read a key or draw before its turn.
    """

    loop: Loop
    launch: Callable[[], Started]
    variables: Callable[[], LocalEnvironment]
    post: Callable[[Event], None] = lambda _event: None
    _started: Started | None = None
    _is_asked: bool = False

    def __enter__(self) -> StandbyAider:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and have it load its code."""
        self.stop()
        try:
            started = self._started = self.launch()
            send_variables(started.channel, self.variables())
        except (LaunchError, OSError) as error:
            self._lose(str(error))
            return
        self.loop.watch(started.channel.fileno(), READ, partial(self._read, bytearray()))

    def stop(self) -> None:
        """End it, if there is one."""
        started = self._detach()
        if started is not None:
            started.channel.close()
            started.child.end()

    def ask(self) -> None:
        """Tell it that it is its turn: its question waits on the channel for who takes it."""
        if self._started is None or self._is_asked:
            return
        self.loop.forget(self._started.channel.fileno())
        self._is_asked = True
        try:
            send_variables(self._started.channel, self.variables())
        except OSError:
            self._lose("it ended before its turn")

    def take(self) -> Started | None:
        """Hand it over, after it was told that it is its turn. None when there is none any more."""
        self.ask()
        return self._detach()

    def _read(self, received: bytearray, _events: int) -> None:
        started = self._started
        if started is None:
            return
        with contextlib.suppress(BlockingIOError):
            try:
                data = started.channel.recv(_MOST_BYTES)
            except ConnectionError:
                data = b""
            received += data
            if not data or len(received) > _MOST_BYTES:
                self._lose("it ended before its turn")
            elif received.endswith(b"\n"):
                self.post(StandbyReady(started.child.pid, _memory_bytes(bytes(received))))
                received.clear()

    def _lose(self, reason: str) -> None:
        self.stop()
        self.post(StandbyLost(reason))

    def _detach(self) -> Started | None:
        started, self._started, self._is_asked = self._started, None, False
        if started is not None:
            self.loop.forget(started.channel.fileno())
        return started


def _memory_bytes(line: bytes) -> int | Unavailable:
    try:
        size = json.loads(line)["standby"]["memory_bytes"]
    except (ValueError, KeyError, TypeError):
        size = 0
    return size if isinstance(size, int) and size > 0 else Unavailable("its system does not tell")


class RetiredAider:
    """The Aider whose place another one took, until it has ended. As a ``with``, none is left behind."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._child: Child | None = None

    def __enter__(self) -> RetiredAider:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def adopt(self, child: Child) -> None:
        """Take what it still writes off its pty, so that it can end."""
        self._end()
        self._child = child
        self._loop.watch(child.fd, READ, lambda _events: self._drain(child.fd))

    def signal(self, signum: int) -> None:
        """Send a signal to its process group."""
        if self._child is not None:
            self._child.signal(signum)

    def reap(self) -> int | None:
        """Return its status, once, when it has ended."""
        status = self._child.poll() if self._child is not None else None
        if status is not None:
            self._end()
        return status

    def _drain(self, fd: int) -> None:
        try:
            os.read(fd, _MOST_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            self._loop.forget(fd)  # the pty has ended

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._loop.forget(child.fd)
            child.end()
