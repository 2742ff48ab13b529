"""Remembers answers that broke off, so that a request that breaks each time is answered in words instead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat.errors import Failure

FORGOTTEN_SECONDS: Final = 60.0
_TRIES: Final = 2
_MAX_KEPT: Final = 32


@dataclass(frozen=True)
class _Broken:
    times: int
    at: float
    failure: Failure


class Breaks:
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
