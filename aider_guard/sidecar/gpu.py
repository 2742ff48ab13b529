"""Reads GPUs through a worker process for their driver, which is ended when it does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Final

from aider_guard.core.codec import WireError
from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import GPU_NOT_YET, Gpu, Unavailable
from aider_guard.core.wire import decode
from aider_guard.line_process import LineProcess

SILENT: Final = Unavailable("the NVIDIA driver does not answer")
NOT_YET: Final = GPU_NOT_YET
DIED: Final = Unavailable("the NVIDIA library crashed")


def start_worker() -> LineProcess:
    """Start the process that talks to NVIDIA's driver."""
    return LineProcess("aider_guard.sidecar.nvml")


@dataclass(eq=False)
class GpuSensor:
    """Reads all GPUs, and returns within ``patience_seconds`` whatever the driver does.

    The worker is ended if it has no answer within ``answer_seconds``, or an answer that is not a reading: without a
    driver no process stays in memory. ``silent`` and ``died`` are the reasons then. The next worker is started after
    30 s, then 60 s, and so on up to ten minutes.
    """

    start: Callable[[], LineProcess] = start_worker
    _: KW_ONLY
    answer_seconds: float = 5.0
    patience_seconds: float = 1.0
    first_pause_seconds: float = 30.0
    last_pause_seconds: float = 600.0
    clock: Callable[[], float] = time.monotonic
    silent: Unavailable = SILENT
    died: Unavailable = DIED

    def __post_init__(self) -> None:
        self._worker: LineProcess | None = None
        self._asked_at: float | None = None
        self._failures = 0
        self._retry_at = float("-inf")
        self._reason = NOT_YET
        self.unread: tuple[Unavailable, ...] = ()
        """Why other GPUs of this driver were not in the last reading."""

    def ask(self) -> None:
        """Start a reading, and do not wait for it: ``read`` takes its answer."""
        if self._asked_at is not None or self.clock() < self._retry_at:
            return
        if self._worker is None:
            try:
                self._worker = self.start()
            except OSError as error:
                self._give_up(Unavailable(f"no process can be started ({error.strerror})"))
                return
        self._worker.ask(b"\n")
        self._asked_at = self.clock()

    def read(self) -> tuple[Gpu, ...] | Unavailable:
        """The GPUs now. The processes on them have no names yet: see ``memory.MemorySensor``."""
        self.unread = ()
        self.ask()
        if self._worker is None or self._asked_at is None:
            return self._reason
        line = self._worker.answer(self.patience_seconds)
        if line is not None:
            return self._accept(line)
        if self._worker.ended:
            return self._give_up(self.died)
        if self.clock() - self._asked_at >= self.answer_seconds:
            return self._give_up(self.silent)
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
            return self._give_up(self.died)
        if not isinstance(event, MemoryRead):
            return self._give_up(self.died)
        gpus, self.unread = event.reading.gpus, event.reading.unread
        if isinstance(gpus, Unavailable):
            return self._give_up(gpus)
        self._failures = 0
        return gpus

    def _give_up(self, reason: Unavailable) -> Unavailable:
        self.close()
        pause = self.first_pause_seconds * 2**self._failures
        self._failures = min(self._failures + 1, 10)
        self._retry_at = self.clock() + min(pause, self.last_pause_seconds)
        self._reason = reason
        return reason
