"""Knows what each Ollama has installed and tells of its models; asks in the background, and when a request waits."""

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
from aider_guard.core.server_report import Installed, find_installed, nearest_names
from aider_guard.door.interfaces import OtherModels
from aider_guard.line_process import start_thread
from aider_guard.ollama.client import ModelTraits, OllamaClient

READ_SECONDS: Final = 30.0
NOT_READ: Final = Unavailable("what is installed is not read yet")
RETRY_SECONDS: Final = 1.0
HOST_SECONDS: Final = 10.0
"""How long a server may take to say where a model runs: on a cold disk it reads the head of its file."""


@dataclass
class OllamaTags:
    """The models that one Ollama has installed, by ``/api/tags``."""

    client: OllamaClient
    read_seconds: float = READ_SECONDS
    sleep: Callable[[float], None] = time.sleep
    installed: Installed = field(default=NOT_READ, init=False)
    _hosts: dict[str, str] = field(default_factory=dict, init=False)
    """Hosts of models that are not listed, as the server gave them, until the next list."""
    _reading: bool = field(default=False, init=False)

    def start(self) -> None:
        """Read the list from now on, every half minute, and soon where that failed."""

        def read_for_ever() -> None:
            while True:
                self.sleep(self.read_seconds if self.read() else RETRY_SECONDS)

        if not self._reading:
            self._reading = True
            start_thread("installed models", read_for_ever)

    def read(self) -> bool:
        """Read the list once. When the server does not answer (False), the one before stays known."""
        answer = self.client.installed()
        if isinstance(answer, Unavailable):
            return False
        self.installed, self._hosts = answer, {}
        return True

    async def host_of(self, model: str) -> str | Unavailable | None:
        """Return the host of a model: as it is listed, else as it was last given, else as the server says now."""
        listed = find_installed(model, self.installed)
        if listed is not None:
            return listed.remote_host
        known_host = self._hosts.get(canonical_name(model))
        return await self.host_now(model) if known_host is None else known_host

    async def host_now(self, model: str) -> str | Unavailable | None:
        """Return the host of a model as the server says now. None is not remembered: the model may come any moment."""
        if not model.strip():
            return None
        answer = await asyncio.to_thread(self.client.whereabouts, model, HOST_SECONDS)
        if isinstance(answer, str):
            self._hosts[canonical_name(model)] = answer
        return answer


