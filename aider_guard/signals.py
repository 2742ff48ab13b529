"""Turns signals into bytes on a file descriptor, so that the event loop waits for them as for everything else."""

from __future__ import annotations

import contextlib
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

_ENDING_OR_STOPPING = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)
"""The signals that stay ignored if the guard was started with them ignored (``nohup``, a shell's ``&``)."""


@dataclass(frozen=True)
class Dispositions:
    """Which signals a process ignores, and which it holds back."""

    ignored: frozenset[int]
    blocked: frozenset[int]

    @classmethod
    def now(cls) -> Dispositions:
        """Return those of this process."""
        ignored = {s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN}
        # Python ignores these two by itself at its start (subprocess restores them as well).
        ignored -= {signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)}
        return cls(frozenset(ignored), frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

    def restore(self) -> None:
        """Set them for this process again: all signals that are not ignored get their default."""
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(signum) is not None:
                signal.signal(signum, signal.SIG_IGN if signum in self.ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


INHERITED = Dispositions.now()
"""What the guard was started with: this module is imported before any handler is set."""


@contextlib.contextmanager
def all_blocked() -> Iterator[None]:
    """Block all signals of this thread inside the block; those that came are delivered after it."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Wakeups:
    """The readable end of the signals' socket: one byte for each signal that came."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._receiver.fileno()

    def read(self) -> tuple[int, ...]:
        """Return the signals that came since the last call, in order; empty for none. Never blocks."""
        try:
            return tuple(self._receiver.recv(4096))
        except BlockingIOError:
            return ()


@contextlib.contextmanager
def signals_as_wakeups(signums: Iterable[int]) -> Iterator[Wakeups]:
    """Turn these signals into bytes to read until the block ends, and restore their handlers then.

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
            if signum not in _ENDING_OR_STOPPING & INHERITED.ignored:
                stack.callback(signal.signal, signum, signal.signal(signum, _nothing))
        yield Wakeups(receiver)


@contextlib.contextmanager
def when_a_child_ends(call: Callable[[], None]) -> Iterator[None]:
    """Call back whenever a child has ended, between two instructions of the main thread. Wakeups come as before."""
    before = signal.signal(signal.SIGCHLD, lambda _signum, _frame: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter writes the wakeup byte for signals that have a handler."""
