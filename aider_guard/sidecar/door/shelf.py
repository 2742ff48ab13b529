"""What Ollama has installed, read in the background: nobody asks while a request waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.kinds import DoorSettings
from aider_guard.sidecar.installed import Installed, find_installed, nearest_names
from aider_guard.sidecar.lines import start_thread
from aider_guard.sidecar.ollama import OllamaClient

READ_SECONDS: Final = 30.0
"""A model that is pulled during the session is known this much later; one that is not known is Ollama's to find."""


@dataclass
class TagsShelf:
    """Implements ``services.Shelf`` by ``/api/tags``."""

    client: OllamaClient
    read_seconds: float = READ_SECONDS
    sleep: Callable[[float], None] = time.sleep
    _installed: Installed = field(default=Unavailable("not read yet"), init=False)
    _reading: bool = field(default=False, init=False)

    def serve(self, settings: DoorSettings) -> None:  # noqa: ARG002  # the client's server is the session's
        """Read it from now on, every half minute."""
        if not self._reading:
            self._reading = True
            start_thread("shelf", self._read_for_ever)

    def _read_for_ever(self) -> None:
        while True:
            self.read()
            self.sleep(self.read_seconds)

    def read(self) -> None:
        """Read it once. What was read before stays known when the server does not answer."""
        answer = self.client.installed()
        if not isinstance(answer, Unavailable):
            self._installed = answer

    def remote_host(self, model: str) -> str:
        """Where a model really runs that only has its name here; "" for a local one, and for one that is not known."""
        found = find_installed(model, self._installed)
        return found.remote_host if found is not None else ""

    def never_truncates(self, model: str) -> bool:
        """Whether it is known to be run by MLX, which refuses what is too long (x/mlxrunner/pipeline.go)."""
        found = find_installed(model, self._installed)
        return found is not None and found.format == "safetensors"

    def alike(self, model: str) -> tuple[str, ...]:
        """Installed models of a similar name, nearest first; none when nothing is known."""
        return nearest_names(model, self._installed)
