"""Reads what speaks against work ahead of time: the battery, the heat, and what other programs compute."""

from __future__ import annotations

from typing import Final

import psutil

from aider_guard.core.chat.next_prompt import MachineUse
from aider_guard.core.readings import Unavailable

SAMPLE_SECONDS: Final = 0.5
"""How long the processors are watched. No request of Aider's is running then, and nothing is read ahead."""
_NOT_TOLD: Final = Unavailable("this system does not tell")


def read_machine_use(sample_seconds: float = SAMPLE_SECONDS) -> MachineUse:
    """Read the battery, the temperatures and the processors. Blocks for the sample; never raises."""
    return MachineUse(_on_battery(), _busy_percent(sample_seconds), _degrees_below_limit())


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
