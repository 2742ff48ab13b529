"""A card that a program fills, read as a session reads it: a real one by CUDA, and a fake one everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from core.histories_of_events import at_first_prompt
from fakes.nvml import GIB, Card, FakeDriver

from aider_guard.core.actions import ShowNotice
from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import Gpu, MemoryReading
from aider_guard.line_process import LineProcess
from aider_guard.sidecar.gpu import GpuSensor
from aider_guard.sidecar.memory import MemorySensor

WORKER = "aider_guard.sidecar.nvml"
FILLED_SHARE = 0.93
"""The filled share of the card: over the limit of the notice."""
OVERHEAD_BYTES = 2 * GIB
"""The memory of a program beyond what it allocates: its context, and what the driver rounds up to."""
# cuda.h, the driver's own interface: it comes with every driver, a toolkit is not needed.
HOLDS = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        sys.exit(f"{name}: error {status}")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(int(sys.argv[1])))
print("READY", flush=True)
sys.stdin.read()
"""


class Filled(Protocol):
    """A card whose memory a program fills."""

    def start(self) -> LineProcess:
        """The worker that reads it."""

    def held(self, used_bytes: int) -> AbstractContextManager[int]:
        """A program called ollama holds so much of it; its process."""


@contextmanager
def waiting(command: list[str]) -> Iterator[int]:
    """A program that has printed READY, until it is asked to end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        yield process.pid


class FakeCard:
    """A card of the fake driver, which reports the memory as used."""

    def __init__(self, folder: Path) -> None:
        self._driver = FakeDriver(folder)
        self._program = folder / "ollama"
        self._program.symlink_to("/bin/sh")
        self._driver.write(Card())

    def start(self) -> LineProcess:
        """See ``Filled``."""
        return LineProcess(WORKER, environment=self._driver.environment)

    @contextmanager
    def held(self, used_bytes: int) -> Iterator[int]:
        """See ``Filled``."""
        with waiting([str(self._program), "-c", "echo READY; read line"]) as pid:
            used = Card().used_bytes + used_bytes
            self._driver.write(Card(used_bytes=used, compute=((pid, used_bytes),)))
            yield pid
        self._driver.write(Card())


class RealCard:
    """The machine's first one."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "ollama"
        self._program.symlink_to(os.path.realpath(sys.executable))

    def start(self) -> LineProcess:
        """See ``Filled``."""
        return LineProcess(WORKER)

    def held(self, used_bytes: int) -> AbstractContextManager[int]:
        """See ``Filled``."""
        return waiting([str(self._program), "-S", "-c", HOLDS, str(used_bytes)])


NO_CARD = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None, reason="no NVIDIA driver (nvidia-smi)"
)


@pytest.fixture(params=[FakeCard, pytest.param(RealCard, marks=[pytest.mark.gpu, NO_CARD])])
def card(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    """A fake one, and a real one where there is one."""
    made: Filled = request.param(tmp_path)
    return made


def first(reading: MemoryReading) -> Gpu:
    """The first card."""
    assert isinstance(reading.gpus, tuple), reading.gpus
    return reading.gpus[0]


def test_a_card_that_is_filled_is_read_and_said(card: Filled) -> None:
    """Whose memory it is, and how much; one notice after three readings; and nothing is left when it ends."""
    gpu_sensor = GpuSensor(card.start, answer_seconds=60, patience_seconds=60)
    with closing(MemorySensor(gpu_sensor)) as sensor:
        empty = first(sensor.read())
        wanted = int(empty.vram_total_bytes * FILLED_SHARE) - empty.least_used_bytes
        with card.held(wanted) as pid:
            readings = [sensor.read() for _ in range(3)]
        left = first(sensor.read())

    full = first(readings[-1])
    assert isinstance(full.processes, tuple)
    (holder,) = [process for process in full.processes if process.pid == pid]
    assert (holder.name, holder.is_ollama) == ("ollama", True)
    assert isinstance(holder.vram_used_bytes, int)
    assert wanted <= holder.vram_used_bytes <= wanted + OVERHEAD_BYTES
    used = full.least_used_bytes - empty.least_used_bytes
    assert wanted <= used <= wanted + OVERHEAD_BYTES
    assert abs(left.least_used_bytes - empty.least_used_bytes) < OVERHEAD_BYTES / 4

    story = at_first_prompt()
    events = (MemoryRead(replace(reading, taken_at=story.now)) for reading in readings)
    (notice,) = [act.notice for act in story.tell(*events) if isinstance(act, ShowNotice)]
    assert notice.name == "memory_short"
    assert "GPU memory" in notice.lines[0]
