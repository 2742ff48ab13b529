"""Handles the keys of the user and the signals that the guard gets, Ctrl-Z among them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from aider_guard.core.events import Event, JobContinued, OfferAnswered, TerminationRequested
from aider_guard.core.state import Phase, State
from aider_guard.loop import Loop
from aider_guard.session import notices
from aider_guard.session.aider_process import AiderProcess, Child
from aider_guard.session.console import QUESTION, Console, RestartOffer
from aider_guard.session.escape_sequences import SuspendKey
from aider_guard.session.relay import Relay
from aider_guard.session.terminal import Terminal

# On Ctrl-Z the guard stops with everything in its job. Aider leads a session of its own on its pty. There the kernel
# discards the stop signal (its process group is an orphan, POSIX 3.264), so the guard has to stop itself, where the
# shell can see it.

CTRL_Z = 0x1A


def suspend_key(child: Child, console: Console) -> int:
    """Return the byte that suspends now, -1 when none does.

    While Aider works, it is the pty's own (``stty susp``). At a prompt the keys are raw, and prompt_toolkit takes
    Ctrl-Z; a program that took the whole terminal gets it as a key.
    """
    modes = child.line_modes()
    if modes is None:
        return -1
    if modes.signals:
        return modes.suspend_byte
    return CTRL_Z if console.screen.prompt_open and console.reads_keys() else -1


def suspend(terminal: Terminal, relay: Relay, console: Console, child: Child | None) -> None:
    """Stop this job until the shell continues it, then have what stood on the screen drawn again."""
    erase, draw_again = _around_the_shell(console)
    console.to_screen(erase)
    console.to_screen(console.modes.resets())
    relay.flush()
    if child is not None:
        child.signal(signal.SIGSTOP)
    with terminal.cooked():
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.killpg(os.getpgrp(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, before)
    console.to_screen(draw_again)
    if child is not None:
        child.signal(signal.SIGCONT)
        child.resize(terminal.size())
        # The size may be the same; prompt_toolkit draws again all the same.
        child.signal(signal.SIGWINCH)


def _around_the_shell(console: Console) -> tuple[bytes, bytes]:
    """Return the bytes that clear the screen for the shell, and those that put back what Aider will not draw."""
    hold, rows = console.hold, console.screen.cursor_row()
    if hold is not None and hold.purpose == "restart":
        return notices.PROGRESS_DONE, b""  # the line of progress is drawn again by itself
    if hold is not None:
        # What Aider draws is held: the prompt that the user saw is put back from its bytes.
        return (notices.erase(hold.screen), hold.screen.drawn) if hold.screen else (b"", b"")
    # Before it draws, Aider goes up from the cursor to where it believes the rule to be.
    below = b"\r\n" * rows
    shown = console.screen.shown_prompt()
    if shown is None:
        is_open = console.screen.prompt_open
        return (b"\r" + b"\x1b[A" * rows + b"\x1b[J" if is_open else b""), below
    if not shown.rule:
        return (
            b"",
            shown.drawn,
        )  # a prompt of plain text is left standing, and Aider does not draw it again
    return notices.erase(shown), shown.rule.replace(b"\x1b[6n", b"") + below


@dataclass(kw_only=True)
class Input:
    """Hands keys to the console, or to the restart offer that is open, and suspends the job."""

    terminal: Terminal
    relay: Relay
    console: Console
    aider: AiderProcess
    offer: RestartOffer
    loop: Loop
    state: Callable[[], State]
    post: Callable[[Event], None]
    clock: Callable[[], float]
    _suspend_key: SuspendKey = field(default_factory=SuspendKey)

    def readable(self) -> None:
        """Read what the user typed; a terminal that went away ends the session as SIGHUP does."""
        data = self.relay.read_terminal()
        if data == b"":
            self.post(TerminationRequested(signal.SIGHUP))
        elif data:
            self._typed(data)

    def _typed(self, data: bytes) -> None:
        child = self.aider.child
        key = CTRL_Z if child is None else suspend_key(child, self.console)
        at = self._suspend_key.find(data, key)
        if at < 0:
            self._take(data)
            return
        if at:
            self._take(data[:at])
        self._suspend()
        if data[at + 1 :]:
            self._typed(data[at + 1 :])

    def _take(self, data: bytes) -> None:
        if self.state().phase is Phase.OFFERING:
            self.offer.typed(data)
        else:
            self.console.user_typed(data)

    def _suspend(self) -> None:
        stopped_at = self.clock()
        suspend(self.terminal, self.relay, self.console, self.aider.child)
        stopped_seconds = self.clock() - stopped_at
        # Else what came meanwhile, and was not read yet, would be missed: a sidecar that works would count as silent.
        self.loop.postpone(stopped_seconds)
        self.post(JobContinued(round(stopped_seconds, 1)))
        if self.state().phase is Phase.OFFERING:
            self.console.to_screen(QUESTION)

    def signals(self, signums: tuple[int, ...]) -> None:
        """Act on the signals that the guard got."""
        for signum in signums:
            match signum:
                case signal.SIGWINCH:
                    self.aider.resize()
                case signal.SIGTERM | signal.SIGHUP:
                    self.post(TerminationRequested(signum))
                case signal.SIGTSTP:
                    self._suspend()
                case signal.SIGINT if self.state().phase is Phase.OFFERING:
                    self.post(OfferAnswered(accepted=False))
