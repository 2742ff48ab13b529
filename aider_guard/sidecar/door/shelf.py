"""What each Ollama has installed, read in the background; only of a name that is not known it is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.line_process import start_thread
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.installed import Installed, find_installed, nearest_names
from aider_guard.ollama.names import canonical_name

READ_SECONDS: Final = 30.0
NOT_READ: Final = Unavailable("what is installed is not read yet")
RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 10.0
"""So long may a server take to say where a model runs: on a cold disk it reads the head of its file."""


@dataclass
class TagsShelf:
    """One Ollama's, by ``/api/tags``."""

    client: OllamaClient
    read_seconds: float = READ_SECONDS
    sleep: Callable[[float], None] = time.sleep
    installed: Installed = field(default=NOT_READ, init=False)
    _looked: dict[str, str] = field(default_factory=dict, init=False)
    """Where models run that were asked for and are not listed, until the next list."""
    _reading: bool = field(default=False, init=False)

    def begin(self) -> None:
        """Read it from now on, every half minute, and soon where that failed."""
        if not self._reading:
            self._reading = True
            start_thread("shelf", self._read_for_ever)

    def _read_for_ever(self) -> None:
        while True:
            self.sleep(self.read_seconds if self.read() else RETRY_SECONDS)

    def read(self) -> bool:
        """Read it once. What was read before stays known when the server does not answer (False)."""
        answer = self.client.installed()
        if isinstance(answer, Unavailable):
            return False
        self.installed, self._looked = answer, {}
        return True

    async def where(self, model: str) -> str | Unavailable | None:
        """Where a model runs: as it is listed, else as it was told, else as the server says now."""
        found = find_installed(model, self.installed)
        if found is not None:
            return found.remote_host
        told = self._looked.get(canonical_name(model))
        return await self.look(model) if told is None else told

    async def look(self, model: str) -> str | Unavailable | None:
        """Where the server says now that a model runs. What is not there may come any moment: that is not kept."""
        if not model.strip():
            return None
        answer = await asyncio.to_thread(self.client.whereabouts, model, LOOK_SECONDS)
        if isinstance(answer, str):
            self._looked[canonical_name(model)] = answer
        return answer


def shelf_at(base: str) -> TagsShelf:
    """The shelf of the Ollama at this address."""
    return TagsShelf(OllamaClient(base))


class Shelves:
    """Implements ``services.Shelf``: one for each Ollama that the door leads to."""

    def __init__(self, make: Callable[[str], TagsShelf] = shelf_at) -> None:
        self._make = make
        self._shelves: dict[str, TagsShelf] = {}

    def serve(self, settings: DoorSettings) -> None:
        """Read what these have, from now on."""
        for upstream in settings.upstreams:
            if upstream.kind == "ollama":
                self.of(upstream).begin()

    def of(self, upstream: Upstream) -> TagsShelf:
        """That of one Ollama."""
        if upstream.base not in self._shelves:
            self._shelves[upstream.base] = self._make(upstream.base)
        return self._shelves[upstream.base]

    async def where(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Where a model really runs: "" for here, and on a server that is no Ollama; None for one that is not there."""
        return await self.of(upstream).where(model) if upstream.kind == "ollama" else ""

    async def look(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """The same, as the server says now; None on a server that is no Ollama."""
        return await self.of(upstream).look(model) if upstream.kind == "ollama" else None

    def never_truncates(self, upstream: Upstream, model: str) -> bool:
        """Whether it is known to be run by MLX, which refuses what is too long (x/mlxrunner/pipeline.go)."""
        found = find_installed(model, self._installed(upstream))
        return found is not None and found.format == "safetensors"

    def alike(self, upstream: Upstream, model: str) -> tuple[str, ...]:
        """Installed models of a similar name, nearest first; none when nothing is known."""
        return nearest_names(model, self._installed(upstream))

    def _installed(self, upstream: Upstream) -> Installed:
        shelf = self._shelves.get(upstream.base)
        return NOT_READ if shelf is None else shelf.installed
