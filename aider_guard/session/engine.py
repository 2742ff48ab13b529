"""Decides about every event by the policy and has the actions carried out, with a conversation and without one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from aider_guard.core.actions import Action, Announce, CancelDeadline, SetDeadline
from aider_guard.core.events import DeadlinePassed, Event
from aider_guard.core.policy import decide
from aider_guard.core.state import State
from aider_guard.loop import Loop


class Engine:
    """Takes events one after the other (``post``); every event, and every action carried out, is journaled.

    Args:
        state: what is known at the start.
        loop: keeps the policy's deadlines.
        write: puts an event or an action into the journal.
        perform: carries an action out; the policy's deadlines and announcements are handled here.
        accepts: whether an action can be carried out here. One that cannot is dropped, and not journaled.
        on_event: called after the actions of an event.
        clock: monotonic seconds, the same as the loop's.
    """

    def __init__(
        self,
        state: State,
        loop: Loop,
        *,
        write: Callable[[object], None],
        perform: Callable[[Action], None],
        accepts: Callable[[Action], bool] = lambda _action: True,
        on_event: Callable[[Event], None] = lambda _event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self._loop = loop
        self._write = write
        self._perform = perform
        self._accepts = accepts
        self._on_event = on_event
        self._clock = clock
        self._events: deque[Event] = deque()
        self._is_deciding = False

    def post(self, event: Event) -> None:
        """Decide about an event and carry the actions out. Events that come meanwhile wait for their turn."""
        self._events.append(event)
        if self._is_deciding:
            return
        self._is_deciding = True
        try:
            while self._events:
                self._decide(self._events.popleft())
        finally:
            self._is_deciding = False

    def _decide(self, event: Event) -> None:
        self._write(event)
        self.state, actions = decide(self.state, event, self._clock())
        for action in actions:
            self._carry_out(action)
        self._on_event(event)

    def _carry_out(self, action: Action) -> None:
        match action:
            case SetDeadline(name, at):
                self._loop.at(name, at, partial(self.post, DeadlinePassed(name)))
            case CancelDeadline(name):
                self._loop.cancel(name)
            case Announce(event):
                self.post(event)
            case _ if self._accepts(action):
                self._write(action)
                self._perform(action)
