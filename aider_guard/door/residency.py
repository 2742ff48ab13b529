"""Keeps the session's models in memory, loads them ahead, and reports when one had to be loaded again.

Everything runs on the door's event loop, but for ``observe`` and ``release``.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from aider_guard.core.chat.body import SHIFT, head_of, may_have_head
from aider_guard.core.chat.events import ModelWarmed
from aider_guard.core.chat.next_prompt import NextPrompt
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.events import Event, ModelsRead, ServerRead
from aider_guard.core.model_names import same_model
from aider_guard.core.ollama_versions import era_of
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.reloads import ReloadEvidence, is_load, stay_seconds
from aider_guard.door.loaded_models import (
    LoadedModels,
    SessionModel,
    find_listed,
    keep_alive,
    pinned_options,
)
from aider_guard.door.prewarm import (
    CANCELLED,
    BackgroundTasks,
    Prewarmer,
    PrewarmRequests,
    http_client,
)
from aider_guard.door.read_ahead import ReadAhead
from aider_guard.door.reload_cause import ReloadInspector, ReloadWatch
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    import httpx

RENEW_SECONDS: Final = 600.0
"""A third of the 30 minutes that each request asks for: one renewal may fail."""
# After a meeting or a meal the model is still loaded. Over night the card and its electricity are
# left to others: in the morning the user waits for one load.
AWAY_SECONDS: Final = 4 * 3600.0


def is_due(
    model: SessionModel, reading: ModelsReading | Unavailable, now: float, last_request_at: float
) -> bool:
    """Return whether to renew the stay of a model: only while Ollama lists it as this session loaded it."""
    is_away = now - last_request_at > AWAY_SECONDS
    if not model.loaded or is_away or now - model.renewed_at < RENEW_SECONDS:
        return False
    listed = find_listed(reading, model.name)
    return listed is not None and model.entry is not None and not model.entry.differs(listed)


NOT_YET: Final = Unavailable("Ollama has not been asked yet")
RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class _RunningRequest:
    """A request of Aider's that is not finished. It holds the request, so that the request's id stays its own."""

    request: ChatRequest
    started_at: float
    was_loaded: bool
    idle_seconds: float
    before: tuple[ModelsReading | Unavailable, ...]


class OllamaResidency:
    """Keeps the session's models in one Ollama's memory (``interfaces.Residency``).

    Args:
        client: Asks for lists and facts, in threads.
        emit: Takes events, in the loop's thread.
        connect: Makes the HTTP clients of background tasks.
        inspector: Looks up evidence for the cause of a reload.
        clock: Monotonic seconds.
        why_rest: Says why nothing should be read ahead now, "" for no reason; called in threads.
    """

    def __init__(
        self,
        client: OllamaClient,
        emit: Callable[[Event], None],
        *,
        connect: Callable[[], httpx.AsyncClient] | None = None,
        inspector: ReloadInspector | None = None,
        clock: Callable[[], float] = time.monotonic,
        why_rest: Callable[[], str] = lambda: "",
    ) -> None:
        base = client.base_url
        self._emit, self._clock = emit, clock
        self._tasks, self._loaded_models = BackgroundTasks(), LoadedModels()
        self._reload_watch = ReloadWatch(inspector or ReloadInspector(client), emit)
        requests = PrewarmRequests(base, connect or (lambda: http_client(base, client.headers)))
        self._read_ahead = ReadAhead(
            client,
            requests,
            self._loaded_models,
            self._tasks,
            emit,
            clock,
            why_rest,
            is_idle=lambda: not self._running,
            version=lambda: self.version,
        )
        self._prewarmer = Prewarmer(
            client,
            requests,
            self._loaded_models,
            self._tasks,
            self._reload_watch,
            emit,
            clock,
        )
        self._readings: queue.SimpleQueue[ModelsRead | ServerRead | NextPrompt | Unavailable]
        self._readings = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settings: DoorSettings | None = None
        self.version: str | Unavailable = NOT_YET
        """The version of this Ollama, as last read."""
        self._running: dict[int, _RunningRequest] = {}
        self._last_chat: ChatRequest | None = None
        self._last_request_at = clock()

    def observe(self, event: object) -> None:
        """Take in what the polls read of Ollama. From any thread, with any event."""
        if isinstance(event, ModelsRead | ServerRead):
            self._put(event)

    def expect(self, told: NextPrompt | Unavailable) -> None:
        """Take in what Aider tells of its next prompt. From any thread."""
        self._put(told)

    def _put(self, taken: ModelsRead | ServerRead | NextPrompt | Unavailable) -> None:
        self._readings.put(taken)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._catch_up)

    def serve(self, settings: DoorSettings) -> None:
        """Take the session's models and their pin."""
        self._loop, self._settings = asyncio.get_running_loop(), settings
        self._read_ahead.settings = settings
        for role in settings.roles:
            model = self._loaded_models.get(role.model)
            if not role.path and not model.options:
                model.options = {option.name: option.value for option in role.runner_options}
        self._catch_up()

    def read_ahead_tokens(self, request: ChatRequest, upstream: Upstream) -> int:
        """Return with how many tokens that were read ahead for it a running request begins, 0 where none were."""
        return self._read_ahead.known_tokens(request, upstream)

    def loaded_window(self, model: str) -> int | Unavailable:
        """Return the window that Ollama has loaded for a model, as last read."""
        reading = self._loaded_models.newest
        if isinstance(reading, Unavailable):
            return reading
        listed = find_listed(reading, model)
        return listed.window_tokens if listed else Unavailable(f"{model} is not loaded")

    def warm(self, session_models: Sequence[str] = ()) -> None:
        """See ``interfaces.Residency``. ``session_models`` are those that a sidecar before this one has loaded."""
        settings = self._settings
        roles = settings.roles if settings is not None else ()
        model = next((role.model for role in roles if role.role == "main" and not role.path), "")
        if settings is not None and model and self._read_ahead.is_reading:
            self._tasks.start_side_task(self._warm_instead(session_models))
            return
        if settings is None or not model or self._tasks.busy:
            return
        if self._running:
            self._emit(ModelWarmed(model, "load", problem=CANCELLED))
            return
        last, head = self._last_chat, None
        ollama = next((up for up in settings.upstreams if up.kind == "ollama"), None)
        # To evaluate the head of another model's request would load that model.
        may_read = not self._read_ahead.is_expecting
        if may_read and last is not None and ollama is not None and same_model(last.model, model):
            head = head_of(last, settings, ollama, self.version)  # with today's pin
        warm = partial(self._prewarmer.warm, model, head, settings, session_models)
        self._tasks.start(self._read_ahead.after(warm))

    async def _warm_instead(self, session_models: Sequence[str]) -> None:
        """Load the model in place of what is read ahead, which is begun again after it."""
        await self._tasks.cancel()
        self.warm(session_models)

    async def wait_for_load(self, request: ChatRequest, upstream: Upstream) -> bool:
        """See ``interfaces.Residency``."""
        settings = self._settings
        if not _is_ours(upstream) or settings is None:
            return False
        is_loading = self._tasks.is_loading(request.model, pinned_options(request, settings))
        if is_loading:
            await self._tasks.join()
        return is_loading

    async def on_request_start(self, request: ChatRequest, upstream: Upstream) -> None:
        """Make way for a request: cancel the background task, and wait until its connection is closed.

        Only a load of the very same model goes on: Ollama lets the request wait for it, and would begin anew if the
        client that first asked for it were gone.
        """
        settings = self._settings
        if not _is_ours(upstream) or settings is None:
            return
        now, model = self._clock(), self._loaded_models.get(request.model)
        was_loaded = model.loaded and not self._tasks.is_loading(request.model)
        idle_seconds, readings = now - model.renewed_at, self._loaded_models.readings
        self._last_request_at = now
        self._read_ahead.on_request_start(request)
        self._running[id(request)] = _RunningRequest(
            request, now, was_loaded, idle_seconds, readings
        )
        if self._tasks.is_loading(request.model, pinned_options(request, settings)):
            self._tasks.is_awaited = True
            return
        try:
            await self._tasks.cancel()
        except asyncio.CancelledError:
            del self._running[id(request)]
            raise

    def on_request_end(
        self, request: ChatRequest, upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        """Remember the head of a finished request (in memory only), and report a reload with its cause."""
        running, settings = self._running.pop(id(request), None), self._settings
        if not _is_ours(upstream) or running is None or settings is None:
            return
        self._last_request_at = self._clock()
        if may_have_head(request):
            self._last_chat = request
        unloaded = running.started_at < self._loaded_models.get(request.model).unloaded_at
        if isinstance(load_seconds, float | int) and not unloaded:
            self._on_loaded(running, settings, load_seconds)
        self._read_ahead.on_request_end(request, upstream)

    def release(self, names: tuple[str, ...]) -> None:
        """Prepare for models to be unloaded: cancel the background task, and expect them to be loaded again.

        From another thread.
        """

        async def release_here() -> None:
            for name in names:
                self._loaded_models.get(name).mark_unloaded(self._clock())
            self._read_ahead.forget()
            await self._tasks.cancel()

        if self._loop is None:
            return
        future = asyncio.run_coroutine_threadsafe(release_here(), self._loop)
        try:
            future.result(RELEASE_SECONDS)
        except NotInTimeError:
            future.cancel()

    def _on_loaded(
        self, running: _RunningRequest, settings: DoorSettings, load_seconds: float
    ) -> None:
        request = running.request
        model, options = self._loaded_models.get(request.model), pinned_options(request, settings)
        if not running.was_loaded:
            self._tasks.start_side_task(self._reload_watch.record_processes())
        elif is_load(load_seconds, model.first_load_seconds):
            old = {SHIFT} if era_of(self.version).engine != "C" else set()  # no reason to load then
            evidence = ReloadEvidence(
                model=model.name,
                before=running.before,
                entry=model.entry,
                ours=tuple(known.name for known in self._loaded_models.all),
                options={name: options[name] for name in options if name not in old},
                options_before={
                    name: value for name, value in model.options.items() if name not in old
                },
                idle_seconds=running.idle_seconds,
                keep_alive_seconds=stay_seconds(keep_alive(model, settings)),
            )
            self._tasks.start_side_task(self._reload_watch.report(evidence, load_seconds))
        model.keep_alive = request.body.get("keep_alive")
        model.mark_loaded(self._clock(), options, load_seconds)

    def _catch_up(self) -> None:
        while not self._readings.empty():
            event = self._readings.get()
            if isinstance(event, ServerRead):
                self.version = event.version
            elif isinstance(event, NextPrompt | Unavailable):
                self._read_ahead.take(event)
            else:
                self._loaded_models.update(event.reading)
                self._renew()  # by this list: an older one could have a model that is gone by now

    def _renew(self) -> None:
        settings, now = self._settings, self._clock()
        if settings is None or settings.user_keep_alive or self._running or self._tasks.busy:
            return
        reading, last = self._loaded_models.newest, self._last_request_at
        due = [model for model in self._loaded_models.all if is_due(model, reading, now, last)]
        if due:
            renew = partial(self._prewarmer.renew, due, settings)
            self._tasks.start(self._read_ahead.after(renew))


def _is_ours(upstream: Upstream) -> bool:
    """Return whether it is the session's own Ollama: an entry of the user's may name another, which is not read."""
    return upstream.kind == "ollama" and not upstream.path
