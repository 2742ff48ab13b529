"""What each Ollama has installed, read in the background; only of a name that is not known it is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.model_names import canonical_name
from aider_guard.core.readings import Unavailable
from aider_guard.line_process import start_thread
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.installed import Installed, find_installed, nearest_names

READ_SECONDS: Final = 30.0
NOT_READ: Final = Unavailable("what is installed is not read yet")
RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 10.0
"""So long may a server take to say where a model runs: on a cold disk it reads the head of its file."""


@dataclass
class OllamaTags:
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


def shelf_at(base: str) -> OllamaTags:
    """The shelf of the Ollama at this address."""
    return OllamaTags(OllamaClient(base))


class InstalledModelsByServer:
    """Implements ``services.Shelf``: one for each Ollama that the door leads to."""

    def __init__(self, make: Callable[[str], OllamaTags] = shelf_at) -> None:
        self._make = make
        self._shelves: dict[str, OllamaTags] = {}

    def serve(self, settings: DoorSettings) -> None:
        """Read what these have, from now on."""
        for upstream in settings.upstreams:
            if upstream.kind == "ollama":
                self.of(upstream).begin()

    def of(self, upstream: Upstream) -> OllamaTags:
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


# What Ollama tells of its models and of itself, asked before the first prompt is judged by it.

LEARN_SECONDS: Final = 1.0
"""How long a prompt waits for what is not known yet. Ollama answers both questions from its disk, in milliseconds."""
AGAIN_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0
_NOT_ASKED: Final = Unavailable("Ollama was not asked")


class OllamaModelInfo:
    """Implements ``services.Facts`` by ``/api/show`` and ``/api/version``; on the door's event loop."""

    def __init__(
        self,
        client: OllamaClient,
        *,
        learn_seconds: float = LEARN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._learn_seconds = learn_seconds
        self._clock = clock
        self._told_nothing_at: dict[str, float] = {}
        self._version_asked_at = float("-inf")
        self._trained: dict[str, int | Unavailable] = {}
        self._version: str | Unavailable = _NOT_ASKED
        self._asking: dict[str, asyncio.Task[None]] = {}

    def serve(self, settings: DoorSettings) -> None:
        """Ask about the session's models anew: one may have been pulled or made again under its name."""
        ollama = {one.path for one in settings.upstreams if one.kind == "ollama"}
        for role in settings.roles:
            if role.path in ollama:
                self._begin(canonical_name(role.model), partial(self._ask_trained, role.model))

    async def learn(self, model: str, *, version: bool) -> None:
        """Ask for what is not known. What a server does not tell it is asked again after a while."""
        waited = []
        if self._is_due(model):
            waited.append(self._begin(canonical_name(model), partial(self._ask_trained, model)))
        if version and self._clock() - self._version_asked_at >= AGAIN_SECONDS:
            waited.append(self._begin("", self._ask_version))
        if waited:
            await asyncio.wait(waited, timeout=self._learn_seconds)

    def _is_due(self, model: str) -> bool:
        asked_at = self._told_nothing_at.get(canonical_name(model), -AGAIN_SECONDS)
        known = isinstance(self.trained(model), int)
        return bool(model) and not known and self._clock() - asked_at >= AGAIN_SECONDS

    def trained(self, model: str) -> int | Unavailable:
        """The longest context that a model was trained for, as last told."""
        return self._trained.get(canonical_name(model), _NOT_ASKED)

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last asked."""
        return self._version

    def _begin(self, what: str, ask: Callable[[], None]) -> asyncio.Task[None]:
        """Ask in a thread, once at a time."""
        task = self._asking.get(what)
        if task is None:
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(ask))
            self._asking[what] = task
            task.add_done_callback(lambda _task: self._asking.pop(what))
        return task

    def _ask_trained(self, model: str) -> None:
        tokens = self._client.trained_tokens(model, _ANSWER_SECONDS)
        if not isinstance(tokens, int):
            self._told_nothing_at[canonical_name(model)] = self._clock()
        if isinstance(tokens, int) or canonical_name(model) not in self._trained:
            self._trained[canonical_name(model)] = tokens

    def _ask_version(self) -> None:
        self._version = self._client.version(_ANSWER_SECONDS)
        self._version_asked_at = self._clock()
