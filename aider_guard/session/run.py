"""Runs a guarded session from its first process to its last line, and undoes all that it set up."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aider_guard import paths
from aider_guard.airgap.served import Sandbox, build_sandbox, choose
from aider_guard.config import Config
from aider_guard.launch.aider import find_aider
from aider_guard.launch.start_command import aider_environment
from aider_guard.session import registry
from aider_guard.session.start_aider import door_socket, next_prompt_pipe, start_aider
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.signals import signals_as_wakeups

if TYPE_CHECKING:
    from aider_guard.session.launches import Resumed
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
    config: Config,
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    *,
    resumed: Resumed | None = None,
) -> int:
    """Run Aider under guard in this terminal, and return its exit status.

    With *resumed*, it begins with the chat of an earlier session.

    Raises GuardError when it cannot be started.
    """
    with ExitStack() as stack:
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
        folder = registry.create(paths.sessions_dir(environment))
        choosing = stack.enter_context(choose(config, environment, writable=[str(folder.path)]))
        terminal = Terminal()
        fds = stack.enter_context(terminal.private_fds())
        sandbox = stack.enter_context(build_sandbox(choosing, config))
        listener = stack.enter_context(door_socket(sandbox.gap))
        wants_next = config.read_ahead != "off"
        next_prompts = stack.enter_context(next_prompt_pipe(wanted=wants_next))
        wakeups = stack.enter_context(signals_as_wakeups(_WATCHED_SIGNALS))
        stack.enter_context(sandbox.reaping())
        aiders_environment = aider_environment(config, environment)
        pty = terminal.size(), terminal.attributes()
        started = start_aider(
            *(aider, arguments, aiders_environment, *pty),
            sandbox=sandbox,
            next_prompts=next_prompts,
        )
        stack.enter_context(started.child)
        # Aider takes seconds to import what it needs: everything else of ours is loaded meanwhile.
        from aider_guard.session.loaded_code import helper_starter

        starter = stack.enter_context(helper_starter(sandbox))
        from aider_guard.session.planning import planner_behind
        from aider_guard.session.session import SessionParts, assemble

        planner = planner_behind(
            sandbox, listener, config=config, aider=aider, environment=environment
        )
        planner.arguments = tuple(arguments)
        parts = SessionParts(
            *(planner, folder, terminal, fds, listener, sandbox, stack, starter, next_prompts)
        )
        session = assemble(parts, started, arguments, aiders_environment)
        if resumed is not None:
            session.take_over(resumed)
        if config.keep_sessions:
            session.keep_for_resuming(folder, arguments, keep=config.keep)
        session.watch(fds, wakeups)
        with terminal.raw_mode():
            try:
                _run(session, sandbox)
            finally:
                _leave_screen(session, fds)
    return _close(session, folder, config.keep_sessions)


def _run(session: Session, sandbox: Sandbox) -> None:
    from aider_guard.core.egress_messages import NETWORK_OPEN
    from aider_guard.core.events import AirGapChosen

    session.post(AirGapChosen(sandbox.choice.layer, sandbox.choice.because))
    session.begin()
    if sandbox.choice.layer == "open":
        session.warn("network_open", NETWORK_OPEN)
    session.run()
    sandbox.flush()


def _close(session: Session, folder: registry.SessionFolder, keep_sessions: int) -> int:
    """Merge the histories, print the remaining notices, and tidy up."""
    from aider_guard.core.actions import Notice
    from aider_guard.core.egress_messages import end_line
    from aider_guard.session.kept_sessions import prune_kept
    from aider_guard.session.notices import print_notices

    session.keep_chat()
    problems = session.merge_histories()
    last = end_line(session.state)
    notices = [*session.leftover_notices(), *([last] if last is not None else [])]
    notices += [Notice("histories", (problem,)) for problem in problems]
    print_notices(notices, Terminal().size().columns)
    if not problems:
        registry.forget_launches(folder.path)
        (folder.path / "histories.json").unlink(missing_ok=True)
    registry.prune(folder.path.parent, keep=keep_sessions)
    prune_kept(folder.path.parent, keep=keep_sessions)
    if not keep_sessions:
        registry.remove(folder.path)
    return session.exit_status


def _leave_screen(session: Session, fds: TerminalFds) -> None:
    """Undo what a killed Aider left on, and write the last byte to the terminal, unless it is stuck."""
    session.leave()
    while pending := session.relay.pending_for_terminal:
        select.select([], [fds.out_fd], [], _STUCK_SECONDS)
        session.relay.flush()
        if session.relay.pending_for_terminal == pending:
            return
