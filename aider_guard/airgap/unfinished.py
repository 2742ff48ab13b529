"""Connections that programs inside wait for, while the guard serves others."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from aider_guard.airgap import acting
from aider_guard.airgap.calls import FULL, Again, Later
from aider_guard.airgap.notifications import Done, Listener
from aider_guard.loop import WRITE, Loop

_AGAIN_SECONDS: Final = 0.02
"""After so long for each that waits a connection is tried again, which takes milliseconds."""
_MOST: Final = 128
"""So many wait for a queue; further ones are told that it is full."""


class Unfinished:
    """Owns what it is given to finish."""

    def __init__(self) -> None:
        self._ends: dict[tuple[Listener, int], Callable[[], None]] = {}

    def wait(self, loop: Loop, listener: Listener, call: int, later: Later) -> None:
        """Answer the call when its connection has been made, or not."""
        sock = later.socket

        def finish(_events: int) -> None:
            error = acting.outcome(sock)
            self._end(listener, call)
            listener.answer(call, Done(error=error))

        def end() -> None:
            loop.forget(sock.fileno())
            sock.close()

        self._ends[listener, call] = end
        loop.watch(sock.fileno(), WRITE, finish)

    def try_again(self, loop: Loop, listener: Listener, call: int, again: Again) -> None:
        """Answer the call when its server has taken it, or when the program would have given up."""
        until = time.monotonic() + again.patience_seconds
        name = f"queue of {listener.fd} {call}"

        def end() -> None:
            loop.cancel(name)
            again.close()

        def attempt() -> None:
            is_over = time.monotonic() >= until or not listener.is_valid(call)
            error = errno.EAGAIN if is_over else again.attempt()
            if error in FULL and not is_over:
                loop.after(name, _AGAIN_SECONDS * len(self._ends), attempt)
            else:
                self._end(listener, call)
                listener.answer(call, Done(error=error))

        self._ends[listener, call] = end
        if len(self._ends) > _MOST:
            self._end(listener, call)
            listener.answer(call, Done(error=errno.EAGAIN))
        else:
            loop.after(name, _AGAIN_SECONDS, attempt)

    def forget(self, listener: Listener) -> None:
        """Let go of all that came by this listener."""
        for owner, call in [key for key in self._ends if key[0] is listener]:
            self._end(owner, call)

    def _end(self, listener: Listener, call: int) -> None:
        self._ends.pop((listener, call))()
