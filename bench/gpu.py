"""What reading the GPUs costs: the first reading with its worker's start, each one after it, and the worker itself.

The numbers of a reading stand beside those of ``nvidia-smi``, taken at once after it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass

import psutil

from aider_guard.core.readings import Gpu, Unavailable
from aider_guard.line_process import LineProcess
from aider_guard.sidecar.gpu import GpuSensor, start_worker

_MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """Seconds of the first reading and of those after it, the worker, and what was read."""

    first_seconds: float
    seconds: list[float]
    worker_resident_bytes: int
    worker_cpu_seconds: float
    gpus: tuple[Gpu, ...]


def measure(count: int) -> Reading | Unavailable:
    """Read so often, one reading after the other; Unavailable without a card."""
    workers: list[LineProcess] = []

    def start() -> LineProcess:
        workers.append(start_worker())
        return workers[-1]

    with closing(GpuSensor(start, answer_seconds=60, patience_seconds=60)) as sensor:
        first, gpus = _timed(sensor)
        if isinstance(gpus, Unavailable):
            return gpus
        worker = psutil.Process(workers[-1].pid)
        before = sum(worker.cpu_times()[:2])
        seconds = [_timed(sensor)[0] for _ in range(count)]
        cpu = (sum(worker.cpu_times()[:2]) - before) / max(1, count)
        return Reading(first, seconds, worker.memory_info().rss, cpu, gpus)


def _timed(sensor: GpuSensor) -> tuple[float, tuple[Gpu, ...] | Unavailable]:
    started = time.perf_counter()
    gpus = sensor.read()
    return time.perf_counter() - started, gpus


def print_reading(count: int) -> None:
    """The rows of ``make bench``; one sentence where there is no card."""
    measured = measure(count)
    if isinstance(measured, Unavailable):
        print(f"GPUs are not read here: {measured.reason}")
        return
    each = sorted(measured.seconds)
    print(
        f"GPU reading, ms: first {measured.first_seconds * 1000:.0f},"
        f" then median {statistics.median(each) * 1000:.2f}, slowest {each[-1] * 1000:.2f};"
        f" its worker {measured.worker_resident_bytes / 1e6:.0f} MB,"
        f" {measured.worker_cpu_seconds * 1000:.2f} ms of CPU a reading"
    )
    for gpu in measured.gpus:
        print(f"  {gpu.name}: {gpu.least_used_bytes // _MIB} of {gpu.vram_total_bytes // _MIB} MiB")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader"]
        shown = subprocess.run(query, check=True, capture_output=True, text=True).stdout
        print("".join(f"  nvidia-smi: {line}\n" for line in shown.splitlines()), end="")


if __name__ == "__main__":
    print_reading(100)
