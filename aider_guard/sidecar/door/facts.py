"""What Ollama tells of its models and of itself, asked before the first prompt is judged by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.readings import Unavailable
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.names import canonical_name

LEARN_SECONDS: Final = 1.0
"""How long a prompt waits for what is not known yet. Ollama answers both questions from its disk, in milliseconds."""
AGAIN_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0
_NOT_ASKED: Final = Unavailable("Ollama was not asked")


class AskedFacts:
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
