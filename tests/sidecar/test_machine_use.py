"""What speaks against work ahead of time: the battery, the heat, and other programs."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from aider_guard.core.chat.next_prompt import NextPrompt
from aider_guard.core.readings import GPU_USE_NOT_TOLD, Gpu, GpuProcess, Unavailable
from aider_guard.sidecar.__main__ import read_next_prompts
from aider_guard.sidecar.machine_use import MachineUse, read_machine_use, why_rest

UNKNOWN = Unavailable("this system does not tell")
IDLE = MachineUse(on_battery=False, busy_percent=12.0, degrees_below_limit=30.0)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (IDLE, ""),
        (MachineUse(UNKNOWN, UNKNOWN, UNKNOWN), ""),
        (MachineUse(on_battery=True, busy_percent=1.0, degrees_below_limit=30.0), "battery"),
        (MachineUse(on_battery=False, busy_percent=61.0, degrees_below_limit=30.0), "busy"),
        (MachineUse(on_battery=False, busy_percent=60.0, degrees_below_limit=5.0), ""),
        (MachineUse(on_battery=False, busy_percent=1.0, degrees_below_limit=4.9), "hot"),
        (replace(IDLE, free_percent=9.9), "short"),
        (replace(IDLE, free_percent=10.0), ""),
        (replace(IDLE, gpu_busy_percent=61), "GPU is busy"),
        (replace(IDLE, gpu_busy_percent=60), ""),
        (replace(IDLE, gpu_is_hot=True), "GPU is hot"),
        (replace(IDLE, gpu_is_hot=False), ""),
        (MachineUse(on_battery=UNKNOWN, busy_percent=UNKNOWN, degrees_below_limit=-3.0), "hot"),
    ],
)
def test_when_the_machine_is_left_alone(use: MachineUse, reason: str) -> None:
    """What is not known is no reason."""
    assert reason in why_rest(use)
    assert bool(why_rest(use)) is bool(reason)


def sensors(*values: tuple[float, float | None, float | None]) -> dict[str, list[Any]]:
    """What psutil returns: current, high and critical of each sensor."""
    named = [
        SimpleNamespace(current=current, high=high, critical=critical)
        for current, high, critical in values
    ]
    return {"coretemp": named[:1], "others": named[1:]}


@pytest.mark.parametrize(
    ("battery", "temperatures", "use"),
    [
        (None, {}, MachineUse(UNKNOWN, 7.0, UNKNOWN)),
        (
            SimpleNamespace(power_plugged=False),
            sensors((50.0, 100.0, 105.0), (95.0, None, 105.0), (90.0, 0.0, None)),
            MachineUse(on_battery=True, busy_percent=7.0, degrees_below_limit=10.0),
        ),
        (
            SimpleNamespace(power_plugged=True),
            sensors((50.0, 65261.85, None)),
            MachineUse(on_battery=False, busy_percent=7.0, degrees_below_limit=UNKNOWN),
        ),
        (SimpleNamespace(power_plugged=None), {}, MachineUse(UNKNOWN, 7.0, UNKNOWN)),
        (OSError(), OSError(), MachineUse(UNKNOWN, 7.0, UNKNOWN)),
        (AttributeError(), AttributeError(), MachineUse(UNKNOWN, 7.0, UNKNOWN)),
    ],
)
def test_what_the_system_tells(
    battery: Any, temperatures: Any, use: MachineUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each system has each sensor, nor psutil each function; some limits are none."""

    def tells(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(psutil, "sensors_battery", lambda: tells(battery), raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: tells(temperatures), raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 7.0 if interval == 0.1 else 0.0)
    found = read_machine_use(0.1)
    assert isinstance(found.free_percent, float)
    assert replace(found, free_percent=UNKNOWN) == use


OLLAMA = GpuProcess(7, "ollama", 5_000, is_ollama=True)
GAME = GpuProcess(8, "game", 5_000, is_ollama=False)


def gpu(
    busy: int | Unavailable = GPU_USE_NOT_TOLD,
    hot: bool | Unavailable = GPU_USE_NOT_TOLD,
    *holders: GpuProcess,
) -> Gpu:
    """A card that is so busy, and as hot."""
    return Gpu(0, "card", 24_000, 9_000, holders, busy_percent=busy, slowed_by_heat=hot)


GPUS: list[tuple[list[tuple[Gpu, ...] | Unavailable], object, object]] = [
    ([UNKNOWN], UNKNOWN, UNKNOWN),
    ([()], UNKNOWN, UNKNOWN),
    ([(gpu(),)], UNKNOWN, UNKNOWN),
    ([(gpu(12, False),)], 12, False),
    ([(gpu(99, True),), (gpu(98, True),)], 98, True),
    ([(gpu(99),), (gpu(3),)], 3, UNKNOWN),  # the end of our own answer
    ([(gpu(99, False),), UNKNOWN], UNKNOWN, UNKNOWN),
    ([(gpu(5), gpu(70, True))] * 2, 70, True),
    ([(gpu(5, False, OLLAMA, GAME), gpu(70, True, GAME))], 5, False),  # another card's game
]


@pytest.mark.parametrize(("looks", "busy", "hot"), GPUS)
def test_what_the_gpus_tell(
    looks: list[tuple[Gpu, ...] | Unavailable], busy: object, hot: object
) -> None:
    """The cards of Ollama count, or all where it is not seen on one. A busy one is looked at again: the driver's
    number is that of the last second, in which the model may have answered.
    """
    left = iter(looks)
    use = read_machine_use(0.0, lambda: next(left), gpu_seconds=0.0)
    assert (use.gpu_busy_percent, use.gpu_is_hot) == (busy, hot)
    assert [*left] == []


def test_processors_that_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some containers."""

    def refuse(*, interval: float) -> float:
        raise OSError(f"none within {interval} s")

    monkeypatch.setattr(psutil, "cpu_percent", refuse)
    assert read_machine_use(0.0).busy_percent == UNKNOWN


def test_next_prompts_are_passed_on_whatever_else_is_in_the_pipe() -> None:
    """An Aider that was killed leaves half a line; another program may write anything."""
    told: list[NextPrompt | Unavailable] = []
    read_fd, write_fd = os.pipe()
    lines = (b'\n{"model": "ollama/x", "messa', b'\n{"unknown": "why"}\n', b"\n\xff\n\n", b"[1]\n")
    os.write(write_fd, b"".join(lines))
    os.write(write_fd, b'\n{"model": "ollama/x", "messages": []}\n')
    os.close(write_fd)
    residency: Any = SimpleNamespace(expect=told.append)
    read_next_prompts(read_fd, residency)
    os.close(read_fd)
    assert told == [Unavailable("why"), NextPrompt("/api/generate", "x", ())]
