"""What the exchanges of one session share: settings, services, memory of broken answers, and the retry schedule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.replies import Timestamp
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.events import Event
from aider_guard.core.model_names import same_model
from aider_guard.core.other_servers import NOT_TOLD
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import RequestTarget, Services

FORGOTTEN_SECONDS: Final = 60.0
_TRIES: Final = 2
_MAX_KEPT: Final = 32


@dataclass(frozen=True)
class _Broken:
    failures: int
    at: float
    failure: Failure


class BrokenAnswers:
    """Remembers answers that broke off, so that a request that breaks each time is answered in words instead.

    Aider sends the same body when it tries again. Bodies are kept by their hashes, in memory only.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._broken: dict[bytes, _Broken] = {}

    def record(self, body: bytes, failure: Failure) -> bool:
        """Note that an answer to this body broke off; return whether to answer in words from now on."""
        key, before = _key(body), self._recent(body)
        failures = before.failures + 1 if before else 1
        self._broken.pop(key, None)
        self._broken[key] = _Broken(failures, self._clock(), failure)
        while len(self._broken) > _MAX_KEPT:
            del self._broken[next(iter(self._broken))]
        return failures >= _TRIES

    def due(self, body: bytes) -> Failure | None:
        """Return the failure to answer this body with instead of one more try, once; None to let it try."""
        broken = self._recent(body)
        if broken is None or broken.failures < _TRIES:
            return None
        self.forget(body)
        return broken.failure

    def forget(self, body: bytes) -> None:
        """Forget a body that was answered."""
        if self._broken:
            self._broken.pop(_key(body), None)

    def _recent(self, body: bytes) -> _Broken | None:
        broken = self._broken.get(_key(body)) if self._broken else None
        is_recent = broken and self._clock() - broken.at <= FORGOTTEN_SECONDS
        return broken if is_recent else None


def _key(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


@dataclass(frozen=True)
class RequestContext:
    """What all exchanges share, and the settings at the time of this one."""

    settings: DoorSettings
    services: Services
    emit: Callable[[Event], None]
    broken_answers: BrokenAnswers
    clock: Callable[[], float]
    timestamp: Callable[[], Timestamp]

    def window(self, request: ChatRequest, upstream: Upstream) -> int | Unavailable:
        """Return the window that a request is evaluated in.

        It is the pin where a request can carry it, but no more than the model was trained for: Ollama loads no more,
        and does not say so. Else it is what is known to be loaded. A server that is not Ollama was asked before the
        first prompt.
        """
        pin = self.settings.window_tokens
        others = self.services.others
        if upstream.kind == "openai":
            planned = (
                role.window_tokens
                for role in self.settings.roles
                if role.path == upstream.path and same_model(role.model, request.model)
            )
            told = others.window(request, upstream)
            known = [
                tokens for tokens in (*planned, told) if isinstance(tokens, int) and tokens > 0
            ]
            return min(known, default=NOT_TOLD)
        if request.form in ("chat", "generate") and pin > 0:
            trained = self.services.model_info.trained(request.model)
            return min(pin, trained) if isinstance(trained, int) else pin
        told = others.window(request, upstream)
        return (
            told if isinstance(told, int) else self.services.residency.loaded_window(request.model)
        )

    def target(self, request: ChatRequest, upstream: Upstream) -> RequestTarget:
        """Return where a request goes, as it is known now."""
        is_own = upstream.kind == "ollama" and not upstream.path
        unknown = Unavailable("what this server has loaded is not read")
        loaded = self.services.residency.loaded_window(request.model) if is_own else unknown
        return RequestTarget(upstream, self.version, self.window(request, upstream), loaded)

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama: as last polled, or as asked for this request where no poll has read it yet."""
        polled = self.services.residency.version
        return self.services.model_info.version if isinstance(polled, Unavailable) else polled

    async def learn(self, request: ChatRequest, upstream: Upstream) -> None:
        """Wait a moment for the facts that decide how much of a prompt may be sent."""
        if upstream.kind == "ollama":
            unknown = isinstance(self.services.residency.version, Unavailable)
            await self.services.model_info.learn(request.model, version=unknown)


QUIET_SECONDS: Final = 3.0
"""How long a server may be gone before the user is told: Ollama restarts in that time."""
BUSY_SECONDS: Final = 120.0
_QUIET_STEP: Final = 0.25
_LOADING_STEP: Final = 0.25
_BUSY_STEPS: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
_SHOWN_EVERY_SECONDS: Final = 10.0


class RetrySchedule:
    """Decides how long one request waits for a server that is gone or busy, and when it says so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gone_since: float | None = None
        self._busy_since: float | None = None
        self._loading_since: float | None = None
        self._busy_times = 0
        self._shown_at: float | None = None

    def until_reachable(self) -> float | None:
        """Return the seconds until the next try to connect; None when the request is to fail."""
        now = self._clock()
        self._gone_since = now if self._gone_since is None else self._gone_since
        return _QUIET_STEP if now - self._gone_since < QUIET_SECONDS else None

    def until_free(self) -> float | None:
        """Return the seconds until a busy server is asked again; None when the request is to fail."""
        now = self._clock()
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since >= BUSY_SECONDS:
            return None
        step = _BUSY_STEPS[min(self._busy_times, len(_BUSY_STEPS) - 1)]
        self._busy_times += 1
        return step

    def until_loaded(self) -> float:
        """Return the seconds until a server is asked again whether it has loaded the model: it ends that itself."""
        self._loading_since = self._clock() if self._loading_since is None else self._loading_since
        return _LOADING_STEP

    def message(self, why: str) -> str:
        """Return what to show while waiting; "" when something was shown a moment ago."""
        now = self._clock()
        if self._shown_at is not None and now - self._shown_at < _SHOWN_EVERY_SECONDS:
            return ""
        first, self._shown_at = self._shown_at is None, now
        since = self._loading_since if self._busy_since is None else self._busy_since
        waited = now - since if since is not None else 0.0
        return f"waiting: {why}" if first else f"still waiting after {waited:.0f} s: {why}"
