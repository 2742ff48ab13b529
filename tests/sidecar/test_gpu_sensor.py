"""The GPU sensor: the real NVIDIA bindings on a fake driver, and on a real one if there is one."""

from __future__ import annotations

import contextlib
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import pytest
from fakes.nvml import (
    DRIVER_NOT_LOADED,
    GIB,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    Card,
    FakeDriver,
)

from aider_guard.core.readings import GPU_USE_NOT_TOLD, Gpu, GpuProcess, Unavailable
from aider_guard.line_process import LineProcess
from aider_guard.process_starter import PACKAGE_PARENT
from aider_guard.sidecar.gpu import DIED, NOT_YET, SILENT, GpuSensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKER = "aider_guard.sidecar.nvml"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A driver of today."""
    return FakeDriver(tmp_path_factory.mktemp("driver"))


@dataclass
class Started:
    """Starts workers on a fake driver, and remembers them."""

    driver: FakeDriver
    workers: list[LineProcess] = field(default_factory=list)

    def __call__(self) -> LineProcess:
        worker = LineProcess(WORKER, environment=self.driver.environment)
        self.workers.append(worker)
        return worker

    def alive(self) -> list[int]:
        """Workers that still run, after a moment to die in."""
        processes = [psutil.Process(w.pid) for w in self.workers if psutil.pid_exists(w.pid)]
        _, alive = psutil.wait_procs(processes, timeout=2)
        return [process.pid for process in alive]


@pytest.fixture
def started(driver: FakeDriver) -> Iterator[Started]:
    """Workers on the driver; none survives the test."""
    started = Started(driver)
    yield started
    for worker in started.workers:
        worker.close()


def patient(start: Callable[[], LineProcess]) -> GpuSensor:
    """A sensor that waits for the answer of a busy machine."""
    return GpuSensor(start, answer_seconds=30, patience_seconds=30)


def read_once(start: Callable[[], LineProcess]) -> tuple[Gpu, ...] | Unavailable:
    """One reading, the worker ended after it."""
    sensor = patient(start)
    reading = sensor.read()
    sensor.close()
    return reading


def processes_of(reading: tuple[Gpu, ...] | Unavailable) -> tuple[GpuProcess, ...] | Unavailable:
    """The processes of a reading of one card."""
    assert isinstance(reading, tuple)
    (gpu,) = reading
    return gpu.processes


def test_reads_two_cards(driver: FakeDriver, started: Started) -> None:
    """Totals, names and processes of each card; later its changed numbers, from the same worker."""
    first = Card(24 * GIB, 20 * GIB, "NVIDIA Fake 3090", compute=((41, 18 * GIB),))
    second = Card(8 * GIB, 1 * GIB, "NVIDIA Fake A2000")
    driver.write(first, second)
    sensor = patient(started)
    process = GpuProcess(41, "", 18 * GIB, is_ollama=False)
    assert sensor.read() == (
        Gpu(0, "NVIDIA Fake 3090", 24 * GIB, 20 * GIB, (process,)),
        Gpu(1, "NVIDIA Fake A2000", 8 * GIB, 1 * GIB, ()),
    )

    driver.write(Card(24 * GIB, 2 * GIB))
    assert sensor.read() == (Gpu(0, "NVIDIA Fake 3090", 24 * GIB, 2 * GIB, ()),)
    sensor.close()
    assert len(started.workers) == 1


def test_how_busy_a_card_is_and_whether_it_is_too_hot(driver: FakeDriver, started: Started) -> None:
    """Of the reasons for low clocks two are heat (nvml.h: 0x20 by software, 0x40 by hardware); power is none."""
    uses = (None, (97, 0), (0, 0x1), (40, 0x4 | 0x80), (100, 0x20), (3, 0x40 | 0x8))
    driver.write(*[Card(use=use) for use in uses])
    reading = read_once(started)
    assert isinstance(reading, tuple)
    told = [(gpu.busy_percent, gpu.slowed_by_heat) for gpu in reading]
    assert told[0] == (GPU_USE_NOT_TOLD, GPU_USE_NOT_TOLD)
    assert told[1:] == [(97, False), (0, False), (40, False), (100, True), (3, True)]


def test_merges_the_process_lists(driver: FakeDriver, started: Started) -> None:
    """A process that computes and draws is one process; memory that is not reported is unavailable."""
    driver.write(
        Card(compute=((7, 100), (9, None), (5, 50)), graphics=((7, 90), (9, 30), (8, None)))
    )
    unknown = Unavailable("the driver does not report it")
    assert processes_of(read_once(started)) == (
        GpuProcess(5, "", 50, is_ollama=False),
        GpuProcess(7, "", 100, is_ollama=False),
        GpuProcess(8, "", unknown, is_ollama=False),
        GpuProcess(9, "", 30, is_ollama=False),
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [(NOT_SUPPORTED, "the GPU does not report this"), (NO_PERMISSION, "may not ask")],
)
def test_processes_that_are_not_told(
    driver: FakeDriver, started: Started, code: int, reason: str
) -> None:
    """Memory is read where the process list is not."""
    driver.write(Card(used_bytes=5, processes_code=code))
    processes = processes_of(read_once(started))
    assert isinstance(processes, Unavailable)
    assert reason in processes.reason


def test_an_old_driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Drivers before 510 have the process lists under another name."""
    old = FakeDriver(tmp_path_factory.mktemp("old"), old=True)
    old.write(Card(compute=((7, 100),), graphics=((8, 3),)))
    processes = processes_of(read_once(Started(old)))
    assert processes == (
        GpuProcess(7, "", 100, is_ollama=False),
        GpuProcess(8, "", 3, is_ollama=False),
    )