class InstalledModelsByServer:
    """The installed models of each Ollama that the door leads to (``interfaces.InstalledModels``)."""

    def __init__(
        self,
        make: Callable[[Upstream], OllamaTags] = lambda upstream: OllamaTags(
            OllamaClient(upstream.base, headers=upstream.headers)
        ),
        others: OtherModels | None = None,
    ) -> None:
        self._make, self._others = make, others
        self._tags: dict[str, OllamaTags] = {}

    def serve(self, settings: DoorSettings) -> None:
        """Read the lists of these servers from now on."""
        for upstream in settings.upstreams:
            if upstream.kind == "ollama":
                self.of(upstream).start()

    def of(self, upstream: Upstream) -> OllamaTags:
        """Return the installed models of one Ollama."""
        if upstream.base not in self._tags:
            self._tags[upstream.base] = self._make(upstream)
        return self._tags[upstream.base]

    async def host_of(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Return the host that runs a model: "" for its server itself, None if Ollama has not installed it.

        A server that is no Ollama may pass requests on, and says so (llama-swap's peers).
        """
        if upstream.kind == "ollama":
            return await self.of(upstream).host_of(model)
        described = await self._others.describe(upstream, model) if self._others else None
        return described.elsewhere if described else ""

    async def host_now(self, upstream: Upstream, model: str) -> str | Unavailable | None:
        """Return the same as the server says now; None on a server that is no Ollama."""
        return await self.of(upstream).host_now(model) if upstream.kind == "ollama" else None

    async def reread(self, upstream: Upstream) -> None:
        """Read an Ollama's list now; one that does not answer within a second is read later."""
        if upstream.kind == "ollama":
            await asyncio.wait(
                [asyncio.ensure_future(asyncio.to_thread(self.of(upstream).read))],
                timeout=LEARN_SECONDS,
            )

    def never_truncates(self, upstream: Upstream, model: str) -> bool:
        """Return whether a model is known to be run by MLX, which refuses long prompts (x/mlxrunner/pipeline.go)."""
        listed = find_installed(model, self._installed(upstream))
        return listed is not None and listed.format == "safetensors"

    def similar_names(self, upstream: Upstream, model: str) -> tuple[str, ...]:
        """Return installed models of a similar name, nearest first; none when nothing is known."""
        return nearest_names(model, self._installed(upstream))

    def _installed(self, upstream: Upstream) -> Installed:
        tags = self._tags.get(upstream.base)
        return NOT_READ if tags is None else tags.installed


LEARN_SECONDS: Final = 1.0
"""How long a prompt waits for what is not known yet. Ollama answers both questions from its disk, in milliseconds."""
AGAIN_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0
_NOT_ASKED: Final = Unavailable("Ollama was not asked")
_UNKNOWN: Final = ModelTraits(_NOT_ASKED)


class OllamaModelInfo:
    """Asks Ollama for its version and its models' contexts before the first prompt is judged by them.

    It implements ``interfaces.ModelInfo`` by ``/api/show`` and ``/api/version``, on the door's event loop.
    """

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
        self._unanswered_at: dict[str, float] = {}
        self._version_asked_at = float("-inf")
        self._traits: dict[str, ModelTraits] = {}
        self.version: str | Unavailable = _NOT_ASKED
        """The version of this Ollama, as last read."""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def serve(self, settings: DoorSettings) -> None:
        """Ask about the session's models anew: one may have been pulled or made again under its name."""
        paths = {upstream.path for upstream in settings.upstreams if upstream.kind == "ollama"}
        for role in settings.roles:
            if role.path in paths:
                self._start(canonical_name(role.model), partial(self._ask_trained, role.model))

    async def learn(self, model: str, *, version: bool) -> None:
        """Ask for what is not known. What a server does not tell is asked again after a while."""
        tasks, name, now = [], canonical_name(model), self._clock()
        asked_at = self._unanswered_at.get(name, -AGAIN_SECONDS)
        is_known = isinstance(self.trained(model), int)
        if model and not is_known and now - asked_at >= AGAIN_SECONDS:
            tasks.append(self._start(name, partial(self._ask_trained, model)))
        if version and now - self._version_asked_at >= AGAIN_SECONDS:
            tasks.append(self._start("", self._ask_version))
        if tasks:
            await asyncio.wait(tasks, timeout=self._learn_seconds)

    def trained(self, model: str) -> int | Unavailable:
        """Return the longest context that a model was trained for, as last read, in tokens."""
        return self._traits.get(canonical_name(model), _UNKNOWN).trained_tokens

    def thinks(self, model: str) -> bool:
        """Return whether a model can think before it answers, as last read; False where it is not known."""
        return self._traits.get(canonical_name(model), _UNKNOWN).thinks

    def goes_back(self, model: str) -> bool:
        """Return whether a model's cache can be cut back to a common beginning; True where that is not known."""
        return self._traits.get(canonical_name(model), _UNKNOWN).goes_back

    def even_tokens(self, model: str) -> float | Unavailable:
        """Return behind how many tokens a model's attention takes as long as its weights."""
        return self._traits.get(canonical_name(model), _UNKNOWN).even_tokens

    def _start(self, key: str, ask: Callable[[], None]) -> asyncio.Task[None]:
        """Ask in a thread, one at a time for each key."""
        if key not in self._tasks:
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(ask))
            task.add_done_callback(lambda _task: self._tasks.pop(key))
            self._tasks[key] = task
        return self._tasks[key]

    def _ask_trained(self, model: str) -> None:
        traits, name = self._client.traits(model, _ANSWER_SECONDS), canonical_name(model)
        is_told = isinstance(traits.trained_tokens, int)
        if not is_told:
            self._unanswered_at[name] = self._clock()
        if is_told or name not in self._traits:
            self._traits[name] = traits

    def _ask_version(self) -> None:
        self.version = self._client.version(_ANSWER_SECONDS)
        self._version_asked_at = self._clock()
