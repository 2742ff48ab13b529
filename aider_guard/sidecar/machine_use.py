"""Reads what speaks against work ahead of time (battery, heat, what other programs compute), and decides about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil

from aider_guard.core.readings import Gpu, Unavailable

SAMPLE_SECONDS: Final = 0.5
"""How long the processors are watched. No request of Aider's is running then, and nothing is read ahead."""
GPU_SECONDS: Final = 1.0
"""Of how long a GPU's driver tells how busy it was (nvml.h, ``nvmlUtilization_t``: a second or less)."""
_NOT_TOLD: Final = Unavailable("this system does not tell")


@dataclass(frozen=True)
class MachineUse:
    """What speaks against work that may be in vain. Unavailable speaks for nothing."""

    on_battery: bool | Unavailable
    busy_percent: float | Unavailable
    """How much of all processors other programs use."""
    degrees_below_limit: float | Unavailable
    """How far the hottest part is from where the machine slows itself down, in degrees Celsius."""
    free_percent: float | Unavailable = _NOT_TOLD
    """The share of the main memory that programs may still take."""
    gpu_busy_percent: int | Unavailable = _NOT_TOLD
    """How busy other programs keep the busiest GPU of Ollama's."""
    gpu_is_hot: bool | Unavailable = _NOT_TOLD
    """Whether one of them is slower because of its heat."""


BUSY_PERCENT: Final = 60.0
SHORT_PERCENT: Final = 10.0
"""llama-server keeps states of sliding and hybrid models in main memory, up to 32 (llama.cpp, --ctx-checkpoints), and
makes them at the end of what it reads."""
NEAR_LIMIT_DEGREES: Final = 5.0


def why_rest(use: MachineUse) -> str:
    """Return why the machine is better left alone now, "" where nothing is known to speak against work."""
    if use.on_battery is True:
        return "the machine runs on its battery"
    below = use.degrees_below_limit
    if isinstance(below, float) and below < NEAR_LIMIT_DEGREES:
        return "the machine is hot"
    if use.gpu_is_hot is True:
        return "the GPU is hot"
    if isinstance(use.free_percent, float) and use.free_percent < SHORT_PERCENT:
        return "main memory is short"
    if isinstance(use.busy_percent, float) and use.busy_percent > BUSY_PERCENT:
        return "the machine is busy with other work"
    if isinstance(use.gpu_busy_percent, int) and use.gpu_busy_percent > BUSY_PERCENT:
        return "the GPU is busy with other work"
    return ""


Gpus = Callable[[], tuple[Gpu, ...] | Unavailable]


def read_machine_use(
    sample_seconds: float = SAMPLE_SECONDS,
    gpus: Gpus = lambda: _NOT_TOLD,
    gpu_seconds: float = GPU_SECONDS,
) -> MachineUse:
    """Read the battery, the temperatures, the processors and the GPUs. Blocks for the sample; never raises.

    A GPU that is busy is looked at again after ``gpu_seconds``: the model may have just ended its answer.
    """
    battery, busy = _on_battery(), _busy_percent(sample_seconds)
    gpu_busy, gpu_hot = _gpu_use(gpus())
    if isinstance(gpu_busy, int) and gpu_busy > BUSY_PERCENT:
        time.sleep(gpu_seconds)
        gpu_busy, gpu_hot = _gpu_use(gpus())
    return MachineUse(
        *(battery, busy, _degrees_below_limit(), _free_percent()),
        gpu_busy_percent=gpu_busy,
        gpu_is_hot=gpu_hot,
    )


def _gpu_use(
    gpus: tuple[Gpu, ...] | Unavailable,
) -> tuple[int | Unavailable, bool | Unavailable]:
    """How busy the busiest GPU is, and whether one is hot: of those with Ollama, or of all where it is on none."""
    if isinstance(gpus, Unavailable):
        return gpus, gpus
    used = [gpu for gpu in gpus if _has_ollama(gpu)] or gpus
    busy = [gpu.busy_percent for gpu in used if isinstance(gpu.busy_percent, int)]
    hot = [gpu.slowed_by_heat for gpu in used if isinstance(gpu.slowed_by_heat, bool)]
    return max(busy, default=_NOT_TOLD), any(hot) if hot else _NOT_TOLD


def _has_ollama(gpu: Gpu) -> bool:
    processes = () if isinstance(gpu.processes, Unavailable) else gpu.processes
    return any(process.is_ollama for process in processes)


def _on_battery() -> bool | Unavailable:
    """Whether the machine runs on its battery (on Linux, /sys/class/power_supply)."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, psutil.Error, OSError, ValueError):
        return _NOT_TOLD
    if battery is None or battery.power_plugged is None:
        return _NOT_TOLD
    return not battery.power_plugged


def _busy_percent(sample_seconds: float) -> float | Unavailable:
    try:
        return float(psutil.cpu_percent(interval=sample_seconds))
    except (psutil.Error, OSError, ValueError):
        return _NOT_TOLD


def _free_percent() -> float | Unavailable:
    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError, ValueError):
        return _NOT_TOLD
    return 100.0 * memory.available / memory.total if memory.total else _NOT_TOLD


def _degrees_below_limit() -> float | Unavailable:
    """How far the part that is nearest to its limit is below it; sensors without a limit tell nothing."""
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, psutil.Error, OSError, ValueError):
        return _NOT_TOLD
    distances = [
        limit - sensor.current
        for of_a_part in sensors.values()
        for sensor in of_a_part
        # Some report a limit of 0 or of thousands for none.
        if (limit := sensor.high or sensor.critical) and 40 <= limit <= 120
    ]
    return min(distances, default=_NOT_TOLD)
