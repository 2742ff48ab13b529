"""Putting a session together from its parts, while Aider starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from aider_guard.airgap.served import Border
from aider_guard.config import Config
from aider_guard.core.events import EgressBlocked
from aider_guard.core.state import Limits, State
from aider_guard.journal import open_journal
from aider_guard.launch.aider import Aider
from aider_guard.loop import Loop
from aider_guard.session import registry
from aider_guard.session.begun import Started
from aider_guard.session.control import Control, control_socket
from aider_guard.session.launches import Launches
from aider_guard.session.listening import Listening
from aider_guard.session.merging import merge_leftovers
from aider_guard.session.planning import Planner, planner_behind
from aider_guard.session.relay import Relay
from aider_guard.session.running import Running
from aider_guard.session.session import Session
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.session.watcher import Watcher
from aider_guard.view.status import session_facts


@dataclass(frozen=True)
class Ground:
    """What a session stands on. What it opens is closed by ``stack``."""

    config: Config
    environment: Mapping[str, str]
    aider: Aider
    folder: registry.SessionFolder
    terminal: Terminal
    fds: TerminalFds
    listening: Listening
    border: Border
    stack: ExitStack


def assemble(
    ground: Ground, started: Started, arguments: Sequence[str], environment: Mapping[str, str]
) -> Session:
    """A session around the Aider that was started with these arguments and this environment."""
    config, folder, stack = ground.config, ground.folder, ground.stack
    loop = stack.enter_context(Loop())
    relay = Relay(ground.fds.in_fd, ground.fds.out_fd)
    launches = Launches(
        folder.path, ground.aider, config, arguments, environment, border=ground.border
    )
    launches.adopt(started)
    running = stack.enter_context(Running(ground.terminal, relay, loop, launches))
    running.adopt(started.child)
    planner = _planner(ground)
    session: Session
    journal = stack.enter_context(
        open_journal(
            folder.path / "journal.jsonl",
            clock=time.monotonic,
            on_failure=lambda text: session.warn("journal", text),
        )
    )
    session = Session(
        State(limits_of(config)),
        terminal=ground.terminal,
        relay=relay,
        loop=loop,
        launches=launches,
        running=running,
        watcher=stack.enter_context(_watcher(ground, loop, planner)),
        planner=planner,
        journal=journal,
        colour=not ground.environment.get("NO_COLOR"),
    )
    _open_control(session, loop, folder, stack)
    _watch_border(session, loop, ground.border, running)
    stack.callback(ground.border.close)  # while there is a loop
    for problem in merge_leftovers(folder.path.parent, registry.is_alive):
        session.warn("histories", problem)
    return session


def _planner(ground: Ground) -> Planner:
    return planner_behind(
        ground.border,
        ground.listening,
        config=ground.config,
        aider=ground.aider,
        environment=ground.environment,
    )


def _watcher(ground: Ground, loop: Loop, planner: Planner) -> Watcher:
    return Watcher(
        loop,
        ollama=planner.first_server(),
        tokenizers=ground.aider.likely_tokenizers(),
        environment=ground.environment,
        door_fd=ground.listening.fileno(),
        relays=ground.border.gap.relays,
    )


def _watch_border(session: Session, loop: Loop, border: Border, running: Running) -> None:
    passed = loop.on_deadline

    def on_deadline(name: str) -> None:
        if not border.passed(name):
            passed(name)

    loop.on_deadline = on_deadline
    border.watch(
        loop,
        lambda attempt: session.post(EgressBlocked.of(attempt)),
        lambda: running.child.pid if running.child is not None else 0,
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


def limits_of(config: Config) -> Limits:
    """The settings that the policy decides by."""
    return Limits(
        warn_at_percent=config.warn_at,
        max_turns=config.max_turns,
        vram_warn_at_percent=config.vram_warn_at,
        probe=config.probe,
    )
