"""Finds the processes of Ollama: the server, its runners, and the processes that they started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psutil

FULL_LOOK_EVERY: Final = 30

# "ollama runner" and "ollama serve" are one program; ollama-lib is its name in some builds; 0.30
# and later run llama-server below it, versions before 0.4 ollama_llama_server.
_SERVER_NAMES: Final = frozenset({"ollama", "ollama-lib", "ollama.exe"})
_RUNNER_NAMES: Final = frozenset({"llama-server", "ollama_llama_server"})


@dataclass(frozen=True)
class _Process:
    name: str
    parent_pid: int
    is_ollama: bool
    """By its own name or program path, not by its parent."""


class ProcessTable:
    """The names of all processes, kept so that not every process is read at each refresh.

    A process is read in the first two refreshes that list its pid, because a new process has its final name
    only after it has started its program, and again in every thirtieth, because a script may start (``exec``)
    another program late.
    """

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._settled: set[int] = set()
        self._ollama: set[int] = set()
        self._refreshes = 0

    def refresh(self) -> None:
        """Read the new processes. Raises ``psutil.Error`` or ``OSError`` if the processes cannot be listed."""
        pids = set(psutil.pids())
        if self._refreshes % FULL_LOOK_EVERY == 0:
            self._settled.clear()
        self._refreshes += 1
        fresh = pids - self._settled
        read = {pid: process for pid in fresh if (process := _read(pid)) is not None}
        self._settled = (self._settled & pids) | (read.keys() & self._processes.keys())
        known = {pid: process for pid, process in self._processes.items() if pid in pids}
        self._processes = known | read
        # Processes of Ollama stay so: a runner that outlives its server still holds the server's memory.
        self._ollama = (self._ollama & pids) | {pid for pid in fresh if self._descends(pid)}

    def name(self, pid: int) -> str:
        """The name of a process; "" if it is not visible here (another container)."""
        process = self._processes.get(pid)
        return process.name if process else ""

    def is_ollama(self, pid: int) -> bool:
        """Whether a process or one of its ancestors is Ollama."""
        return pid in self._ollama

    def ollama_pids(self) -> tuple[int, ...]:
        """All processes of Ollama that are visible here."""
        return tuple(sorted(self._ollama))

    def _descends(self, pid: int) -> bool:
        for _ in range(64):  # a reused pid can make a cycle
            process = self._processes.get(pid)
            if process is None:
                return False
            if process.is_ollama or pid in self._ollama:
                return True
            pid = process.parent_pid
        return False


def _read(pid: int) -> _Process | None:
    """One process, or None if it has ended or is hidden."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            name = process.name()
            is_ollama = name.lower() in _SERVER_NAMES
            if name.lower() in _RUNNER_NAMES:  # users run their own llama-server: its path tells
                is_ollama = "ollama" in "".join(process.cmdline()[:1]).lower()
            return _Process(name, process.ppid(), is_ollama)
    except (psutil.Error, OSError):
        return None
