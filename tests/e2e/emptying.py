"""An Ollama with nothing in memory, whatever ran on it before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from aider_guard.demo.ollama_server import PrivateOllama

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05


def has_nothing(server: PrivateOllama) -> bool:
    """Whether no model is in memory and no process of one is left: it ends after the list says that it went."""
    return not server.loaded() and not psutil.Process(server.pid).children()


def empty(server: PrivateOllama) -> None:
    """Unload what is loaded, and wait until it is gone."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not has_nothing(server):
        for name in server.loaded():
            server.unload(name)
        assert time.monotonic() < deadline, f"{server.loaded()} will not go"
        time.sleep(POLL_SECONDS)
