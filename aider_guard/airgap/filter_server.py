"""Serves the filters of one air gap from the guard's loop: receives the calls that wait, and answers each."""

from __future__ import annotations

import errno
import selectors
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from aider_guard.airgap.notify import (
    CallingThread,
    FilterListener,
    GiveDescriptor,
    Notification,
    Pending,
    Result,
)
from aider_guard.airgap.syscalls import SyscallHandlers
from aider_guard.loop import WRITE, Loop

_AGAIN_SECONDS: Final = 0.02
"""Times the number of waiting calls: the pause before one is tried again, which takes milliseconds."""
_LOOK_SECONDS: Final = 0.1
"""The pause between two looks at a program whose call is tried again when its socket is ready."""
_MOST: Final = 128
_MOST_READY: Final = 512
"""How many calls may wait, by the clock or for their sockets; further ones fail at once."""
_START_AGAIN: Final = (
    512  # ERESTARTSYS, linux/errno.h: the kernel makes it EINTR where the handler wants that
)


class PendingCalls:
    """Carries out calls that take time, while the guard serves others. Owns what they need."""

    def __init__(self) -> None:
        self._ends: dict[tuple[FilterListener, int], Callable[[], None]] = {}

    def wait(
        self,
        loop: Loop,
        listener: FilterListener,
        call: int,
        caller: CallingThread,
        pending: Pending,
    ) -> None:
        """Answer the call when it has a result, when the program would have given up, or at a signal for it."""
        until = time.monotonic() + pending.patience_seconds
        name = f"call of {listener.fd} {call}"

        def end() -> None:
            loop.cancel(name)
            if pending.ready is not None:
                loop.forget(pending.ready.fileno())
            pending.close()

        def settle(action: Callable[[], Result | None]) -> None:
            try:
                result = action()
            except OSError as error:
                result = Result(error=error.errno or errno.EPERM)
            if result is not None:
                self._end(listener, call)
                listener.answer(call, result)

        def look() -> None:
            if not listener.is_valid(call) or time.monotonic() >= until:
                settle(partial(pending.give_up, errno.EAGAIN))
            elif caller.is_interrupted():
                settle(partial(pending.give_up, _START_AGAIN))
            elif pending.ready is None:
                settle(pending.attempt)
            if (listener, call) in self._ends:
                look_again()

        def look_again() -> None:
            pause_seconds = _LOOK_SECONDS if pending.ready else _AGAIN_SECONDS * len(self._ends)
            loop.after(name, min(pause_seconds, max(0.0, until - time.monotonic())), look)

        self._ends[listener, call] = end
        if len(self._ends) > (_MOST_READY if pending.ready else _MOST):
            settle(partial(pending.give_up, errno.EAGAIN))
            return
        if pending.ready is not None:
            loop.watch(pending.ready.fileno(), WRITE, lambda _events: settle(pending.attempt))
        look_again()

    def forget(self, listener: FilterListener) -> None:
        """Drop all calls of this listener."""
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
        self._pending = PendingCalls()
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
            case Pending():
                assert self._loop is not None, "calls are served from a loop"
                self._pending.wait(self._loop, listener, call.id, caller, answer)
            case GiveDescriptor(sock):
                with sock:
                    listener.answer(call.id, answer)
            case _:
                listener.answer(call.id, answer)

    def _forget(self, listener: FilterListener) -> None:
        self._pending.forget(listener)
        if self._loop is not None:
            self._loop.forget(listener.fd)
        self._listeners.remove(listener)
        listener.close()
