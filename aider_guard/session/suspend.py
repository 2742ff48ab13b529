"""Ctrl-Z: the guard stops with everything in its job, and comes back as if nothing had been.

Aider leads a session of its own on its pty. There the kernel discards the stop signal (its process group is an
orphan, POSIX 3.264), so the guard has to stop itself, where the shell can see it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from aider_guard.session import notices
from aider_guard.session.child import Child
from aider_guard.session.front import Front
from aider_guard.session.relay import Relay
from aider_guard.session.terminal import Terminal

CTRL_Z = 0x1A


def suspend_key(child: Child, front: Front) -> int:
    """The byte that suspends now, -1 when none does.

    While Aider works, it is the pty's own (``stty susp``). At a prompt the keys are raw, and prompt_toolkit takes
    Ctrl-Z; a program that took the whole terminal gets it as a key.
    """
    modes = child.line_modes()
    if modes is None:
        return -1
    if modes.signals:
        return modes.suspend_byte
    return CTRL_Z if front.screen.prompt_open and front.reads_keys() else -1


def suspend(terminal: Terminal, relay: Relay, front: Front, child: Child) -> None:
    """Stop this job until the shell continues it, then have Aider draw its prompt again."""
    with _prompt_taken_off(front):
        front.to_screen(b"".join(front.modes.resets()))
        relay.flush()
        child.signal(signal.SIGSTOP)
        with terminal.cooked():
            _stop_this_job()
        child.signal(signal.SIGCONT)
    child.resize(terminal.size())
    child.signal(
        signal.SIGWINCH
    )  # the size may be the same; prompt_toolkit draws again all the same


@contextlib.contextmanager
def _prompt_taken_off(front: Front) -> Iterator[None]:
    """Without the prompt the shell's lines do not run into it. Afterwards the cursor is left as many rows below the
    rule as Aider believes: it goes up by that many before it draws.
    """
    shown, rows = front.screen.shown_prompt(), front.screen.cursor_row()
    if shown is not None:
        front.to_screen(notices.erase(shown))
    elif front.screen.prompt_open:
        front.to_screen(b"\r" + b"\x1b[A" * rows + b"\x1b[J")
    yield
    rule = shown.rule.replace(b"\x1b[6n", b"") if shown is not None else b""
    front.to_screen(rule + b"\r\n" * rows)


def _stop_this_job() -> None:
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.killpg(os.getpgrp(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, before)
