"""Reads the memory of the machine: GPUs, RAM, and the part that Ollama's processes hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import psutil

from aider_guard.core.readings import Gpu, MemoryReading, RamReading, Unavailable
from aider_guard.ollama.processes import ProcessTable
from aider_guard.sidecar.other_gpus import OtherGpus, put_together

if TYPE_CHECKING:
    from aider_guard.sidecar.gpu import GpuSensor

ELSEWHERE: Final = Unavailable("Ollama runs on another machine, whose memory is not read")


@dataclass(eq=False)
class MemorySensor:
    """Reads all memory at once. Safe to use from several threads; never raises.

    With Ollama on another machine (``is_here`` false) nothing is read: the memory of this machine does not matter then.
    """

    gpu: GpuSensor
    clock: Callable[[], float] = time.monotonic
    _: KW_ONLY
    others: OtherGpus = field(default_factory=OtherGpus)
    is_here: bool = True

    def __post_init__(self) -> None:
        self._table = ProcessTable()
        self._lock = threading.Lock()

    def read(self) -> MemoryReading:
        """The memory now; GPUs and RAM each have a reason of their own if they could not be read."""
        if not self.is_here:
            return MemoryReading(ELSEWHERE, ELSEWHERE, self.clock())
        with self._lock:
            self.gpu.ask()  # both processes start at once
            other = self.others.read()
            gpus, unread = put_together(self.gpu.read(), other, self.others.sensor.unread)
            ram = self._read_ram()
            if isinstance(gpus, tuple):
                gpus = tuple(_with_names(gpu, self._table) for gpu in gpus)
            return MemoryReading(gpus, ram, self.clock(), unread)

    def close(self) -> None:
        """End the workers for GPUs, without waiting for a reading that hangs in one."""
        self.gpu.close()
        self.others.close()

    def _read_ram(self) -> RamReading | Unavailable:
        try:
            self._table.refresh()
            memory = psutil.virtual_memory()
        except (psutil.Error, OSError) as error:
            return Unavailable(f"the system does not report its memory ({error})")
        resident = resident_bytes(self._table.ollama_pids())
        return RamReading(memory.total, memory.available, resident)


def resident_bytes(pids: tuple[int, ...]) -> int | Unavailable:
    """The resident memory of these processes together; those that have ended meanwhile count as 0.

    Pages that two of them share (weights mapped from one file) count twice.
    """
    if not pids:
        return Unavailable("no process of Ollama is visible here (another machine or a container)")
    total = 0
    try:
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                total += psutil.Process(pid).memory_info().rss
    except (psutil.Error, OSError):
        return Unavailable("this user may not read the memory of Ollama's processes")
    return total


def _with_names(gpu: Gpu, table: ProcessTable) -> Gpu:
    if isinstance(gpu.processes, Unavailable):
        return gpu
    named = (
        replace(process, name=table.name(process.pid), is_ollama=table.is_ollama(process.pid))
        for process in gpu.processes
    )
    return replace(gpu, processes=tuple(named))