def test_a_card_without_memory_of_its_own_is_left_out(driver: FakeDriver, started: Started) -> None:
    """Chips that share the machine's memory are no GPUs with a fill; if there are only such, there is a reason."""
    driver.write(Card(memory_code=NOT_SUPPORTED), Card(name="NVIDIA Fake 2"))
    reading = read_once(started)
    assert isinstance(reading, tuple)
    assert [gpu.index for gpu in reading] == [1]

    driver.write(Card(memory_code=NOT_SUPPORTED, name="NVIDIA Orin"))
    assert read_once(started) == Unavailable("NVIDIA Orin does not report its memory")


@pytest.mark.parametrize(
    ("cards", "init_code", "reason"),
    [
        ((), DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        ((), NO_PERMISSION, "this user may not ask the NVIDIA driver"),
        ((), 18, "the NVIDIA driver and its library have different versions (restart the machine)"),
        ((), 999, "the NVIDIA driver reports: Unknown Error"),
        ((), 0, "the NVIDIA driver knows no GPU"),
        ((Card(), Card(memory_code=GPU_IS_LOST)), 0, "a GPU fell off the bus"),
        ((Card(memory_code=77),), 0, "the NVIDIA driver reports: in the fake driver's words"),
    ],
)
def test_faults_are_sentences_and_leave_no_worker(
    driver: FakeDriver, started: Started, cards: tuple[Card, ...], init_code: int, reason: str
) -> None:
    """Each fault has its words; a worker with nothing to watch does not stay in memory."""
    driver.write(*cards, init_code=init_code)
    assert patient(started).read() == Unavailable(reason)
    assert started.alive() == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is an NVIDIA driver")
def test_no_driver_is_a_sentence_and_leaves_no_worker() -> None:
    """Most machines without a GPU have no library at all."""
    workers: list[LineProcess] = []

    def start() -> LineProcess:
        workers.append(LineProcess(WORKER))
        return workers[-1]

    assert patient(start).read() == Unavailable("no NVIDIA driver is installed")
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have gone already
        assert psutil.wait_procs([psutil.Process(workers[0].pid)], timeout=2)[1] == []


def test_a_crash_of_the_library_is_survived(driver: FakeDriver, started: Started) -> None:
    """The library takes only the worker with it."""
    driver.write(Card(), also=["crash memory"])
    assert patient(started).read() == DIED
    assert started.alive() == []


@pytest.mark.parametrize("where", ["init", "memory"])
def test_a_hang_is_given_up(driver: FakeDriver, started: Started, where: str) -> None:
    """No read takes longer than its patience; after the limit the worker is killed."""
    driver.write(Card(), also=[f"hang {where}"])
    sensor = GpuSensor(started, answer_seconds=1.0, patience_seconds=0.1)
    readings: list[object] = []
    began_at = time.monotonic()
    while SILENT not in readings and time.monotonic() - began_at < 30:
        read_at = time.monotonic()
        readings.append(sensor.read())
        assert time.monotonic() - read_at < 5

    assert readings[0] == NOT_YET
    assert readings[-1] == SILENT
    assert time.monotonic() - began_at >= 1.0
    assert started.alive() == []


def test_a_machine_that_starts_no_process_is_a_reason() -> None:
    """Out of processes or memory, the readings go on."""

    def start() -> LineProcess:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    sensor = GpuSensor(start)
    reason = Unavailable("no process can be started (Resource temporarily unavailable)")
    assert sensor.read() == sensor.read() == reason


class Clock:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_retries_more_and_more_rarely_and_recovers(driver: FakeDriver, started: Started) -> None:
    """After 30 s, 60 s, 120 s …; meanwhile the reason stays, and a good reading starts anew."""
    clock = Clock()
    sensor = GpuSensor(started, answer_seconds=30, patience_seconds=30, clock=clock)
    gone = Unavailable("the NVIDIA driver is not loaded")
    driver.write(init_code=DRIVER_NOT_LOADED)
    for workers, pause_seconds in enumerate((30, 60, 120), start=1):
        assert sensor.read() == gone
        clock.now += pause_seconds - 1
        assert sensor.read() == gone
        assert len(started.workers) == workers
        clock.now += 1

    driver.write(Card())
    assert isinstance(sensor.read(), tuple)
    driver.write(Card(memory_code=GPU_IS_LOST))
    assert isinstance(sensor.read(), Unavailable)
    clock.now += 30
    driver.write(Card())
    assert isinstance(sensor.read(), tuple)
    sensor.close()


def test_the_pause_has_a_bound(started: Started, driver: FakeDriver) -> None:
    """However long a driver is missing, it is looked for again within ten minutes."""
    clock = Clock()
    sensor = GpuSensor(
        started, answer_seconds=30, patience_seconds=30, first_pause_seconds=500, clock=clock
    )
    driver.write(init_code=DRIVER_NOT_LOADED)
    for _ in range(3):
        sensor.read()
        clock.now += 600
    assert len(started.workers) == 3


def test_the_worker_ends_with_its_reader_in_the_middle_of_a_hang(driver: FakeDriver) -> None:
    """A sidecar that was killed leaves no worker, even one that hangs in the driver."""
    driver.write(Card(), also=["hang init"])
    with subprocess.Popen(
        [sys.executable, "-m", WORKER],
        env=driver.environment,
        cwd=PACKAGE_PARENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        assert select.select([worker.stdout], [], [], 1.0)[0] == []
        worker.stdin.close()
        assert worker.wait(timeout=5) == 0


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA driver (nvidia-smi)")
def test_a_real_driver_agrees_with_nvidia_smi() -> None:
    """Total memory and names are those that NVIDIA's own tool shows."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    shown = subprocess.run(query, check=True, capture_output=True, text=True, timeout=60).stdout
    reading = read_once(lambda: LineProcess(WORKER))
    assert isinstance(reading, tuple)
    cards = [f"{gpu.name}, {gpu.vram_total_bytes // 2**20}" for gpu in reading]
    assert cards == shown.splitlines()
