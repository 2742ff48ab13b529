"""Reads the NVIDIA GPUs through a worker process, which is ended when it does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import Any, Final

import pynvml

from aider_guard.core.codec import WireError
from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import GPU_NOT_YET, Gpu, GpuProcess, MemoryReading, Unavailable
from aider_guard.core.wire import decode, encode
from aider_guard.line_process import LineProcess, serve_lines

SILENT: Final = Unavailable("the NVIDIA driver does not answer")
NOT_YET: Final = GPU_NOT_YET
DIED: Final = Unavailable("the NVIDIA library crashed")


def start_worker() -> LineProcess:
    """Start the process that talks to the driver."""
    return LineProcess("aider_guard.sidecar.gpu")


@dataclass(eq=False)
class GpuSensor:
    """Reads all GPUs, and returns within ``patience_seconds`` whatever the driver does.

    The worker is ended if it has no answer within ``answer_seconds``, or an answer that is not a reading: without an
    NVIDIA driver no process stays in memory. The next worker is started after 30 s, then 60 s, and so on
    up to ten minutes.
    """

    start: Callable[[], LineProcess] = start_worker
    _: KW_ONLY
    answer_seconds: float = 5.0
    patience_seconds: float = 1.0
    first_pause_seconds: float = 30.0
    last_pause_seconds: float = 600.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._worker: LineProcess | None = None
        self._asked_at: float | None = None
        self._failures = 0
        self._retry_at = float("-inf")
        self._reason = NOT_YET

    def read(self) -> tuple[Gpu, ...] | Unavailable:
        """The GPUs now. The processes on them have no names yet: see ``memory.MemorySensor``."""
        if self._worker is None:
            if self.clock() < self._retry_at:
                return self._reason
            try:
                self._worker = self.start()
            except OSError as error:
                return self._give_up(Unavailable(f"no process can be started ({error.strerror})"))
        if self._asked_at is None:
            self._worker.ask(b"\n")
            self._asked_at = self.clock()
        line = self._worker.answer(self.patience_seconds)
        if line is not None:
            return self._accept(line)
        if self._worker.ended:
            return self._give_up(DIED)
        if self.clock() - self._asked_at >= self.answer_seconds:
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
        gpus = event.reading.gpus if isinstance(event, MemoryRead) else DIED
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


# The worker, a process of its own. Any call of the driver can hang in the kernel for ever
# (NVIDIA/open-gpu-kernel-modules#971, NVIDIA/go-nvml#152), and a crash of the library ends its process. So the worker
# does nothing else.

_SENTENCES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver and its library have different versions (restart the machine)"
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: "a GPU fell off the bus",
    pynvml.NVML_ERROR_RESET_REQUIRED: "a GPU needs a reset",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "the GPU does not report this",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver is too old for this",
    pynvml.NVML_ERROR_TIMEOUT: "the NVIDIA driver did not answer in time",
    pynvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver could not be opened",
    pynvml.NVML_ERROR_MEMORY: "the NVIDIA driver ran out of memory",
}


def in_words(error: pynvml.NVMLError) -> Unavailable:
    """A sentence for an error of the driver."""
    return Unavailable(_SENTENCES.get(error.value) or f"the NVIDIA driver reports: {error}")


def read_gpus() -> tuple[Gpu, ...] | Unavailable:
    """All GPUs that report their memory, or why there are none. The processes have no names."""
    try:
        answers = [_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return in_words(error)
    problems = [answer for answer in answers if isinstance(answer, Unavailable)]
    gpus = tuple(answer for answer in answers if isinstance(answer, Gpu))
    return gpus or next(iter(problems), Unavailable("the NVIDIA driver knows no GPU"))


def _read_gpu(index: int) -> Gpu | Unavailable:
    """One GPU, or why its memory cannot be read (some chips share the machine's)."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return Unavailable(f"{name} does not report its memory")
    return Gpu(index, name, memory.total, memory.used, _read_processes(handle))


def _read_processes(handle: object) -> tuple[GpuProcess, ...] | Unavailable:
    """The processes on one GPU, each once: the driver has two lists, and some processes are in both."""
    try:
        entries = [*_listed("Compute", handle), *_listed("Graphics", handle)]
    except pynvml.NVMLError as error:
        return in_words(error)
    used: dict[int, int | None] = {}
    for entry in entries:
        known = used.get(entry.pid)
        used[entry.pid] = max(entry.usedGpuMemory or 0, known) if known else entry.usedGpuMemory
    untold = Unavailable("the driver does not report it")
    return tuple(
        GpuProcess(pid, "", untold if held is None else held, is_ollama=False)
        for pid, held in sorted(used.items())
    )


def _listed(kind: str, handle: object) -> list[Any]:
    """One of the driver's lists; drivers before 510 have only the second form of the function.

    The forms are named, as the bindings' unnumbered ones raise no NVMLError on an old driver.
    """
    name = f"nvmlDeviceGet{kind}RunningProcesses"
    try:
        entries: list[Any] = getattr(pynvml, f"{name}_v3")(handle)
    except pynvml.NVMLError_FunctionNotFound:
        entries = getattr(pynvml, f"{name}_v2")(handle)
    return entries


_open_driver = cache(pynvml.nvmlInit)
"""Opens the driver once; one that could not be opened is tried again."""


def answer(_question: bytes) -> bytes:
    """Answer a question for a reading; the driver is opened at the first one, never at import."""
    gpus: tuple[Gpu, ...] | Unavailable
    try:
        _open_driver()
        gpus = read_gpus()
    except pynvml.NVMLError as error:
        gpus = in_words(error)
    return encode(MemoryRead(MemoryReading(gpus, Unavailable("not read here"), time.monotonic())))


if __name__ == "__main__":
    serve_lines(answer)
