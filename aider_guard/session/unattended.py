"""A sidecar beside a run without a prompt: the same policy, of whose actions only those are carried out that need none.

Everything runs in a thread of its own; what the user should know is gathered, and said when the run is over.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from aider_guard.core import requests
from aider_guard.core.actions import (
    Action,
    CancelDeadline,
    Notice,
    SetDeadline,
    ShowNotice,
    StartSidecar,
    WarmModel,
)
from aider_guard.core.egress_events import AirGapChosen, EgressBlocked
from aider_guard.core.egress_sentences import end_line
from aider_guard.core.events import DeadlinePassed, Event
from aider_guard.core.policy import decide
from aider_guard.core.state import Limits, State
from aider_guard.core.traffic.kinds import DoorSettings
from aider_guard.session.border import Border
from aider_guard.session.listening import Listening
from aider_guard.session.loop import READ, Loop
from aider_guard.session.watcher import Watcher

_END_SECONDS = 3.0


class Unattended:
    """As a ``with``: a sidecar that was started in it is gone after it. ``notices`` are what is to be said then.

    There is none before the door is to be served: ``--version`` shall not wait for one. The air gap is served from the
    beginning.
    """

    def __init__(
        self,
        listening: Listening,
        border: Border,
        *,
        aider: int,
        environment: Mapping[str, str],
        limits: Limits,
    ) -> None:
        self._listening = listening
        self._border, self._aider = border, aider
        self._orders: queue.SimpleQueue[Callable[[Loop, _Deciding], None]] = queue.SimpleQueue()
        self._environment = environment
        self._state = State(limits)
        self._began = False
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

    def serve_door(self, settings: DoorSettings, ollama: str, known: Sequence[Event]) -> None:
        """Have the door served so from now on; ``known`` is what the start has found out: the server, the models."""

        def serve(loop: Loop, deciding: _Deciding) -> None:
            watcher = self._watcher(loop, ollama, settings.tokenizers)
            deciding.watcher = self._stack.enter_context(watcher)
            watcher.post = deciding.post
            watcher.start()
            watcher.serve_door(settings)
            for event in known:
                deciding.post(event)

        self._began = True
        self._orders.put(serve)
        self._wake.send(b"!")

    def _run(self) -> None:
        ended = False

        def woken(_events: int) -> None:
            nonlocal ended
            ended = not self._woken.recv(64)
            while not self._orders.empty():
                self._orders.get()(loop, deciding)

        with Loop() as loop, self._stack:
            deciding = _Deciding(self, loop, self._border)
            loop.watch(self._woken.fileno(), READ, woken)
            loop.on_deadline = deciding.passed
            self._border.watch(
                loop, lambda attempt: deciding.post(EgressBlocked.of(attempt)), lambda: self._aider
            )
            deciding.post(AirGapChosen(self._border.gap.layer))
            loop.run(until=lambda: ended)
            self._border.look()
            self._border.close()

    def _watcher(self, loop: Loop, ollama: str, tokenizers: str) -> Watcher:
        return Watcher(
            loop,
            ollama=ollama,
            tokenizers=tokenizers,
            environment=self._environment,
            door_fd=self._listening.fileno(),
            relays=self._border.gap.relays,
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

    def __init__(self, run: Unattended, loop: Loop, border: Border) -> None:
        self._run = run
        self._border = border
        self._loop = loop
        self.watcher: Watcher | None = None
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            for action in self._run.decide(self._events[0]):
                self._perform(action)
            del self._events[0]

    def passed(self, deadline: str) -> None:
        """The instant of this name has come."""
        if not self._border.passed(deadline):
            self.post(DeadlinePassed(deadline))

    def _perform(self, action: Action) -> None:
        match action:
            case ShowNotice(notice):
                self._run.notices.append(notice)
            case StartSidecar() if self.watcher is not None:
                self.watcher.start()
            case WarmModel(ours) if self.watcher is not None:
                self.watcher.send(requests.WarmModel(ours))
            case SetDeadline(name, at):
                self._loop.at(name, at)
            case CancelDeadline(name):
                self._loop.cancel(name)
