"""Reads Ollama's log beside the traffic, where it can be read: it shows when Ollama cut a prompt."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
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
POLL_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 60.0

NOT_YET: Final = Unavailable("Ollama's log is still looked for")
LATER: Final = Unavailable("Ollama's log was found only while the request ran")
_PLACES: Final = 1 << 60
"""Marks of one log end below; the next log's begin there."""

Find = Callable[[str, str], LogFileAt | LogOf | Unavailable]


@dataclass(frozen=True)
class _Following:
    """The log that is followed, with its number among all that were."""

    log: FollowedLog
    number: int
    undo: ExitStack


class OllamaLogWatch:
    """Finds the log of the session's Ollama and follows it (``interfaces.LogWatch``).

    Close it at the end: it may have started a child.
    """

    def __init__(
        self,
        *,
        find: Find = find_log,
        clock: Callable[[], float] = time.monotonic,
        in_flight_seconds: float = IN_FLIGHT_SECONDS,
        start: Callable[[Callable[[], None]], None] = lambda search: threading.Thread(
            target=search, name="ollama-log-search", daemon=True
        ).start(),
    ) -> None:
        self._find = find
        self._clock = clock
        self._in_flight_seconds = in_flight_seconds
        self._start = start
        self._target: tuple[str, str] | None = None
        self._state: _Following | Unavailable = NOT_YET
        self._number = 0
        self._search_lock = threading.Lock()
        self._searched_at = float("-inf")
        self._closed = False

    def serve(self, settings: DoorSettings) -> None:
        """Find the log of this server and follow it, in the background."""
        bases = (upstream.base for upstream in settings.upstreams if upstream.kind == "ollama")
        target = (next(bases, ""), settings.ollama_log)
        if self._target != target:
            self._target = target
            self._search_soon()

    def mark(self) -> int:
        """Return the place in the log now."""
        state = self._state
        if isinstance(state, _Following):
            return state.number * _PLACES + state.log.mark()
        self._search_again()
        return 0

    async def since(self, mark: int) -> LogEvidence | Unavailable:
        """Return what the log says since that place; waits a moment for lines on their way."""
        state = self._state
        if isinstance(state, Unavailable):
            return state
        number, place = divmod(mark, _PLACES)
        if number != state.number:
            return LATER
        deadline = self._clock() + self._in_flight_seconds
        while True:
            lines = await asyncio.to_thread(state.log.since, place)
            if isinstance(lines, Unavailable):
                self._search_again()
                return lines
            is_over = any(isinstance(line, RequestEnded) for line in lines)
            if is_over or self._clock() >= deadline:
                return evidence(lines, tells_all=state.log.tells_all)
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop following the log, and searching for one."""
        self._closed = True
        with self._search_lock:
            self._drop_log(Unavailable("the door is closed"))

    def _search_again(self) -> None:
        if self._clock() - self._searched_at > RETRY_SECONDS:
            self._search_soon()

    def _search_soon(self) -> None:
        self._searched_at = self._clock()
        self._start(self._search)

    def _search(self) -> None:
        with self._search_lock:
            if self._closed or self._target is None:
                return
            self._drop_log(NOT_YET)
            location = self._find(*self._target) if self._target[0] else Unavailable("no Ollama")
            self._state = location if isinstance(location, Unavailable) else self._follow(location)

    def _follow(self, location: LogFileAt | LogOf) -> _Following | Unavailable:
        self._number += 1
        with ExitStack() as undo:
            log: FollowedLog
            try:
                if isinstance(location, LogFileAt):
                    log = undo.enter_context(closing(LogFile(location.path)))
                else:
                    child = followed_child(location.command, location.environment)
                    log = undo.enter_context(child)
            except OSError as error:
                return Unavailable(f"Ollama's log cannot be read ({error.strerror})")
            return _Following(log, self._number, undo.pop_all())

    def _drop_log(self, state: Unavailable) -> None:
        """Stop following the log; ``state`` says why there is none from now on."""
        dropped, self._state = self._state, state
        if isinstance(dropped, _Following):
            dropped.undo.close()
