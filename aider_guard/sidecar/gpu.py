"""The GPU sensor: asks a worker process (nvml.py), and gives it up when it does not answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import GPU_NOT_YET, Gpu, Unavailable
from aider_guard.core.wire import WireError, decode
from aider_guard.line_process import LineProcess

if TYPE_CHECKING:
    from collections.abc import Callable

SILENT: Final = Unavailable("the NVIDIA driver does not answer")
NOT_YET: Final = GPU_NOT_YET
DIED: Final = Unavailable("the NVIDIA library crashed")


def start_worker() -> LineProcess:
    """A process of its own for the driver."""
    return LineProcess("aider_guard.sidecar.nvml")


class GpuSensor:
    """Reads all GPUs, and returns within ``patience_seconds`` whatever the driver does.

    No answer within ``answer_seconds`` and any answer that is no reading end the worker: without an
    NVIDIA driver nothing stays in memory. The next one is started after 30 s, then 60 s, and so on
    up to ten minutes.
    """

    def __init__(
        self,
        start: Callable[[], LineProcess] = start_worker,
        *,
        answer_seconds: float = 5.0,
        patience_seconds: float = 1.0,
        first_pause_seconds: float = 30.0,
        last_pause_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._answer_seconds = answer_seconds
        self._patience_seconds = patience_seconds
        self._first_pause_seconds = first_pause_seconds
        self._last_pause_seconds = last_pause_seconds
        self._clock = clock
        self._worker: LineProcess | None = None
        self._asked_at: float | None = None
        self._failures = 0
        self._retry_at = float("-inf")
        self._reason = NOT_YET

    def read(self) -> tuple[Gpu, ...] | Unavailable:
        """The GPUs now. The processes on them have no names yet."""
        if self._worker is None:
            if self._clock() < self._retry_at:
                return self._reason
            try:
                self._worker = self._start()
            except OSError as error:
                return self._give_up(Unavailable(f"no process can be started ({error.strerror})"))
        if self._asked_at is None:
            self._worker.ask(b"\n")
            self._asked_at = self._clock()
        line = self._worker.answer(self._patience_seconds)
        if line is not None:
            return self._accept(line)
        if self._worker.ended:
            return self._give_up(DIED)
        if self._clock() - self._asked_at >= self._answer_seconds:
            return self._give_up(SILENT)
        return NOT_YET

    def close(self) -> None:
        """Kill the worker, without waiting for it."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._asked_at = None

    def _accept(self, line: bytes) -> tuple[Gpu, ...] | Unavailable:
        self._asked_at = None
        try:
            event = decode(line)
        except WireError:
            return self._give_up(DIED)
        match event:
            case MemoryRead(reading) if isinstance(reading.gpus, tuple):
                self._failures = 0
                return reading.gpus
            case MemoryRead(reading) if isinstance(reading.gpus, Unavailable):
                return self._give_up(reading.gpus)
        return self._give_up(DIED)

    def _give_up(self, reason: Unavailable) -> Unavailable:
        self.close()
        pause = self._first_pause_seconds * 2**self._failures
        self._failures = min(self._failures + 1, 10)
        self._retry_at = self._clock() + min(pause, self._last_pause_seconds)
        self._reason = reason
        return reason
