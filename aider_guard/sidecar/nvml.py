"""The worker that talks to the NVIDIA driver: ``python -m aider_guard.sidecar.nvml``, a process of its own.

Any call of the driver can hang in the kernel for ever (NVIDIA/open-gpu-kernel-modules#971, NVIDIA/go-nvml#152), and a
crash of the library ends its process. So the worker does nothing else, and no other process loads the library.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NoReturn

import pynvml

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import GPU_USE_NOT_TOLD, Gpu, GpuProcess, MemoryReading, Unavailable
from aider_guard.core.wire import encode
from aider_guard.line_process import serve_lines

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
    busy = _told(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    # The name of this question in drivers of all ages; since 535 it has another beside it.
    reasons = _told(lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    hot = reasons if isinstance(reasons, Unavailable) else bool(reasons & _HEAT)
    return Gpu(
        *(index, name, memory.total, memory.used, _read_processes(handle)),
        busy_percent=busy,
        slowed_by_heat=hot,
    )


_HEAT: Final = (
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
)


def _told(ask: Callable[[], int]) -> int | Unavailable:
    """A number that not every driver and card tells."""
    try:
        return ask()
    except pynvml.NVMLError:
        return GPU_USE_NOT_TOLD


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


def main() -> NoReturn:
    """Answer questions until stdin closes."""
    serve_lines(answer)


if __name__ == "__main__":
    main()
