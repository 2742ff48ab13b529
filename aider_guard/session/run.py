"""A guarded session from its first process to the last line: what must be undone is opened here."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from aider_guard import paths
from aider_guard.airgap.served import Border, choose, chosen_border
from aider_guard.config import Config
from aider_guard.launch.aider import find_aider
from aider_guard.launch.start_command import aider_environment
from aider_guard.session import registry
from aider_guard.session.begun import start_aider
from aider_guard.session.listening import door_socket
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.signals import signals_as_wakeups

if TYPE_CHECKING:
    from aider_guard.core.actions import Notice
    from aider_guard.session.session import Session

_WATCHED_SIGNALS = (
    signal.SIGWINCH,
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTSTP,
    signal.SIGCONT,
)
_STUCK_SECONDS = 2.0


def run_session(
    config: Config, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> int:
    """Run Aider under guard in this terminal; its exit status. Raises GuardError when it cannot be started."""
    with ExitStack() as stack:
        choosing = stack.enter_context(choose(config, environment))
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
        folder = registry.create(paths.sessions_dir(environment))
        terminal = Terminal()
        fds = stack.enter_context(terminal.private_fds())
        border = stack.enter_context(chosen_border(choosing, config))
        listening = stack.enter_context(door_socket(border.gap))
        wakeups = stack.enter_context(signals_as_wakeups(_WATCHED_SIGNALS))
        stack.enter_context(border.reaping())
        its_environment = aider_environment(config, environment)
        pty = terminal.size(), terminal.attributes()
        started = start_aider(aider, arguments, its_environment, *pty, border=border)
        stack.enter_context(started.child)
        # Aider takes seconds to import what it needs: everything else of ours is loaded meanwhile.
        from aider_guard.session.assembly import Ground, assemble

        ground = Ground(config, environment, aider, folder, terminal, fds, listening, border, stack)
        session = assemble(ground, started, arguments, its_environment)
        session.watch(fds, wakeups)
        with terminal.raw_mode():
            try:
                _run(session, border)
            finally:
                _leave_screen(session, fds)
    return _close(session, folder)


def _run(session: Session, border: Border) -> None:
    from aider_guard.core.egress_messages import NETWORK_OPEN
    from aider_guard.core.events import AirGapChosen

    session.post(AirGapChosen(border.found.layer, border.found.because))
    session.begin()
    if border.found.layer == "open":
        session.warn("network_open", NETWORK_OPEN)
    session.run()
    border.look()


def _close(session: Session, folder: registry.SessionFolder) -> int:
    """Bring the histories home, say what is left to say, and tidy up."""
    from aider_guard.core.egress_messages import end_line

    problems = session.merge_histories()
    last = end_line(session.state)
    _part([*session.leftover_notices(), *([last] if last is not None else [])], problems)
    if not problems:
        registry.forget_launches(folder.path)
        (folder.path / "histories.json").unlink(missing_ok=True)
    registry.prune(folder.path.parent)
    return session.exit_status


def _leave_screen(session: Session, fds: TerminalFds) -> None:
    """Undo what a killed Aider left on, and bring the last byte to the terminal; a stuck one is not waited for."""
    session.leave()
    while pending := session.relay.pending_for_terminal:
        select.select([], [fds.out_fd], [], _STUCK_SECONDS)
        session.relay.flush()
        if session.relay.pending_for_terminal == pending:
            return


def _part(said: Sequence[Notice], problems: Sequence[str]) -> None:
    """What could not be said above a prompt is said now, where the shell's own lines go on."""
    from aider_guard.core.actions import Notice
    from aider_guard.session.notices import render

    columns = Terminal().size().columns
    colour = not os.environ.get("NO_COLOR") and sys.stderr.isatty()
    for notice in (*said, *(Notice("histories", (problem,)) for problem in problems)):
        with suppress(OSError):  # the terminal has gone
            os.write(2, render(notice, columns, colour=colour, newline="\n").encode())
