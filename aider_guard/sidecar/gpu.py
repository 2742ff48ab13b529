"""The GPU sensor: asks a worker process (nvml.py), and gives it up when it does not answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pynvml

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import GPU_NOT_YET, Gpu, GpuProcess, MemoryReading, Unavailable
from aider_guard.core.wire import WireError, decode, encode
from aider_guard.line_process import LineProcess, serve_lines

if TYPE_CHECKING:
    from collections.abc import Callable

SILENT: Final = Unavailable("the NVIDIA driver does not answer")
NOT_YET: Final = GPU_NOT_YET
DIED: Final = Unavailable("the NVIDIA library crashed")


def start_worker() -> LineProcess:
    """A process of its own for the driver."""
    return LineProcess("aider_guard.sidecar.gpu")


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


# The GPU worker, a process of its own, started by gpu.py: asks the NVIDIA driver and answers.
#
# Any call here can hang in the kernel for ever (NVIDIA/open-gpu-kernel-modules#971,
# NVIDIA/go-nvml#152), and a crash of the library takes its process with it: that is why this one
# holds nothing else.

_SENTENCES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver and its library have different versions (restart the machine)"
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: "a GPU fell off the bus",
    pynvml.NVML_ERROR_RESET_REQUIRED: "a GPU needs a reset",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "the GPU does not tell",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver is too old to tell",
    pynvml.NVML_ERROR_TIMEOUT: "the NVIDIA driver did not answer in time",
    pynvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver could not be opened",
    pynvml.NVML_ERROR_MEMORY: "the NVIDIA driver ran out of memory",
}


def in_words(error: pynvml.NVMLError) -> Unavailable:
    """Why the driver did not tell, in a sentence."""
    return Unavailable(_SENTENCES.get(error.value) or f"the NVIDIA driver reports: {error}")


def read_gpus() -> tuple[Gpu, ...] | Unavailable:
    """All GPUs that tell their memory. Process names are left to the reader, who sees more."""
    try:
        count = pynvml.nvmlDeviceGetCount()
        answers = [_read_gpu(index) for index in range(count)]
    except pynvml.NVMLError as error:
        return in_words(error)
    gpus = tuple(answer for answer in answers if isinstance(answer, Gpu))
    if gpus:
        return gpus
    return next(
        (answer for answer in answers if isinstance(answer, Unavailable)),
        Unavailable("the NVIDIA driver knows no GPU"),
    )


def _read_gpu(index: int) -> Gpu | Unavailable:
    """One GPU, or why it has no memory of its own to tell of (chips that share the machine's)."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return Unavailable(f"{name} does not tell its memory")
    return Gpu(
        index=index,
        name=name,
        vram_total_bytes=memory.total,
        vram_used_bytes=memory.used,
        processes=_read_processes(handle),
    )


def _read_processes(handle: object) -> tuple[GpuProcess, ...] | Unavailable:
    """The processes on one GPU, each once: the driver has two lists, and some are in both."""
    try:
        entries = [*_listed("Compute", handle), *_listed("Graphics", handle)]
    except pynvml.NVMLError as error:
        return in_words(error)
    used: dict[int, int | None] = {}
    for entry in entries:
        known = used.get(entry.pid)
        used[entry.pid] = max(entry.usedGpuMemory or 0, known) if known else entry.usedGpuMemory
    return tuple(_process(pid, held) for pid, held in sorted(used.items()))


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


def _process(pid: int, used_bytes: int | None) -> GpuProcess:
    known = Unavailable("the driver does not tell") if used_bytes is None else used_bytes
    return GpuProcess(pid, "", known, is_ollama=False)


class _Worker:
    """Opens the driver at the first question, never at import."""

    def __init__(self) -> None:
        self._open = False

    def answer(self, _question: bytes) -> bytes:
        nowhere = Unavailable("not read here")
        return encode(MemoryRead(MemoryReading(self._read(), nowhere, time.monotonic())))

    def _read(self) -> tuple[Gpu, ...] | Unavailable:
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
        except pynvml.NVMLError as error:
            return in_words(error)
        return read_gpus()


if __name__ == "__main__":
    serve_lines(_Worker().answer)
