"""Finds the process that runs a model below Ollama 0.30 and later: a ``llama-server`` of llama.cpp.

Ollama starts one for each loaded model (llm/llama_server.go), as its own child. The command line, which every user of
the machine may read, has the model's file, the window and the port on the loopback interface, where it answers without
a key. It reads prompts in the clear, so it is taken only if it is Ollama's own: its parent is the process that listens
at Ollama's address, and the port is its own, as far as the system shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psutil

from aider_guard.core.readings import Unavailable
from aider_guard.ollama.names import parse_address, targets
from aider_guard.ollama.server_process import ListeningProcess, find_listener, is_ollama_name
from aider_guard.proc_net import LISTENING, PROC, read_tables, rows

if TYPE_CHECKING:
    from aider_guard.ollama.names import Address

Find = Callable[[tuple["Address", ...], int], ListeningProcess | Unavailable]
_PROGRAM: Final = "llama-server"
NO_PROCESS: Final = Unavailable("no process of Ollama's that runs this model is seen here")
STARTING: Final = Unavailable("the process of the model has begun, and does not listen yet")
_STARTS_WITHIN_SECONDS: Final = 10.0
"""A younger process whose port is not open is taken to be starting, an older one to be in a container's network."""


@dataclass(frozen=True)
class ModelProcess:
    """A process that runs a model. ``window_tokens`` is what it holds for one request, as it was started."""

    pid: int
    started_at: float
    """Unix time in seconds: a reused process id has another one."""
    parent_pid: int
    host: str
    port: int
    window_tokens: int
    digest: str
    """The digest of the file with the weights, as in ``ModelFacts.blob``."""

    @property
    def base(self) -> str:
        """Its address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def still_runs(self) -> bool:
        """Whether this very process runs, below the same Ollama: one that was killed leaves its children running."""
        with suppress(psutil.Error, OSError):
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            same = (self.started_at, self.parent_pid)
            return (process.create_time(), process.ppid()) == same
        return False


def find_model_process(
    base_url: str,
    digest: str,
    *,
    find: Find = find_listener,
    wall_clock: Callable[[], float] = time.time,
) -> ModelProcess | Unavailable:
    """Return the process that runs the model file with this digest below the Ollama at this address. Never raises.

    The youngest where there are two: a model that is loaded anew may have the old one still ending. It takes some
    milliseconds.
    """
    addresses = targets(base_url)
    try:
        port = urlsplit(base_url).port or 0
    except ValueError:
        port = 0
    if not addresses or not port:
        return Unavailable("Ollama runs on another machine")
    server = find(addresses, port)
    if isinstance(server, Unavailable):
        return server
    if not server.pid:
        return Unavailable("the system does not show which process is Ollama's")
    try:
        parent = psutil.Process(server.pid)
        if not is_ollama_name(parent.name()):  # a tunnel, or the proxy of a container
            return Unavailable("what listens at Ollama's address is another program")
        children = parent.children()
        found = [one for child in children if (one := _read(child, server.pid, digest)) is not None]
    except (psutil.Error, OSError):
        return NO_PROCESS
    if not found:
        return NO_PROCESS
    newest = max(found, key=lambda one: one.started_at)
    if _listens(newest, find):
        return newest
    if wall_clock() - newest.started_at < _STARTS_WITHIN_SECONDS:
        return STARTING
    return Unavailable("its port is not of this machine")


def _read(child: psutil.Process, parent_pid: int, digest: str) -> ModelProcess | None:
    """Return a child of Ollama's if it is a llama-server with this model's file, else None."""
    with suppress(psutil.Error, OSError, ValueError):
        words = child.cmdline()
        if not words or PurePath(words[0]).name != _PROGRAM:
            return None
        model, host = _value(words, "--model"), _value(words, "--host")
        address = parse_address(host)
        if not digest or not model.endswith(digest) or address is None or not address.is_loopback:
            return None
        slots = max(int(_value(words, "-np") or 1), 1)
        window, port = int(_value(words, "-c")) // slots, int(_value(words, "--port"))
        started_at = child.create_time()
        return ModelProcess(child.pid, started_at, parent_pid, host, port, window, digest)
    return None


def _value(words: Sequence[str], flag: str) -> str:
    """Return what follows a flag on a command line, "" where it is missing."""
    return words[words.index(flag) + 1] if flag in words[:-1] else ""


def _listens(process: ModelProcess, find: Find) -> bool:
    """Return whether a connection to the port reaches this process: by its descriptors where they may be read, else
    by the user who owns the socket, in the network of both. In a container with a network of its own it is not there.
    """
    address = parse_address(process.host)
    assert address is not None
    listener = find((address,), process.port)
    if isinstance(listener, Unavailable):
        return False
    if listener.pid and not listener.inferred:
        return listener.pid == process.pid
    here, there = (
        {row.inode for row in rows(read_tables(folder, "tcp"), process.port, LISTENING)}
        for folder in (PROC / "net", PROC / str(process.pid) / "net")
    )
    with suppress(psutil.Error, OSError):
        is_the_users = psutil.Process(process.pid).uids().effective == listener.uid
        return is_the_users and not here.isdisjoint(there)
    return False
