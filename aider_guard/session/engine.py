"""Decides about every event by the policy and has the actions carried out, with a conversation and without one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

from aider_guard.core.actions import Action, Announce, CancelDeadline, SetDeadline
from aider_guard.core.events import DeadlinePassed, Event
from aider_guard.core.policy import decide
from aider_guard.core.state import State
from aider_guard.loop import Loop


@dataclass
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

    state: State
    loop: Loop
    _: KW_ONLY
    write: Callable[[object], None]
    perform: Callable[[Action], None]
    accepts: Callable[[Action], bool] = lambda _action: True
    on_event: Callable[[Event], None] = lambda _event: None
    clock: Callable[[], float] = time.monotonic
    _events: deque[Event] = field(default_factory=deque)
    _is_deciding: bool = False

    def post(self, event: Event) -> None:
        """Decide about an event and carry the actions out. Events that come meanwhile wait for their turn."""
        self._events.append(event)
        if self._is_deciding:
            return
        self._is_deciding = True
        try:
            while self._events:
                event = self._events.popleft()
                self.write(event)
                self.state, actions = decide(self.state, event, self.clock())
                for action in actions:
                    self._carry_out(action)
                self.on_event(event)
        finally:
            self._is_deciding = False

    def _carry_out(self, action: Action) -> None:
        match action:
            case SetDeadline(name, at):
                self.loop.at(name, at, partial(self.post, DeadlinePassed(name)))
            case CancelDeadline(name):
                self.loop.cancel(name)
            case Announce(event):
                self.post(event)
            case _ if self.accepts(action):
                self.write(action)
                self.perform(action)
