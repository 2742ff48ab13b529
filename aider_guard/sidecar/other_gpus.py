"""Reads the GPUs of other makers than NVIDIA: AMD's and Intel's on Linux, Apple's; and puts all of them together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from aider_guard.core.readings import (
    GPU_NOT_YET,
    INTEGRATED_INTEL,
    NO_NVIDIA_GPU,
    Gpu,
    Unavailable,
)
from aider_guard.line_process import LineProcess
from aider_guard.sidecar.drm_cards import SYS, has_nvidia_card, list_cards
from aider_guard.sidecar.gpu import GpuSensor

Gpus = tuple[Gpu, ...] | Unavailable
Sysctl = Callable[[str], bytes]

NONE: Final = Unavailable("there is no GPU of AMD, Intel or Apple")
KFD: Final = Path("/dev/kfd")
"""The device through which ROCm, and Ollama with it, uses AMD's GPUs (docs.kernel.org, amdkfd)."""
HIDDEN_AMD: Final = Unavailable(
    "there is an AMD GPU (/dev/kfd), but /sys/class/drm does not show its memory"
)
_SILENT: Final = Unavailable("the driver of the AMD or Intel GPU does not answer")
_DIED: Final = Unavailable("the process that reads the AMD or Intel GPU ended")
_APPLE_USE: Final = Unavailable("macOS does not tell how much memory its GPU uses")
_APPLE_USERS: Final = Unavailable("macOS does not tell which programs use its GPU")
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


def start_drm_worker() -> LineProcess:
    """Start the process that talks to the drivers of AMD and Intel."""
    return LineProcess("aider_guard.sidecar.drm")


def drm_sensor() -> GpuSensor:
    """Make the sensor for cards of AMD and Intel."""
    return GpuSensor(start_drm_worker, silent=_SILENT, died=_DIED)


@dataclass(eq=False)
class OtherGpus:
    """Reads the GPUs of AMD, Intel and Apple. Without one of them this is the listing of a folder, and no process."""

    sensor: GpuSensor = field(default_factory=drm_sensor)
    sys_root: Path = SYS
    kfd: Path = KFD
    platform: str = sys.platform

    def read(self) -> Gpus:
        """Read the GPUs now; ``NONE`` where there is none, another reason where one cannot be read.

        One that shares the main memory is none beside a card of NVIDIA, also where NVIDIA's library is missing.
        """
        if self.platform == "darwin":
            apple = apple_gpu()
            return NONE if apple is None else (apple,)
        cards = list_cards(self.sys_root)
        if isinstance(cards, Unavailable):
            return HIDDEN_AMD if self.kfd.exists() else NONE
        if any(not card.is_integrated_intel for card in cards):
            gpus = self.sensor.read()
            is_card = isinstance(gpus, Unavailable) or not all(
                gpu.shares_main_memory for gpu in gpus
            )
            return gpus if is_card or not has_nvidia_card(self.sys_root) else NONE
        if self.kfd.exists():
            return HIDDEN_AMD
        return INTEGRATED_INTEL if cards and not has_nvidia_card(self.sys_root) else NONE

    def close(self) -> None:
        """End the worker, without waiting for it."""
        self.sensor.close()


def put_together(
    nvidia: Gpus, other: Gpus, unread: tuple[Unavailable, ...] = ()
) -> tuple[Gpus, tuple[Unavailable, ...]]:
    """Return the GPUs that Ollama would use, and why others were not read.

    A GPU that shares the main memory counts only where there is no card: Ollama takes cards first (server/sched.go,
    ``betterPlacementGroup``). A card that does not answer is not taken for one that is not there.
    """
    if GPU_NOT_YET in (nvidia, other):
        return GPU_NOT_YET, ()
    reasons = [each for each in (nvidia, other) if isinstance(each, Unavailable)]
    absent = (NONE, INTEGRATED_INTEL, *NO_NVIDIA_GPU)
    problems = tuple(reason for reason in (*reasons, *unread) if reason not in absent)
    first = nvidia if isinstance(nvidia, tuple) else ()
    start = max((gpu.index + 1 for gpu in first), default=0)
    others = other if isinstance(other, tuple) else ()
    found = (*first, *(replace(gpu, index=at) for at, gpu in enumerate(others, start)))
    cards = tuple(gpu for gpu in found if not gpu.shares_main_memory)
    if cards:
        return cards, problems
    if problems:
        return problems[0], problems[1:]
    if found:
        return found, ()
    return (INTEGRATED_INTEL if other == INTEGRATED_INTEL else nvidia), ()


def apple_gpu(sysctl: Sysctl | None = None) -> Gpu | None:
    """Return the GPU of an Apple processor; None on another Mac, where Ollama uses no GPU.

    Its memory is the part of the machine's that macOS lets it use: ``iogpu.wired_limit_mb`` where that is set. Else
    Metal's ``recommendedMaxWorkingSetSize``, which no file tells: two thirds of up to 32 GiB, three quarters of more
    (llama.cpp's logs: 10.7 of 16, 21.3 of 32, 27 of 36, 48 of 64 GiB; some versions of macOS give more).
    """
    ask = sysctl or _sysctl
    if _number(ask, "hw.optional.arm64") != 1:
        return None
    total = _number(ask, "hw.memsize")
    limit = _number(ask, "iogpu.wired_limit_mb") * _MIB
    if not 0 < limit <= total:
        limit = total * 2 // 3 if total <= 32 * _GIB else total * 3 // 4
    try:
        name = ask("machdep.cpu.brand_string").rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        name = "Apple GPU"
    return Gpu(0, name, limit, _APPLE_USE, _APPLE_USERS, shares_main_memory=True)


def _number(sysctl: Sysctl, name: str) -> int:
    """A number that the kernel tells; 0 for a name that this version does not know."""
    try:
        return int.from_bytes(sysctl(name), sys.byteorder)
    except OSError:
        return 0


def _sysctl(name: str) -> bytes:
    """Ask the kernel of macOS for a value, as sysctl(3) does. Raises OSError for a name that it does not know."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(size.value)
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)):
        raise OSError(ctypes.get_errno(), f"no value {name}")
    return buffer.raw[: size.value]
