"""What comes to the guard from outside: keys and signals."""

from __future__ import annotations

import signal
from collections.abc import Callable

from aider_guard.core.events import Event, OfferAnswered, TerminationRequested
from aider_guard.core.state import Phase, State
from aider_guard.session.front import Front
from aider_guard.session.keys import SuspendKey
from aider_guard.session.offer import Offer
from aider_guard.session.relay import Relay
from aider_guard.session.running import Running
from aider_guard.session.suspend import suspend, suspend_key
from aider_guard.session.terminal import Terminal


class Input:
    """Hands keys to the front, or to the question that is asked; suspends where the user wants that."""

    def __init__(
        self,
        *,
        terminal: Terminal,
        relay: Relay,
        front: Front,
        running: Running,
        offer: Offer,
        state: Callable[[], State],
        post: Callable[[Event], None],
    ) -> None:
        self._terminal = terminal
        self._relay = relay
        self._front = front
        self._running = running
        self._offer = offer
        self._state = state
        self._post = post
        self._suspend_key = SuspendKey()

    def readable(self) -> None:
        """Take what the user typed; a terminal that went away ends the session as SIGHUP does."""
        data = self._relay.read_terminal()
        if data == b"":
            self._post(TerminationRequested(signal.SIGHUP))
        elif data:
            self._typed(data)

    def _typed(self, data: bytes) -> None:
        if self._state().phase is Phase.OFFERING:
            self._offer.typed(data)
            return
        at = self._suspend_key.find(data, self._key_now())
        if at < 0:
            self._front.user_typed(data)
            return
        if at:
            self._front.user_typed(data[:at])
        self._suspend()
        if data[at + 1 :]:
            self._typed(data[at + 1 :])

    def _key_now(self) -> int:
        child = self._running.child
        return -1 if child is None or self._front.hold else suspend_key(child, self._front)

    def _suspend(self) -> None:
        if self._running.child is not None:
            suspend(self._terminal, self._relay, self._front, self._running.child)

    def signals(self, signums: tuple[int, ...]) -> None:
        """Take the signals that came to the guard."""
        for signum in signums:
            match signum:
                case signal.SIGWINCH:
                    self._running.resize()
                case signal.SIGTERM | signal.SIGHUP:
                    self._post(TerminationRequested(signum))
                case signal.SIGTSTP:
                    self._suspend()
                case signal.SIGINT if self._state().phase is Phase.OFFERING:
                    self._post(OfferAnswered(accepted=False))
