"""How long a request waits for a server that is not there yet, or busy, and when it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

QUIET_SECONDS: Final = 3.0
"""So long a server may be gone before it is said: Ollama restarts in that time."""
BUSY_SECONDS: Final = 120.0
_QUIET_STEP: Final = 0.25
_BUSY_STEPS: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
_SAID_EVERY_SECONDS: Final = 10.0


class Waits:
    """One request's patience."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gone_since: float | None = None
        self._busy_since: float | None = None
        self._busy_times = 0
        self._said_at: float | None = None

    def for_its_return(self) -> float | None:
        """Seconds until the next try to connect; None when it is to be said."""
        now = self._clock()
        self._gone_since = now if self._gone_since is None else self._gone_since
        return _QUIET_STEP if now - self._gone_since < QUIET_SECONDS else None

    def for_its_turn(self) -> float | None:
        """Seconds until a busy server is asked again; None when it is to be said."""
        now = self._clock()
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since >= BUSY_SECONDS:
            return None
        step = _BUSY_STEPS[min(self._busy_times, len(_BUSY_STEPS) - 1)]
        self._busy_times += 1
        return step

    def words(self, why: str) -> str:
        """What to show while waiting; "" when something was shown a moment ago."""
        now = self._clock()
        if self._said_at is not None and now - self._said_at < _SAID_EVERY_SECONDS:
            return ""
        waited = now - self._busy_since if self._busy_since is not None else 0.0
        first = self._said_at is None
        self._said_at = now
        return f"waiting: {why}" if first else f"still waiting after {waited:.0f} s: {why}"
