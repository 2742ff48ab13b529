"""Which processes are Ollama's own: the server, its runners, and what they started."""

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
class _Seen:
    name: str
    parent_pid: int
    by_itself: bool
    """Ollama's by its own name or program path, whoever started it."""


class ProcessTable:
    """Names of processes, without the cost of looking at all of them each time.

    A pid is looked at in the first two refreshes that show it, as a new process gets its real name
    only when it starts its program, and again in every thirtieth, as a script may start (``exec``)
    another program late.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._settled: set[int] = set()
        self._ollama: set[int] = set()
        self._refreshes = 0

    def refresh(self) -> None:
        """Look at what is new. Raises ``psutil.Error`` or ``OSError`` when none can be listed."""
        pids = set(psutil.pids())
        if self._refreshes % FULL_LOOK_EVERY == 0:
            self._settled.clear()
        self._refreshes += 1
        fresh = pids - self._settled
        looked_at = {pid: seen for pid in fresh if (seen := _look_at(pid)) is not None}
        self._settled = (self._settled & pids) | (looked_at.keys() & self._seen.keys())
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in pids} | looked_at
        # A pid once found stays: a runner that outlives its server still holds the server's memory.
        self._ollama = (self._ollama & pids) | {pid for pid in fresh if self._descends(pid)}

    def name(self, pid: int) -> str:
        """A process's name; "" when it cannot be seen from here (another container)."""
        seen = self._seen.get(pid)
        return seen.name if seen else ""

    def is_ollama(self, pid: int) -> bool:
        """Whether a process, or one above it, is Ollama."""
        return pid in self._ollama

    def ollama_pids(self) -> tuple[int, ...]:
        """All processes of Ollama that can be seen from here."""
        return tuple(sorted(self._ollama))

    def _descends(self, pid: int) -> bool:
        for _ in range(64):  # a pid that was given out again can close a circle
            seen = self._seen.get(pid)
            if seen is None:
                return False
            if seen.by_itself or pid in self._ollama:
                return True
            pid = seen.parent_pid
        return False


def _look_at(pid: int) -> _Seen | None:
    """One process, or None when it is gone or hidden."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            name = process.name()
            return _Seen(name, process.ppid(), _is_ollama_itself(process, name.lower()))
    except (psutil.Error, OSError):
        return None


def _is_ollama_itself(process: psutil.Process, name: str) -> bool:
    """By name; a llama-server only by its path, as people run their own."""
    if name in _SERVER_NAMES:
        return True
    if name not in _RUNNER_NAMES:
        return False
    program, *_ = [*process.cmdline(), ""]
    return "ollama" in program.lower()
