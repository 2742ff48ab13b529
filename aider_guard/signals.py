"""Signals as a file descriptor that becomes readable, so that one loop can wait for everything."""

from __future__ import annotations

import contextlib
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

_ASKED_TO_END_OR_STOP = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)
"""Who starts us with one of these ignored (``nohup``, a shell's ``&``) does not want it heeded."""


@dataclass(frozen=True)
class Dispositions:
    """Which signals a process ignores, and which it holds back."""

    ignored: frozenset[int]
    blocked: frozenset[int]

    @classmethod
    def now(cls) -> Dispositions:
        """Those of this process."""
        ignored = {s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN}
        # Python ignores these two by itself at its start (subprocess restores them as well).
        ignored -= {signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)}
        return cls(frozenset(ignored), frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

    def restore(self) -> None:
        """Make them this process's again: all signals that are not ignored get their default."""
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(signum) is not None:
                signal.signal(signum, signal.SIG_IGN if signum in self.ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


INHERITED = Dispositions.now()
"""What the guard was started with: this module is imported before any handler is set."""


@contextlib.contextmanager
def all_held_back() -> Iterator[None]:
    """Deliver no signal to this thread inside the block; those that came are delivered after it."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Wakeups:
    """The readable end: one byte for each signal that came."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._receiver.fileno()

    def read(self) -> tuple[int, ...]:
        """The signals that came since the last call, in order; empty for none. Never blocks."""
        try:
            return tuple(self._receiver.recv(4096))
        except BlockingIOError:
            return ()


@contextlib.contextmanager
def signals_as_wakeups(signums: Iterable[int]) -> Iterator[Wakeups]:
    """Turn these signals into bytes to read, until the block ends; then all is as it was before.

    A signal that asks to end or to stop stays ignored if the guard was started with it ignored.
    Main thread only (as all handlers in Python).
    """
    receiver, sender = socket.socketpair()
    with receiver, sender, contextlib.ExitStack() as stack:
        receiver.setblocking(False)
        sender.setblocking(False)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for signum in signums:
            if signum not in _ASKED_TO_END_OR_STOP & INHERITED.ignored:
                stack.callback(signal.signal, signum, signal.signal(signum, _nothing))
        yield Wakeups(receiver)


@contextlib.contextmanager
def when_a_child_ends(call: Callable[[], None]) -> Iterator[None]:
    """Call it, between two instructions of the main thread, whenever a child has ended. Wakeups come as before."""
    before = signal.signal(signal.SIGCHLD, lambda _signum, _frame: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter writes the wakeup byte for signals that have a handler."""
