"""Finds out why a model was loaded again, by Ollama's processes and by which models run from one file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psutil

from aider_guard.core.chat.events import ReloadSeen
from aider_guard.core.events import Event
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.reloads import ReloadEvidence, cause
from aider_guard.core.server_report import ModelFacts
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.names import targets
from aider_guard.ollama.processes import ProcessTable
from aider_guard.ollama.server_process import ListeningProcess, find_listener
from aider_guard.ollama.survey import same_file


@dataclass(frozen=True)
class OllamaProcesses:
    """The server's process (0 where the system does not tell it), and all visible processes of Ollama's."""

    server_pid: int = 0
    pids: frozenset[int] = frozenset()

    def restarted_since(self, before: OllamaProcesses) -> bool:
        """Return whether another process serves than before."""
        return bool(self.server_pid and before.server_pid) and self.server_pid != before.server_pid

    def same_as(self, before: OllamaProcesses) -> bool:
        """Return whether no process was started since: then no model was loaded."""
        return len(self.pids) > 1 and self.pids <= before.pids


def processes(
    base: str, find: Callable[..., ListeningProcess | Unavailable] = find_listener
) -> OllamaProcesses:
    """Return the processes of the Ollama at this address; none on another machine. Takes some milliseconds."""
    addresses, port = targets(base), urlsplit(base).port or 0
    if not addresses or not port:
        return OllamaProcesses()
    listener = find(addresses, port)
    table = ProcessTable()
    try:
        table.refresh()
    except (psutil.Error, OSError):
        return OllamaProcesses()
    pid = 0 if isinstance(listener, Unavailable) else listener.pid
    return OllamaProcesses(pid, frozenset(table.ollama_pids()))


@dataclass(frozen=True)
class ReloadInspector:
    """Looks up evidence on the machine and at Ollama; each call blocks."""

    client: OllamaClient
    processes: Callable[[str], OllamaProcesses] = processes

    def now(self) -> OllamaProcesses:
        """Return Ollama's processes."""
        return self.processes(self.client.base_url)

    def same_file(
        self, model: str, before: Sequence[ModelsReading | Unavailable]
    ) -> tuple[str, ...]:
        """Return the models in the newest list that run from the same file as this one, under another name."""
        newest = before[-1] if before else None
        if not isinstance(newest, ModelsReading):
            return ()
        names = same_file(self.client, model, [loaded.name for loaded in newest.models])
        return () if isinstance(names, Unavailable) else names

    def remote_host(self, model: str) -> str | Unavailable:
        """Return the host of a model that runs elsewhere and only has its name here; "" for a local one."""
        facts = self.client.model_facts(model, self.client.installed())
        if isinstance(facts, ModelFacts):
            return facts.remote_host
        return facts if isinstance(facts, Unavailable) else Unavailable(f"{model} is not installed")


class ReloadWatch:
    """Reports loads that cost time again, on the door's event loop; looks up evidence in threads."""

    def __init__(self, inspector: ReloadInspector, emit: Callable[[Event], None]) -> None:
        self.inspector = inspector
        self._emit = emit
        self._processes = OllamaProcesses()

    async def record_processes(self) -> None:
        """Note Ollama's processes after a model was loaded."""
        self._processes = await asyncio.to_thread(self.inspector.now)

    async def report(self, evidence: ReloadEvidence, load_seconds: float) -> None:
        """Report why a model was loaded again; nothing when the request had only waited for another model's load."""
        before = self._processes
        await self.record_processes()
        if self._processes.same_as(before):
            return
        same_file = await asyncio.to_thread(
            self.inspector.same_file, evidence.model, evidence.before
        )
        restarted = self._processes.restarted_since(before)
        complete = replace(evidence, same_file=same_file, server_restarted=restarted)
        self._emit(ReloadSeen(evidence.model, load_seconds, cause(complete)))
