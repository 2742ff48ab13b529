"""Attempts by the thousand, told by the second: each new kind at once, repetitions summed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from aider_guard.core.egress import Attempt

EACH_SECONDS: Final = 1.0
"""The same attempt is told again after this long at the earliest."""
MOST_KINDS: Final = 4096
"""So many different attempts are told apart in a session: who asks for random names costs no memory."""
_MANY: Final = Attempt("(many others)", 0, "other")


class Counting:
    """What was attempted and not told yet."""

    def __init__(self) -> None:
        self._told_at: dict[Attempt, float] = {}
        self._waiting: dict[Attempt, int] = {}

    def saw(self, attempt: Attempt, now: float) -> tuple[Attempt, ...]:
        """What is to be told now: this attempt if it is new, and what has waited long enough."""
        kind = replace(attempt, count=1)
        if kind not in self._told_at and len(self._told_at) >= MOST_KINDS:
            kind = _MANY
        self._waiting[kind] = self._waiting.get(kind, 0) + attempt.count
        return self.due(now)

    @property
    def waits(self) -> bool:
        """Whether something was not told yet."""
        return bool(self._waiting)

    def rest(self) -> tuple[Attempt, ...]:
        """All that was not told yet; nothing waits afterwards."""
        told = tuple(replace(kind, count=count) for kind, count in self._waiting.items())
        self._waiting.clear()
        return told

    def due(self, now: float) -> tuple[Attempt, ...]:
        """What has waited long enough; it is told with this."""
        due = [
            kind
            for kind in self._waiting
            if now - self._told_at.get(kind, now - EACH_SECONDS) >= EACH_SECONDS
        ]
        for kind in due:
            self._told_at[kind] = now
        return tuple(replace(kind, count=self._waiting.pop(kind)) for kind in due)
