"""A guarded session from its first process to the last line: what must be undone is opened here."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aider_guard import paths
from aider_guard.config import Config
from aider_guard.launch.aider import Aider, find_aider
from aider_guard.session import registry
from aider_guard.session.launches import Launches
from aider_guard.session.loop import READ, Loop
from aider_guard.session.relay import Relay
from aider_guard.session.running import Running
from aider_guard.session.signals import signals_as_wakeups
from aider_guard.session.terminal import Terminal, TerminalFds

if TYPE_CHECKING:
    from aider_guard.core.actions import Notice
    from aider_guard.launch.settings import AiderSettings
    from aider_guard.session.session import Session

DEFAULT_OLLAMA = "http://127.0.0.1:11434"
_WATCHED_SIGNALS = (
    signal.SIGWINCH,
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTSTP,
    signal.SIGCONT,
)
_DRAIN_SECONDS = 2.0


@dataclass(frozen=True)
class _Ground:
    """What stands before Aider is started."""

    config: Config
    environment: Mapping[str, str]
    aider: Aider
    folder: registry.SessionFolder
    terminal: Terminal
    relay: Relay
    loop: Loop
    launches: Launches
    running: Running


def run_session(
    config: Config, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> int:
    """Run Aider under guard in this terminal; its exit status. Raises GuardError when it cannot be started."""
    aider = find_aider(config.aider, search_path=environment.get("PATH"))
    folder = registry.create(paths.sessions_dir(environment))
    terminal = Terminal()
    with ExitStack() as stack:
        fds = stack.enter_context(terminal.private_fds())
        wakeups = stack.enter_context(signals_as_wakeups(_WATCHED_SIGNALS))
        loop = stack.enter_context(Loop())
        relay = Relay(fds.in_fd, fds.out_fd)
        launches = Launches(folder.path, aider, config, arguments, environment)
        running = stack.enter_context(Running(terminal, relay, loop, launches))
        ground = _Ground(
            config, environment, aider, folder, terminal, relay, loop, launches, running
        )
        # Aider takes seconds to import what it needs: everything else of ours is loaded meanwhile.
        running.start(None)
        session = _assemble(ground, stack)
        loop.watch(fds.in_fd, READ, lambda _events: session.terminal_readable())
        loop.watch(fds.out_fd, 0, lambda _events: None)
        loop.watch(wakeups.fileno(), READ, lambda _events: session.signals(wakeups.read()))
        with terminal.raw_mode():
            try:
                session.begin()
                session.run()
            finally:
                _leave_screen(session, relay, fds)
    return _close(session, launches, folder)


def _close(session: Session, launches: Launches, folder: registry.SessionFolder) -> int:
    """Bring the histories home, say what is left to say, and tidy up."""
    problems = launches.histories.merge() if launches.histories is not None else ()
    _part(session.leftover_notices(), problems)
    if not problems:
        registry.forget_launches(folder.path)
        (folder.path / "histories.json").unlink(missing_ok=True)
    registry.prune(folder.path.parent)
    return session.exit_status


def _assemble(ground: _Ground, stack: ExitStack) -> Session:
    from aider_guard.core.state import Limits, State
    from aider_guard.journal import open_journal
    from aider_guard.launch.settings import AiderSettings
    from aider_guard.session.control import Control, control_socket
    from aider_guard.session.merging import merge_leftovers
    from aider_guard.session.session import Session
    from aider_guard.session.watcher import Watcher
    from aider_guard.view.status import session_facts

    config, environment, folder, loop = (
        ground.config,
        ground.environment,
        ground.folder,
        ground.loop,
    )
    session: Session
    journal = stack.enter_context(
        open_journal(
            folder.path / "journal.jsonl",
            clock=time.monotonic,
            on_failure=lambda text: session.warn("journal", text),
        )
    )
    limits = Limits(
        warn_at_percent=config.warn_at,
        max_turns=config.max_turns,
        vram_warn_at_percent=config.vram_warn_at,
        probe=config.probe,
    )
    watcher = stack.enter_context(
        Watcher(
            loop,
            ollama=ollama_address(config, AiderSettings(), environment),
            tokenizers=ground.aider.likely_tokenizers(),
            environment=environment,
        )
    )
    session = Session(
        State(limits),
        terminal=ground.terminal,
        relay=ground.relay,
        loop=loop,
        launches=ground.launches,
        running=ground.running,
        watcher=watcher,
        server=lambda settings: ollama_address(config, settings, environment),
        journal=journal,
        colour=not environment.get("NO_COLOR"),
    )
    listener, path = stack.enter_context(control_socket(folder.path))
    recorded = registry.record(folder, path)
    control = Control(
        listener,
        loop,
        status=lambda: session_facts(session.state, session_id=recorded.id, pid=recorded.pid),
        post=session.post,
    )
    stack.callback(control.close)
    for problem in merge_leftovers(folder.path.parent, registry.is_alive):
        session.warn("histories", problem)
    return session


def ollama_address(config: Config, settings: AiderSettings, environment: Mapping[str, str]) -> str:
    """Where Ollama is: the guard's own setting, else where Aider would look, else Ollama's usual address."""
    from aider_guard.sidecar.names import connectable_base

    found = (
        config.ollama
        or settings.ollama_api_base
        or environment.get("OLLAMA_API_BASE")
        or DEFAULT_OLLAMA
    )
    return connectable_base(found)


def _leave_screen(session: Session, relay: Relay, fds: TerminalFds) -> None:
    """Undo what a killed Aider left on, and bring the last byte to the terminal; a stuck one is not waited for."""
    session.front.leave()
    deadline = time.monotonic() + _DRAIN_SECONDS
    while relay.pending_for_terminal and (left := deadline - time.monotonic()) > 0:
        select.select([], [fds.out_fd], [], left)
        relay.flush()


def _part(said: Sequence[Notice], problems: Sequence[str]) -> None:
    """What could not be said above a prompt is said now, where the shell's own lines go on."""
    from aider_guard.core.actions import Notice
    from aider_guard.session.notices import render

    columns = Terminal().size().columns
    colour = not os.environ.get("NO_COLOR") and sys.stderr.isatty()
    for notice in (*said, *(Notice("histories", (problem,)) for problem in problems)):
        sys.stderr.write(render(notice, columns, colour=colour, newline="\n"))
