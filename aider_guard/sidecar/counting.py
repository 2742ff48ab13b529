"""Starts the counter (counter.py) when there is something to count, and ends it after a while."""

from __future__ import annotations

import os
import queue
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aider_guard.core.events import FilesCounted, TextsCounted
from aider_guard.core.readings import Unavailable
from aider_guard.core.requests import CountFiles, CountTexts
from aider_guard.core.wire import WireError, decode, encode
from aider_guard.line_process import LineProcess

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_SECONDS: Final = 10.0
COUNT_SECONDS: Final = 30.0

Counted = FilesCounted | TextsCounted


class Counting:
    """Answers counting requests one after the other. For one thread."""

    def __init__(self, tokenizers: str, count_seconds: float = COUNT_SECONDS) -> None:
        self._tokenizers = tokenizers
        self._count_seconds = count_seconds
        self._process: LineProcess | None = None

    def run(
        self,
        requests: queue.SimpleQueue[CountFiles | CountTexts],
        emit: Callable[[Counted], None],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Serve requests for ever; after ``idle_seconds`` without one the counter is ended."""
        while True:
            emit(self.count(self._next(requests, idle_seconds)))

    def _next(
        self, requests: queue.SimpleQueue[CountFiles | CountTexts], idle_seconds: float
    ) -> CountFiles | CountTexts:
        if self._process is not None:
            with suppress(queue.Empty):
                return requests.get(timeout=idle_seconds)
            self.close()
        return requests.get()

    def count(self, request: CountFiles | CountTexts) -> Counted:
        """The answer to one request; Unavailable when the counter takes too long, dies or cannot start."""
        try:
            self._process = self._process or start_counter(self._tokenizers)
        except OSError as error:
            return uncounted(request, f"no process can be started ({error.strerror})")
        self._process.ask(encode(request))
        line = self._process.answer(self._count_seconds)
        if line is None:
            died = self._process.ended
            self.close()
            return uncounted(request, "the counter died" if died else "counting took too long")
        try:
            event = decode(line)
        except WireError as error:
            return uncounted(request, str(error))
        assert isinstance(event, FilesCounted | TextsCounted)
        return event

    def close(self) -> None:
        """End the counter."""
        if self._process is not None:
            self._process.close()
        self._process = None


def start_counter(tokenizers: str) -> LineProcess:
    """The counter's process."""
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": tokenizers}
    return LineProcess("aider_guard.sidecar.counter", tokenizers, environment=environment)


def uncounted(request: CountFiles | CountTexts, reason: str) -> Counted:
    """The answer to a request that could not be served."""
    why = Unavailable(reason)
    match request:
        case CountFiles(paths=paths):
            return FilesCounted(dict.fromkeys(paths, why))
        case CountTexts(request=number):
            return TextsCounted(number, why)
