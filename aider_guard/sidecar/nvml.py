"""The GPU worker, a process of its own, started by gpu.py: asks the NVIDIA driver and answers.

Any call here can hang in the kernel for ever (NVIDIA/open-gpu-kernel-modules#971,
NVIDIA/go-nvml#152), and a crash of the library takes its process with it: that is why this one
holds nothing else.
"""

from __future__ import annotations

import time
from typing import Any, Final

import pynvml

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import Gpu, GpuProcess, MemoryReading, Unavailable
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
