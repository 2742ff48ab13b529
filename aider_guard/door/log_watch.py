"""The second witness: Ollama's own log, read beside the traffic where it can be read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence
from aider_guard.ollama.log_files import (
    FollowedLog,
    LogFile,
    LogFileAt,
    LogOf,
    find_log,
    followed_child,
)
from aider_guard.ollama.log_lines import RequestEnded, evidence

IN_FLIGHT_SECONDS: Final = 0.15
"""How long lines on their way are waited for; the line that ends a request ends the wait."""
LOOK_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 60.0

NOT_YET: Final = Unavailable("Ollama's log is still looked for")
LATER: Final = Unavailable("Ollama's log was found only while the request ran")
_PLACES: Final = 1 << 60
"""Marks of one log end below; the next log's begin there."""

Find = Callable[[str, str], LogFileAt | LogOf | Unavailable]


@dataclass(frozen=True)
class _Following:
    """The log that is followed, and which one it is in order."""

    log: FollowedLog
    number: int
    undo: ExitStack


def _in_background(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="ollama-log-search", daemon=True).start()


class OllamaLogWatch:
    """Implements `services.Witness`. Close it at the end: it may have started a child."""

    def __init__(
        self,
        *,
        find: Find = find_log,
        clock: Callable[[], float] = time.monotonic,
        in_flight_seconds: float = IN_FLIGHT_SECONDS,
        start: Callable[[Callable[[], None]], None] = _in_background,
    ) -> None:
        self._find = find
        self._clock = clock
        self._in_flight_seconds = in_flight_seconds
        self._start = start
        self._served: tuple[str, str] | None = None
        self._state: _Following | Unavailable = NOT_YET
        self._number = 0
        self._looking = threading.Lock()
        self._looked_at = float("-inf")
        self._closed = False

    def serve(self, settings: DoorSettings) -> None:
        """See `services.Witness`. Looks in the background."""
        base = next((one.base for one in settings.upstreams if one.kind == "ollama"), "")
        if self._served == (base, settings.ollama_log):
            return
        self._served = (base, settings.ollama_log)
        self._look_soon()

    def mark(self) -> int:
        """See `services.Witness`."""
        state = self._state
        if isinstance(state, _Following):
            return state.number * _PLACES + state.log.mark()
        self._look_again()
        return 0

    async def since(self, mark: int) -> LogEvidence | Unavailable:
        """See `services.Witness`."""
        state = self._state
        if isinstance(state, Unavailable):
            return state
        number, place = divmod(mark, _PLACES)
        if number != state.number:
            return LATER
        deadline = self._clock() + self._in_flight_seconds
        while True:
            said = await asyncio.to_thread(state.log.since, place)
            if isinstance(said, Unavailable):
                self._look_again()
                return said
            is_over = any(isinstance(one, RequestEnded) for one in said)
            if is_over or self._clock() >= deadline:
                return evidence(said, tells_all=state.log.tells_all)
            await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """End what follows the log. Nothing is looked for any more."""
        self._closed = True
        with self._looking:
            self._let_go(Unavailable("the door is closed"))

    def _look_again(self) -> None:
        if self._clock() - self._looked_at > RETRY_SECONDS:
            self._look_soon()

    def _look_soon(self) -> None:
        self._looked_at = self._clock()
        self._start(self._look)

    def _look(self) -> None:
        with self._looking:
            if self._closed or self._served is None:
                return
            self._let_go(NOT_YET)
            found = self._find(*self._served) if self._served[0] else Unavailable("no Ollama")
            self._state = found if isinstance(found, Unavailable) else self._follow(found)

    def _follow(self, found: LogFileAt | LogOf) -> _Following | Unavailable:
        self._number += 1
        with ExitStack() as undo:
            try:
                log = _open(found, undo)
            except OSError as error:
                return Unavailable(f"Ollama's log cannot be read ({error.strerror})")
            return _Following(log, self._number, undo.pop_all())

    def _let_go(self, state: Unavailable) -> None:
        old, self._state = self._state, state
        if isinstance(old, _Following):
            old.undo.close()


def _open(found: LogFileAt | LogOf, undo: ExitStack) -> FollowedLog:
    match found:
        case LogFileAt(path):
            log = LogFile(path)
            undo.callback(log.close)
            return log
        case LogOf(command, environment):
            return undo.enter_context(followed_child(command, environment))
