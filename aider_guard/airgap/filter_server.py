"""Serves the filters of one air gap from the guard's loop: receives the calls that wait, and answers each."""

from __future__ import annotations

import errno
import selectors
import time
from collections.abc import Callable
from typing import Final

from aider_guard.airgap import sockets
from aider_guard.airgap.notify import (
    CallingThread,
    FilterListener,
    GiveDescriptor,
    Notification,
    Result,
)
from aider_guard.airgap.syscalls import FULL, InProgress, RetryConnect, SyscallHandlers
from aider_guard.loop import WRITE, Loop

_AGAIN_SECONDS: Final = 0.02
"""Times the number of waiting connections: the pause before one is tried again, which takes milliseconds."""
_MOST: Final = 128
"""How many may wait for a full queue; further ones fail at once."""


class PendingConnects:
    """Answers calls whose connections take time, while the guard serves others. Owns their sockets."""

    def __init__(self) -> None:
        self._ends: dict[tuple[FilterListener, int], Callable[[], None]] = {}

    def wait(self, loop: Loop, listener: FilterListener, call: int, progress: InProgress) -> None:
        """Answer the call when its connection has been made or has failed."""
        sock = progress.socket

        def finish(_events: int) -> None:
            error = sockets.outcome(sock)
            self._end(listener, call)
            listener.answer(call, Result(error=error))

        def end() -> None:
            loop.forget(sock.fileno())
            sock.close()

        self._ends[listener, call] = end
        loop.watch(sock.fileno(), WRITE, finish)

    def try_again(
        self, loop: Loop, listener: FilterListener, call: int, retry: RetryConnect
    ) -> None:
        """Answer the call when its server has accepted, or when the program would have given up."""
        until = time.monotonic() + retry.patience_seconds
        name = f"queue of {listener.fd} {call}"

        def end() -> None:
            loop.cancel(name)
            retry.close()

        def attempt() -> None:
            is_over = time.monotonic() >= until or not listener.is_valid(call)
            error = errno.EAGAIN if is_over else retry.attempt()
            if error in FULL and not is_over:
                loop.after(name, _AGAIN_SECONDS * len(self._ends), attempt)
            else:
                self._end(listener, call)
                listener.answer(call, Result(error=error))

        self._ends[listener, call] = end
        if len(self._ends) > _MOST:
            self._end(listener, call)
            listener.answer(call, Result(error=errno.EAGAIN))
        else:
            loop.after(name, _AGAIN_SECONDS, attempt)

    def forget(self, listener: FilterListener) -> None:
        """Drop all connections of this listener's calls."""
        for owner, call in [key for key in self._ends if key[0] is listener]:
            self._end(owner, call)

    def _end(self, listener: FilterListener, call: int) -> None:
        self._ends.pop((listener, call))()


_AT_ONCE: Final = 16
_BUDGET_SECONDS: Final = 0.01
"""How many calls are answered in a row, and for how long, before the loop serves the terminal."""


class FilterServer:
    """Answers the calls of all programs inside. Owns the listeners of their filters."""

    def __init__(self, handlers: SyscallHandlers) -> None:
        self._handlers = handlers
        self._listeners: list[FilterListener] = []
        self._pending = PendingConnects()
        self._loop: Loop | None = None

    def add(self, fd: int) -> None:
        """Serve one more filter, by the descriptor of its listener."""
        listener = FilterListener(fd)
        self._listeners.append(listener)
        if self._loop is not None:
            self._watch(self._loop, listener)

    def watch(self, loop: Loop) -> None:
        """Serve from this loop. Until then each call that needs an answer waits."""
        self._loop = loop
        for listener in self._listeners:
            self._watch(loop, listener)

    def flush(self) -> None:
        """Answer what waits now."""
        for listener in tuple(self._listeners):
            self._serve(listener)

    def close(self) -> None:
        """Stop: calls that need an answer fail with ENOSYS from now on. Twice is no error."""
        for listener in tuple(self._listeners):
            self._forget(listener)

    def _watch(self, loop: Loop, listener: FilterListener) -> None:
        loop.watch(listener.fd, selectors.EVENT_READ, lambda _events: self._serve(listener))

    def _serve(self, listener: FilterListener) -> None:
        until = time.monotonic() + _BUDGET_SECONDS
        for _ in range(_AT_ONCE):
            try:
                call = listener.receive()
            except EOFError:
                self._forget(listener)
                return
            if call is None:
                return
            self._answer(listener, call)
            if time.monotonic() > until:
                return

    def _answer(self, listener: FilterListener, call: Notification) -> None:
        caller = CallingThread(call.thread, lambda: listener.is_valid(call.id))
        answer = self._handlers.decide(call, caller)
        match answer:
            case InProgress():
                self._pending.wait(self._served_from(), listener, call.id, answer)
            case RetryConnect():
                self._pending.try_again(self._served_from(), listener, call.id, answer)
            case GiveDescriptor(sock):
                with sock:
                    listener.answer(call.id, answer)
            case _:
                listener.answer(call.id, answer)

    def _served_from(self) -> Loop:
        assert self._loop is not None, "calls are served from a loop"
        return self._loop

    def _forget(self, listener: FilterListener) -> None:
        self._pending.forget(listener)
        if self._loop is not None:
            self._loop.forget(listener.fd)
        self._listeners.remove(listener)
        listener.close()
