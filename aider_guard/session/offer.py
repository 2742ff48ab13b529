"""Aider died: the question whether to start it again. Only an explicit y is consent."""

from __future__ import annotations

from collections.abc import Callable

DEAF_SECONDS = 0.3
QUESTION = b"  y: start it again, any other key: leave "


class Offer:
    """Waits for one key. What was typed for the Aider that died is not taken for an answer."""

    def __init__(self, answered: Callable[[bool], None], clock: Callable[[], float]) -> None:
        self._answered = answered
        self._clock = clock
        self._made_at: float | None = None

    def make(self) -> None:
        """The question is on the screen from now on."""
        self._made_at = self._clock()

    def typed(self, data: bytes) -> None:
        """Take what came from the terminal."""
        if self._made_at is None or not data or self._clock() - self._made_at < DEAF_SECONDS:
            return
        self._made_at = None
        self._answered(data[:1] in b"yY")
