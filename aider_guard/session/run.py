"""Runs a guarded session from its first process to its last line, and undoes all that it set up."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from aider_guard import paths
from aider_guard.airgap.served import Sandbox, build_sandbox, choose
from aider_guard.config import Config
from aider_guard.core.events import EgressBlocked
from aider_guard.core.state import Limits, State
from aider_guard.journal import open_journal
from aider_guard.launch.aider import find_aider
from aider_guard.launch.start_command import aider_environment
from aider_guard.loop import Loop
from aider_guard.session import registry
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.control import Control, control_socket, session_facts
from aider_guard.session.histories import merge_leftovers
from aider_guard.session.launches import Launches, Started, start_aider
from aider_guard.session.planning import Planner, planner_behind
from aider_guard.session.relay import Relay
from aider_guard.session.session import Session
from aider_guard.session.sidecar_process import DoorListener, SidecarSupervisor, door_socket
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.signals import signals_as_wakeups

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
    """Run Aider under guard in this terminal, and return its exit status.

    Raises GuardError when it cannot be started.
    """
    with ExitStack() as stack:
        choosing = stack.enter_context(choose(config, environment))
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
        folder = registry.create(paths.sessions_dir(environment))
        terminal = Terminal()
        fds = stack.enter_context(terminal.private_fds())
        sandbox = stack.enter_context(build_sandbox(choosing, config))
        listener = stack.enter_context(door_socket(sandbox.gap))
        wakeups = stack.enter_context(signals_as_wakeups(_WATCHED_SIGNALS))
        stack.enter_context(sandbox.reaping())
        aiders_environment = aider_environment(config, environment)
        pty = terminal.size(), terminal.attributes()
        started = start_aider(aider, arguments, aiders_environment, *pty, sandbox=sandbox)
        stack.enter_context(started.child)
        # Aider takes seconds to import what it needs: everything else of ours is loaded meanwhile.

        planner = planner_behind(
            sandbox, listener, config=config, aider=aider, environment=environment
        )
        parts = SessionParts(planner, folder, terminal, fds, listener, sandbox, stack)
        session = assemble(parts, started, arguments, aiders_environment)
        session.watch(fds, wakeups)
        with terminal.raw_mode():
            try:
                _run(session, sandbox)
            finally:
                _leave_screen(session, fds)
    return _close(session, folder)


def _run(session: Session, sandbox: Sandbox) -> None:
    from aider_guard.core.egress_messages import NETWORK_OPEN
    from aider_guard.core.events import AirGapChosen

    session.post(AirGapChosen(sandbox.choice.layer, sandbox.choice.because))
    session.begin()
    if sandbox.choice.layer == "open":
        session.warn("network_open", NETWORK_OPEN)
    session.run()
    sandbox.flush()


def _close(session: Session, folder: registry.SessionFolder) -> int:
    """Merge the histories, print the remaining notices, and tidy up."""
    from aider_guard.core.actions import Notice
    from aider_guard.core.egress_messages import end_line
    from aider_guard.session.notices import print_notices

    problems = session.merge_histories()
    last = end_line(session.state)
    notices = [*session.leftover_notices(), *([last] if last is not None else [])]
    notices += [Notice("histories", (problem,)) for problem in problems]
    print_notices(notices, Terminal().size().columns)
    if not problems:
        registry.forget_launches(folder.path)
        (folder.path / "histories.json").unlink(missing_ok=True)
    registry.prune(folder.path.parent)
    return session.exit_status


def _leave_screen(session: Session, fds: TerminalFds) -> None:
    """Undo what a killed Aider left on, and write the last byte to the terminal, unless it is stuck."""
    session.leave()
    while pending := session.relay.pending_for_terminal:
        select.select([], [fds.out_fd], [], _STUCK_SECONDS)
        session.relay.flush()
        if session.relay.pending_for_terminal == pending:
            return


@dataclass(frozen=True)
class SessionParts:
    """What a session is made from. What is opened for it is closed by ``stack``."""

    planner: Planner
    folder: registry.SessionFolder
    terminal: Terminal
    fds: TerminalFds
    listener: DoorListener
    sandbox: Sandbox
    stack: ExitStack


def assemble(
    parts: SessionParts, started: Started, arguments: Sequence[str], environment: Mapping[str, str]
) -> Session:
    """Make the session of an Aider that was started with these arguments and this environment, while it starts."""
    planner, folder, stack = parts.planner, parts.folder, parts.stack
    loop = stack.enter_context(Loop())
    relay = Relay(parts.fds.in_fd, parts.fds.out_fd)
    launches = Launches(
        folder.path, planner.aider, planner.config, arguments, environment, sandbox=parts.sandbox
    )
    launches.adopt(started)
    aider = stack.enter_context(AiderProcess(parts.terminal, relay, loop))
    aider.adopt(started.child)
    session: Session
    journal = stack.enter_context(
        open_journal(
            folder.path / "journal.jsonl",
            clock=time.monotonic,
            on_failure=lambda text: session.warn("journal", text),
        )
    )
    session = Session(
        State(_limits(planner.config)),
        terminal=parts.terminal,
        relay=relay,
        loop=loop,
        launches=launches,
        aider=aider,
        sidecar=stack.enter_context(_sidecar(parts, loop)),
        planner=planner,
        journal=journal,
        colour=not planner.environment.get("NO_COLOR"),
    )
    _open_control(session, loop, folder, stack)
    parts.sandbox.watch(
        loop,
        lambda attempt: session.post(EgressBlocked.of(attempt)),
        lambda: aider.child.pid if aider.child is not None else 0,
    )
    stack.callback(parts.sandbox.close)  # while there is a loop
    for problem in merge_leftovers(folder.path.parent, registry.is_alive):
        session.warn("histories", problem)
    return session


def _sidecar(parts: SessionParts, loop: Loop) -> SidecarSupervisor:
    return SidecarSupervisor(
        loop,
        ollama=parts.planner.first_server(),
        tokenizers=parts.planner.aider.likely_tokenizers(),
        environment=parts.planner.environment,
        door_fd=parts.listener.fileno(),
        relays=parts.sandbox.gap.relays,
    )


def _open_control(
    session: Session, loop: Loop, folder: registry.SessionFolder, stack: ExitStack
) -> None:
    listener, path = stack.enter_context(control_socket(folder.path))
    recorded = registry.record(folder, path)
    control = Control(
        listener,
        loop,
        status=lambda: session_facts(session.state, session_id=recorded.id, pid=recorded.pid),
        post=session.post,
    )
    stack.callback(control.close)


def _limits(config: Config) -> Limits:
    """Return the settings that the policy decides by."""
    return Limits(
        warn_at_percent=config.warn_at,
        max_turns=config.max_turns,
        vram_warn_at_percent=config.vram_warn_at,
        probe=config.probe,
    )
