"""What all visits share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.replies import Timestamp
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import Services

if TYPE_CHECKING:
    from aider_guard.core.events import Event

# Remembers answers that broke off, so that a request that breaks each time is answered in words instead.

FORGOTTEN_SECONDS: Final = 60.0
_TRIES: Final = 2
_MAX_KEPT: Final = 32


@dataclass(frozen=True)
class _Broken:
    times: int
    at: float
    failure: Failure


class BrokenAnswers:
    """Bodies of requests by their hashes, in memory only. Aider sends the same body when it tries again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._broken: dict[bytes, _Broken] = {}

    def note(self, body: bytes, failure: Failure) -> bool:
        """An answer to this body broke off; whether it is time for words."""
        key, before = _key(body), self._recent(body)
        times = before.times + 1 if before else 1
        self._broken.pop(key, None)
        self._broken[key] = _Broken(times, self._clock(), failure)
        while len(self._broken) > _MAX_KEPT:
            del self._broken[next(iter(self._broken))]
        return times >= _TRIES

    def due(self, body: bytes) -> Failure | None:
        """What is to be said to this body in place of one more try, once; None to let it try."""
        broken = self._recent(body)
        if broken is None or broken.times < _TRIES:
            return None
        self.forget(body)
        return broken.failure

    def forget(self, body: bytes) -> None:
        """This body was answered."""
        if self._broken:
            self._broken.pop(_key(body), None)

    def _recent(self, body: bytes) -> _Broken | None:
        broken = self._broken.get(_key(body)) if self._broken else None
        if broken is None or self._clock() - broken.at > FORGOTTEN_SECONDS:
            return None
        return broken


def _key(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


@dataclass(frozen=True)
class RequestContext:
    """What all visits share, and the settings at the time of this one."""

    settings: DoorSettings
    services: Services
    emit: Callable[[Event], None]
    breaks: BrokenAnswers
    clock: Callable[[], float]
    moment: Callable[[], Timestamp]

    def window(self, asked: ChatRequest, upstream: Upstream) -> int | Unavailable:
        """The pin where a request can carry it, and no more than the model was trained for: Ollama loads no more, and
        does not say so. Else what is known to be loaded, or what the server said of itself.
        """
        pin = self.settings.window_tokens
        if upstream.kind == "openai":
            return self._told(asked.model, upstream.path)
        if asked.form in ("chat", "generate") and pin > 0:
            trained = self.services.facts.trained(asked.model)
            return min(pin, trained) if isinstance(trained, int) else pin
        return self.services.residency.loaded_window(asked.model)

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last polled; where no poll has told it yet, as asked for this request."""
        polled = self.services.residency.version
        return self.services.facts.version if isinstance(polled, Unavailable) else polled

    async def learn(self, asked: ChatRequest, upstream: Upstream) -> None:
        """Wait a moment for what decides how much of a prompt may be sent."""
        if upstream.kind == "ollama":
            unknown = isinstance(self.services.residency.version, Unavailable)
            await self.services.facts.learn(asked.model, version=unknown)

    def _told(self, model: str, path: str) -> int | Unavailable:
        """What a server that is not Ollama said its window is, before the first prompt."""
        windows = [
            role.window_tokens
            for role in self.settings.roles
            if role.path == path and same_model(role.model, model) and role.window_tokens > 0
        ]
        return windows[0] if windows else Unavailable("this server did not tell its window")


# How long a request waits for a server that is not there yet, or busy, and when it says so.

QUIET_SECONDS: Final = 3.0
"""So long a server may be gone before it is said: Ollama restarts in that time."""
BUSY_SECONDS: Final = 120.0
_QUIET_STEP: Final = 0.25
_BUSY_STEPS: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
_SAID_EVERY_SECONDS: Final = 10.0


class RetrySchedule:
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
