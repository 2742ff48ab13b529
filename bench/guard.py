"""The guard under measurement: its start, its relay, its memory and its idling, around small programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from session.guards import Place
from session.ptys import Person, child

from bench.relay import Command, Way

SETTLED_SECONDS = 5.0
PROMPT = b"\x1b[?2004h"
"""With it prompt_toolkit begins to draw a prompt."""


def bench_place(folder: Path, ollama: str) -> Place:
    """A home, a state folder and a stand-in for Aider, for measuring."""
    return Place.make(folder, "settings", ollama)


def guarded_way(place: Place) -> Way:
    """Run a program under the guard."""

    def way(program: Sequence[str]) -> Command:
        return Command(place.guarded(), place.env(program), str(place.work))

    return way


@dataclass(frozen=True)
class Starts:
    """Two command lines for the same program, and the environment and folder of both."""

    plain: Sequence[str]
    guarded: Sequence[str]
    env: dict[str, str]
    folder: Path

    def measure(self, count: int, sign: bytes = b"") -> tuple[list[float], list[float]]:
        """Seconds until the first byte, or the *sign* on the screen, plain and guarded, taking turns.

        The first of each is not counted.
        """
        plain, guarded = [], []
        for _ in range(count + 1):
            plain.append(self._seconds_until(sign, self.plain))
            guarded.append(self._seconds_until(sign, self.guarded))
        return plain[1:], guarded[1:]

    def _seconds_until(self, sign: bytes, command: Sequence[str]) -> float:
        started = time.perf_counter()
        with Person(command, env=self.env, cwd=str(self.folder)) as person:
            person.until(lambda: bool(person.shown) and sign in person.shown)
            return time.perf_counter() - started


def fake_start(folder: Path, ollama: str) -> Starts:
    """An Aider that imports nothing: nothing of the guard's own start is hidden behind it."""
    place = bench_place(folder, ollama)
    env = place.env(child("exits_with", 0))
    return Starts(place.plain(), place.guarded(), env, place.work)


def real_start(folder: Path, ollama: str, aider: str) -> Starts:
    """The real Aider, asked not to call home, as the guard asks it."""
    place = bench_place(folder, ollama)
    words = ["--model", "ollama_chat/small", "--no-git", "--no-show-model-warnings"]
    quiet = ["--no-check-update", "--no-analytics", "--no-show-release-notes"]
    env = place.env([], LITELLM_LOCAL_MODEL_COST_MAP="True")
    del env["PYTHONPATH"]  # the stand-in for Aider is there
    guarded = [*place.guarded(*words, options=["--aider", aider])]
    return Starts([aider, *words, *quiet], guarded, env, place.work)


@dataclass(frozen=True)
class Idle:
    """What the guard's own processes take while nothing happens, by the names of the processes."""

    resident_bytes: dict[str, int] = field(default_factory=dict)
    cpu_percent: dict[str, float] = field(default_factory=dict)
    proportional_bytes: int = 0


def idle(folder: Path, ollama: str, seconds: float) -> Idle:
    """Watch a session without typing. Aider's own process is not counted."""
    place = bench_place(folder, ollama)
    with place.person(child("echo_raw", 1)) as person:
        person.until(b"READY")
        time.sleep(SETTLED_SECONDS)
        processes = own_processes(person.process.pid)
        resident = {name: process.memory_info().rss for name, process in processes.items()}
        proportional = sum(map(proportional_bytes, processes.values()))
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        time.sleep(seconds)
        used = {
            name: 100 * (cpu_seconds(process) - before[name]) / seconds
            for name, process in processes.items()
        }
    return Idle(resident, {**used, "together": sum(used.values())}, proportional)


def own_processes(guard_pid: int) -> dict[str, psutil.Process]:
    """The guard, its sidecar, and the helpers of that, by name."""
    guard = psutil.Process(guard_pid)
    found = {"guard": guard}
    for process in guard.children(recursive=True):
        module = next((word for word in process.cmdline() if word.startswith("aider_guard.")), "")
        if module:
            found[module.removeprefix("aider_guard.")] = process
    return found


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    times = process.cpu_times()
    return times.user + times.system


def proportional_bytes(process: psutil.Process) -> int:
    """Resident memory with shared pages counted in shares (Linux); 0 where the system does not tell."""
    return int(getattr(process.memory_full_info(), "pss", 0))
