"""Guards an Aider without a conversation: the air gap and the door are served, and a journal is kept.

The policy is the same as in a session; of its actions only those are carried out that need no prompt. Everything runs
in a thread of its own; the notices are collected, and printed when the run is over.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard import paths
from aider_guard.airgap.served import Sandbox
from aider_guard.core.actions import Action, EndSession, Notice, ShowNotice, StartSidecar, WarmModel
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.egress_messages import NETWORK_OPEN, end_line
from aider_guard.core.events import AiderExited, AiderStarted, AirGapChosen, EgressBlocked, Event
from aider_guard.core.rules.lifecycle import exit_status
from aider_guard.core.state import Limits, State
from aider_guard.errors import LaunchError
from aider_guard.loop import READ, Loop
from aider_guard.ollama.access import ServerAccess
from aider_guard.session import registry
from aider_guard.session.engine import Engine
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.start_aider import DoorListener

if TYPE_CHECKING:
    from aider_guard.journal import Journal

_OF_EVERY_RUN = (AiderStarted, AirGapChosen, AiderExited, EndSession)


class RunJournal:
    """The journal of a run: a file is made with the first line that not every run has, so ``--version`` leaves none.

    To be used as a ``with``. Where it cannot be written *on_failure* is called once, and the run goes on.
    """

    def __init__(self, sessions: Path, *, on_failure: Callable[[str], None]) -> None:
        self._sessions = sessions
        self._on_failure = on_failure
        self._held: list[object] = []
        self._journal: Journal | None = None
        self._broken = False
        self._stack = ExitStack()

    def __enter__(self) -> RunJournal:
        # Aider runs by now, and does not ask yet: what is loaded here delays nothing.
        import_module("aider_guard.journal")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, happened: object) -> None:
        """Write an event or an action. Lines that every run has are held until another one comes."""
        self._held.append(happened)
        if self._journal is None and not self._broken and not isinstance(happened, _OF_EVERY_RUN):
            self._open()
        if self._journal is not None:
            held, self._held = self._held, []
            for line in held:
                self._journal.write(line)

    def _open(self) -> None:
        from aider_guard.journal import open_journal

        try:
            registry.prune(self._sessions)
            folder = registry.create(self._sessions)
            opened = open_journal(
                folder.path / "journal.jsonl", clock=time.monotonic, on_failure=self._on_failure
            )
            self._journal = self._stack.enter_context(opened)
        except (LaunchError, OSError) as error:
            self._broken = True
            self._on_failure(f"the journal cannot be written: {error}")


_END_SECONDS = 3.0


class Unattended:
    """Guards one run. As a ``with``: a sidecar that was started in it is gone after it.

    No sidecar runs before Aider begins: ``--version`` shall not wait for one. The air gap is served from the start.
    """

    def __init__(
        self,
        listener: DoorListener,
        sandbox: Sandbox,
        *,
        aider_pid: int,
        environment: Mapping[str, str],
        limits: Limits,
    ) -> None:
        self._listener = listener
        self._sandbox, self._aider_pid = sandbox, aider_pid
        self._environment = environment
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._began = self._ended = False
        self._status: int | None = None
        self._wake, self._woken = socket.socketpair()
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._run, name="unattended", daemon=True)
        self._sidecar: SidecarSupervisor | None = None
        # What needs neither Aider nor a prompt; and the sidecar's, once there is one.
        self._accepted: tuple[type, ...] = (ShowNotice,)
        self._loop = Loop()
        self._journal = RunJournal(
            paths.sessions_dir(environment), on_failure=lambda text: self.say("journal", text)
        )
        self._engine = Engine(
            State(limits),
            self._loop,
            write=self._journal.write,
            perform=self._perform,
            accepts=lambda action: isinstance(action, self._accepted),
        )
        self.notices: list[Notice] = []
        """What is to be printed once the run is over."""

    def __enter__(self) -> Unattended:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join(_END_SECONDS)
        self._woken.close()

    def begin(
        self,
        server: ServerAccess,
        tokenizers: str,
        door: DoorSettings | None,
        events: Sequence[Event],
    ) -> None:
        """Serve the door, where there are settings for it, and the allowed places from now on: Aider begins.

        ``events`` are what the start has found out: the server, the models.
        """

        def serve() -> None:
            relays = self._sandbox.gap.relays
            if door is not None or relays:
                sidecar = SidecarSupervisor(
                    self._loop,
                    ollama=server,
                    tokenizers=tokenizers,
                    environment=self._environment,
                    door_fd=self._listener.fileno(),
                    relays=relays,
                )
                self._sidecar = self._stack.enter_context(sidecar)
                self._accepted = (ShowNotice, StartSidecar, WarmModel)
                sidecar.post = self._engine.post
                sidecar.start()
                if door is not None:  # its output may be a file or another program's input
                    sidecar.serve_door(replace(door, shows_progress=False))
            for event in events:
                self._engine.post(event)

        self._began = True
        if self._sandbox.choice.layer == "open":
            self.say("network_open", NETWORK_OPEN)
        self._call_in_loop(serve)

    def journal(self, *lines: object) -> None:
        """Write events and actions about which nothing is to be decided."""

        def write() -> None:
            for line in lines:
                self._journal.write(line)

        self._call_in_loop(write)

    def say(self, name: str, text: str) -> None:
        """Add a notice, to be printed when the run is over."""
        self.notices.append(Notice(name, (text,)))

    def end(self, status: int) -> None:
        """Note that Aider ended, with this exit status or by minus this signal."""
        self._status = status

    def all_notices(self, *, even_nothing: bool) -> list[Notice]:
        """Return what is to be printed once the run is over, and last what tried to leave. That nothing did is a line
        only with *even_nothing*, and where Aider began.
        """
        last = end_line(self._engine.state, even_nothing=even_nothing and self._began)
        return [*self.notices, *([last] if last is not None else [])]

    # In the thread

    def _call_in_loop(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        self._wake.send(b"!")

    def _on_wakeup(self, _events: int) -> None:
        self._ended = not self._woken.recv(64)
        while not self._calls.empty():
            self._calls.get()()

    def _run(self) -> None:
        choice = self._sandbox.choice
        with self._loop, self._journal, self._stack:
            self._loop.watch(self._woken.fileno(), READ, self._on_wakeup)
            self._sandbox.watch(
                self._loop,
                lambda attempt: self._engine.post(EgressBlocked.of(attempt)),
                lambda: self._aider_pid,
            )
            self._journal.write(AiderStarted(1, self._aider_pid))
            self._engine.post(AirGapChosen(choice.layer, choice.because))
            self._loop.run(until=lambda: self._ended)
            if self._sidecar is not None:
                self._sidecar.finish()
            self._sandbox.flush()
            self._sandbox.close()
            if self._status is not None:
                self._journal.write(AiderExited(self._status))
                self._journal.write(EndSession(exit_status(self._status)))

    def _perform(self, action: Action) -> None:
        match action:
            case ShowNotice(notice):
                self.notices.append(notice)
            case StartSidecar() if self._sidecar is not None:
                self._sidecar.start()
            case WarmModel() if self._sidecar is not None:
                self._sidecar.send(action)
