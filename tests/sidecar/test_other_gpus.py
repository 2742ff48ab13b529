"""GPUs of other makers put together with NVIDIA's: mixed machines, integrated GPUs, Apple's, and what is not there."""

from __future__ import annotations

import errno
import os
import signal
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fakes.drm_tree import (
    ARC_B580,
    RADEON_780M,
    RTX_4080,
    RX_7900_XTX,
    SERVER_CONSOLE,
    UHD,
    CardFiles,
    DrmTree,
)

from aider_guard.core.readings import (
    GPU_NOT_YET,
    INTEGRATED_INTEL,
    NO_NVIDIA_GPU,
    Gpu,
    MemoryReading,
    Unavailable,
)
from aider_guard.line_process import LineProcess
from aider_guard.sidecar import drm
from aider_guard.sidecar.gpu import GpuSensor
from aider_guard.sidecar.memory import MemorySensor
from aider_guard.sidecar.other_gpus import (
    HIDDEN_AMD,
    NONE,
    Gpus,
    OtherGpus,
    apple_gpu,
    drm_sensor,
    put_together,
    start_drm_worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20
NO_DRIVER = NO_NVIDIA_GPU[0]
SILENT = Unavailable("the NVIDIA driver does not answer")
BROKEN = Unavailable("the AMD GPU at 0000:03:00.0 is gone")
RTX = Gpu(0, "NVIDIA", 16 * GIB, GIB, ())
RX = Gpu(1, "AMD", 24 * GIB, GIB, ())
APU = Gpu(0, "AMD 780M", 32 * GIB, GIB, (), shares_main_memory=True)


class FixedSensor(GpuSensor):
    """A sensor whose driver always says the same, without a process."""

    def __init__(self, reading: Gpus, unread: tuple[Unavailable, ...] = ()) -> None:
        super().__init__(_no_process)
        self.reading, self.unread = reading, unread

    def ask(self) -> None:
        """Nothing is started."""

    def read(self) -> Gpus:
        return self.reading


def _no_process() -> LineProcess:
    raise AssertionError("a process was started")


TOGETHER: list[tuple[Gpus, Gpus, tuple[Unavailable, ...], Gpus, tuple[Unavailable, ...]]] = [
    # NVIDIA's reading, the other makers', what they could not read; what is taken, and what is told beside it.
    ((RTX,), NONE, (), (RTX,), ()),
    ((RTX,), INTEGRATED_INTEL, (), (RTX,), ()),
    ((RTX,), (APU,), (), (RTX,), ()),
    ((RTX,), (RX,), (), (RTX, RX), ()),
    ((replace(RTX, index=1),), (RX,), (), (replace(RTX, index=1), replace(RX, index=2)), ()),
    ((RTX,), (APU, RX), (), (RTX, replace(RX, index=2)), ()),
    ((RTX,), BROKEN, (), (RTX,), (BROKEN,)),
    ((RTX,), HIDDEN_AMD, (), (RTX,), (HIDDEN_AMD,)),
    (NO_DRIVER, (RX,), (), (replace(RX, index=0),), ()),
    (NO_DRIVER, (RX,), (BROKEN,), (replace(RX, index=0),), (BROKEN,)),
    (NO_DRIVER, (APU,), (), (APU,), ()),
    (NO_DRIVER, (APU,), (BROKEN,), BROKEN, ()),
    (NO_DRIVER, INTEGRATED_INTEL, (), INTEGRATED_INTEL, ()),
    (NO_DRIVER, HIDDEN_AMD, (), HIDDEN_AMD, ()),
    (NO_DRIVER, BROKEN, (), BROKEN, ()),
    (NO_DRIVER, NONE, (), NO_DRIVER, ()),
    (SILENT, NONE, (), SILENT, ()),
    (SILENT, (RX,), (), (replace(RX, index=0),), (SILENT,)),
    (SILENT, (APU,), (), SILENT, ()),
    (SILENT, INTEGRATED_INTEL, (), SILENT, ()),
    (SILENT, BROKEN, (), SILENT, (BROKEN,)),
    (GPU_NOT_YET, (RX,), (), GPU_NOT_YET, ()),
    ((RTX,), GPU_NOT_YET, (), GPU_NOT_YET, ()),
]


@pytest.mark.parametrize(("nvidia", "other", "unread", "taken", "told"), TOGETHER)
def test_what_is_taken_of_a_mixed_machine(
    nvidia: Gpus,
    other: Gpus,
    unread: tuple[Unavailable, ...],
    taken: Gpus,
    told: tuple[Unavailable, ...],
) -> None:
    """Cards before GPUs that share the main memory; one that does not answer is never taken for none."""
    assert put_together(nvidia, other, unread) == (taken, told)


MACHINES: list[tuple[tuple[CardFiles, ...], bool, Gpus]] = [
    ((), False, NONE),
    ((SERVER_CONSOLE,), False, NONE),
    ((UHD,), False, INTEGRATED_INTEL),
    ((UHD, RTX_4080), False, NONE),
    ((RADEON_780M,), True, (APU,)),
    ((RADEON_780M, RTX_4080), True, NONE),
    ((RX_7900_XTX, RTX_4080), True, (RX,)),
    ((), True, HIDDEN_AMD),
    ((UHD,), True, HIDDEN_AMD),
    ((RX_7900_XTX,), True, (RX,)),
    ((UHD, ARC_B580), False, (RX,)),
]


@pytest.mark.parametrize(("cards", "has_kfd", "reading"), MACHINES)
def test_a_process_is_started_for_a_card_only(
    tmp_path: Path, cards: tuple[CardFiles, ...], has_kfd: bool, reading: Gpus
) -> None:
    """A laptop with Intel's own GPU has none; an AMD card that this place does not show is not taken for none."""
    tree = DrmTree(tmp_path)
    for number, card in enumerate(cards):
        tree.add(number, card)
    kfd = tmp_path / "kfd"
    if has_kfd:
        kfd.touch()
    sensor = FixedSensor((APU,) if RADEON_780M in cards else (RX,))
    assert OtherGpus(sensor, tree.sys, kfd, "linux").read() == reading


def test_a_container_without_sysfs(tmp_path: Path) -> None:
    """There is no card, unless ROCm's device shows that there is one."""
    nothing = tmp_path / "none"
    assert OtherGpus(FixedSensor((RX,)), nothing, nothing, "linux").read() == NONE
    assert OtherGpus(FixedSensor((RX,)), nothing, tmp_path, "linux").read() == HIDDEN_AMD


def test_the_memory_reading_has_all_of_them(tmp_path: Path) -> None:
    """And what could not be read beside them."""
    tree = DrmTree(tmp_path)
    tree.add(0, RX_7900_XTX)
    others = OtherGpus(FixedSensor((RX,), (BROKEN,)), tree.sys, tmp_path / "kfd", "linux")
    reading = MemorySensor(FixedSensor((RTX,)), others=others).read()
    assert reading.gpus == (RTX, RX)
    assert reading.unread == (BROKEN,)
    assert not reading.shares_main_memory


SHARING: list[tuple[Gpus, bool]] = [
    ((APU,), True),
    ((APU, RX), False),
    ((RX,), False),
    ((), False),
    (INTEGRATED_INTEL, True),
    (NO_DRIVER, False),
]


@pytest.mark.parametrize(("gpus", "shares"), SHARING)
def test_whether_models_on_the_gpu_are_in_main_memory(gpus: Gpus, shares: bool) -> None:
    """Only where no GPU has memory of its own."""
    assert MemoryReading(gpus, NO_DRIVER, 0.0).shares_main_memory is shares


def test_the_real_worker_answers() -> None:
    """On a machine with such a card with what it has, on another with the reason."""
    sensor = GpuSensor(start_drm_worker, answer_seconds=60, patience_seconds=60)
    reading = sensor.read()
    sensor.close()
    expected, _ = drm.read_gpus()
    if isinstance(expected, Unavailable):
        assert reading == expected
    else:
        assert isinstance(reading, tuple)
        assert [gpu.name for gpu in reading] == [gpu.name for gpu in expected]


def test_a_driver_that_hangs_has_its_own_words() -> None:
    """It is not NVIDIA's that does not answer."""
    worker = start_drm_worker()
    os.kill(worker.pid, signal.SIGSTOP)
    clock = iter(float(second) for second in range(0, 1000, 100))
    sensor = replace_start(drm_sensor(), lambda: worker, lambda: next(clock))
    assert sensor.read() == Unavailable("the driver of the AMD or Intel GPU does not answer")


def replace_start(
    sensor: GpuSensor, start: Callable[[], LineProcess], clock: Callable[[], float]
) -> GpuSensor:
    """The same sensor with another process and clock, and no patience."""
    sensor.start, sensor.clock, sensor.patience_seconds = start, clock, 0.0
    return sensor


def mac(**values: int) -> Callable[[str], bytes]:
    """A kernel of macOS that knows these numbers, and its processor's name."""
    known: Mapping[str, bytes] = {
        name.replace("_", ".", 1): struct.pack("=q", value) for name, value in values.items()
    }
    texts = {"machdep.cpu.brand_string": b"Apple M2 Max\0"}

    def sysctl(name: str) -> bytes:
        try:
            return {**known, **texts, "hw.optional.arm64": known.get("hw.arm", b"")}[name]
        except KeyError:
            raise OSError(errno.ENOENT, "no such value") from None

    return sysctl


LIMITS: list[tuple[int, int | None, int]] = [
    # The machine's GiB, what iogpu.wired_limit_mb says, and what the GPU may use in MiB.
    (8, 0, 8 * 1024 * 2 // 3),
    (16, 0, 16 * 1024 * 2 // 3),
    (32, None, 32 * 1024 * 2 // 3),
    (36, 0, 27 * 1024),
    (64, 0, 48 * 1024),
    (32, 26624, 26624),
    (32, 99_999, 32 * 1024 * 2 // 3),
]


@pytest.mark.parametrize(("ram_gib", "limit_mb", "expected_mib"), LIMITS)
def test_an_apple_gpu_has_a_part_of_the_main_memory(
    ram_gib: int, limit_mb: int | None, expected_mib: int
) -> None:
    """What the user set, where that is possible, else what macOS gives it; its use is not told, and never 0."""
    limit = {} if limit_mb is None else {"iogpu_wired_limit_mb": limit_mb}
    gpu = apple_gpu(mac(hw_memsize=ram_gib * GIB, hw_arm=1, **limit))
    assert gpu is not None
    assert gpu.name == "Apple M2 Max"
    assert gpu.vram_total_bytes // MIB == expected_mib
    assert gpu.shares_main_memory
    assert isinstance(gpu.vram_used_bytes, Unavailable)
    assert isinstance(gpu.processes, Unavailable)


def test_on_an_older_mac_ollama_uses_no_gpu() -> None:
    """Its build for Intel's processors computes on them."""
    assert apple_gpu(mac(hw_memsize=32 * GIB)) is None
    assert apple_gpu(mac(hw_memsize=32 * GIB, hw_arm=0)) is None
