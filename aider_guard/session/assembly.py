"""Puts the parts of a session together, while the Aider that was started imports what it needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from aider_guard.airgap.served import Sandbox
from aider_guard.config import Config
from aider_guard.core.events import EgressBlocked
from aider_guard.core.state import Limits, State
from aider_guard.journal import open_journal
from aider_guard.loop import Loop
from aider_guard.session import registry
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.control import Control, control_socket, session_facts
from aider_guard.session.histories import merge_leftovers
from aider_guard.session.launches import Launches
from aider_guard.session.planning import Planner
from aider_guard.session.relay import Relay
from aider_guard.session.session import Session
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.start_aider import DoorListener, Started
from aider_guard.session.terminal import Terminal, TerminalFds


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
