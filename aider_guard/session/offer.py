"""Aider died: the question whether to start it again. Only an explicit y is consent."""

from __future__ import annotations

from collections.abc import Callable

from aider_guard.session.keys import without_answers

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
        """Take what came from the terminal. Its late answers to queries of the Aider that died are no keys."""
        keys = without_answers(data)
        if self._made_at is None or not keys or self._clock() - self._made_at < DEAF_SECONDS:
            return
        self._made_at = None
        self._answered(keys[:1] in b"yY")
