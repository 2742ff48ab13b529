"""A sidecar beside a run without a prompt: the same policy, of whose actions only those are carried out that need none.

Everything runs in a thread of its own; what the user should know is gathered, and said when the run is over.
Everything that happens is written into a journal.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from aider_guard import paths
from aider_guard.airgap.served import Sandbox
from aider_guard.core import requests
from aider_guard.core.actions import (
    Action,
    CancelDeadline,
    EndSession,
    Notice,
    SetDeadline,
    ShowNotice,
    StartSidecar,
    WarmModel,
)
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.egress_messages import NETWORK_OPEN, end_line
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    AirGapChosen,
    DeadlinePassed,
    EgressBlocked,
    Event,
)
from aider_guard.core.policy import decide
from aider_guard.core.rules.lifecycle import exit_status
from aider_guard.core.state import Limits, State
from aider_guard.errors import LaunchError
from aider_guard.loop import READ, Loop
from aider_guard.session import registry
from aider_guard.session.listening import DoorListener
from aider_guard.session.sidecar_process import SidecarSupervisor

if TYPE_CHECKING:
    from aider_guard.journal import Journal

# The journal of a run without a conversation: made with the first line worth one, so ``--version`` leaves none.

_OF_EVERY_RUN = (AiderStarted, AirGapChosen, AiderExited, EndSession)


class RunJournal:
    """As a ``with``. Where it cannot be written that is said once, by *on_failure*, and the run goes on."""

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write(self, happened: object) -> None:
        """Note an event or an action. What happens in every run is written with the first that does not."""
        self._held.append(happened)
        if self._journal is None and not self._broken and not isinstance(happened, _OF_EVERY_RUN):
            self._open()
        if self._journal is not None:
            held, self._held = self._held, []
            for one in held:
                self._journal.write(one)

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
    """As a ``with``: a sidecar that was started in it is gone after it. ``notices`` are what is to be said then.

    There is none before Aider begins: ``--version`` shall not wait for one. The air gap is served from the start.
    """

    def __init__(
        self,
        listening: DoorListener,
        sandbox: Sandbox,
        *,
        aider: int,
        environment: Mapping[str, str],
        limits: Limits,
    ) -> None:
        self._listening = listening
        self._sandbox, self._aider = sandbox, aider
        self._orders: queue.SimpleQueue[Callable[[Loop, _Deciding], None]] = queue.SimpleQueue()
        self._environment = environment
        self._state = State(limits)
        self._began = False
        self._status: int | None = None
        self._wake, self._woken = socket.socketpair()
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._run, name="unattended", daemon=True)
        self.notices: list[Notice] = []

    def __enter__(self) -> Unattended:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wake.close()
        self._thread.join(_END_SECONDS)
        self._woken.close()

    def begin(
        self, server: str, tokenizers: str, door: DoorSettings | None, known: Sequence[Event]
    ) -> None:
        """Aider begins: from now on the door, where there are settings for it, and what is let through are served.

        ``known`` is what the start has found out: the server, the models.
        """

        def serve(loop: Loop, deciding: _Deciding) -> None:
            if door is not None or self._sandbox.gap.relays:
                watcher = self._watcher(loop, server, tokenizers)
                deciding.watcher = self._stack.enter_context(watcher)
                watcher.post = deciding.post
                watcher.start()
                if door is not None:
                    watcher.serve_door(door)
            for event in known:
                deciding.post(event)

        self._began = True
        if self._sandbox.choice.layer == "open":
            self.say("network_open", NETWORK_OPEN)
        self._order(serve)

    def note(self, *happened: object) -> None:
        """Write down what there is nothing to decide about."""

        def write(_loop: Loop, deciding: _Deciding) -> None:
            for one in happened:
                deciding.journal.write(one)

        self._order(write)

    def say(self, name: str, text: str) -> None:
        """Have something said when the run is over."""
        self.notices.append(Notice(name, (text,)))

    def ended(self, status: int) -> None:
        """Aider ended, with this exit status or by minus this signal."""
        self._status = status

    def _order(self, order: Callable[[Loop, _Deciding], None]) -> None:
        self._orders.put(order)
        self._wake.send(b"!")

    def _run(self) -> None:
        ended = False

        def woken(_events: int) -> None:
            nonlocal ended
            ended = not self._woken.recv(64)
            while not self._orders.empty():
                self._orders.get()(loop, deciding)

        sessions = paths.sessions_dir(self._environment)
        journaled = RunJournal(sessions, on_failure=lambda text: self.say("journal", text))
        with Loop() as loop, journaled as journal, self._stack:
            deciding = _Deciding(self, loop, self._sandbox, journal)
            loop.watch(self._woken.fileno(), READ, woken)
            loop.on_deadline = deciding.passed
            self._sandbox.watch(
                loop, lambda attempt: deciding.post(EgressBlocked.of(attempt)), lambda: self._aider
            )
            journal.write(AiderStarted(1, self._aider))
            deciding.post(AirGapChosen(self._sandbox.choice.layer, self._sandbox.choice.because))
            loop.run(until=lambda: ended)
            self._sandbox.flush()
            self._sandbox.close()
            if self._status is not None:
                journal.write(AiderExited(self._status))
                journal.write(EndSession(exit_status(self._status)))

    def _watcher(self, loop: Loop, ollama: str, tokenizers: str) -> SidecarSupervisor:
        return SidecarSupervisor(
            loop,
            ollama=ollama,
            tokenizers=tokenizers,
            environment=self._environment,
            door_fd=self._listening.fileno(),
            relays=self._sandbox.gap.relays,
        )

    def all_notices(self, *, even_nothing: bool) -> list[Notice]:
        """What is to be said once the run is over, and last what tried to leave. Without *even_nothing*, and where
        Aider did not begin, it is not said that nothing did.
        """
        last = end_line(self._state, even_nothing=even_nothing and self._began)
        return [*self.notices, *([last] if last is not None else [])]

    def decide(self, event: Event) -> tuple[Action, ...]:
        """What the policy wants done about an event."""
        self._state, actions = decide(self._state, event, time.monotonic())
        return actions


class _Deciding:
    """Carries out what needs neither Aider nor a prompt; events that come meanwhile wait for their turn."""

    def __init__(self, run: Unattended, loop: Loop, sandbox: Sandbox, journal: RunJournal) -> None:
        self._run = run
        self._sandbox = sandbox
        self._loop = loop
        self.journal = journal
        self.watcher: SidecarSupervisor | None = None
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            self.journal.write(self._events[0])
            for action in self._run.decide(self._events[0]):
                self._perform(action)
            del self._events[0]

    def passed(self, deadline: str) -> None:
        """The instant of this name has come."""
        if not self._sandbox.on_deadline(deadline):
            self.post(DeadlinePassed(deadline))

    def _perform(self, action: Action) -> None:
        match action:
            case ShowNotice(notice):
                self.journal.write(action)
                self._run.notices.append(notice)
            case StartSidecar() if self.watcher is not None:
                self.journal.write(action)
                self.watcher.start()
            case WarmModel(ours) if self.watcher is not None:
                self.journal.write(action)
                self.watcher.send(requests.WarmModel(ours))
            case SetDeadline(name, at):
                self._loop.at(name, at)
            case CancelDeadline(name):
                self._loop.cancel(name)
