"""Which models are in memory because of this session: warmed, kept, and missed when they had to be loaded again.

Everything runs on the door's event loop, but for ``observe`` and ``release``.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.chat.body import PromptHead, head_of, may_have_head
from aider_guard.core.chat.events import ModelWarmed
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.events import ModelsRead, ServerRead
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.reloads import ReloadEvidence, is_load, stay_seconds
from aider_guard.door import prewarm
from aider_guard.door.loaded_models import (
    LoadedModels,
    SessionModel,
    asked_options,
    keep_alive,
    listed,
)
from aider_guard.door.prewarm import DROPPED, BackgroundTasks, Prewarmer
from aider_guard.door.reload_cause import ReloadInspector, ReloadWatch
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    import httpx

    from aider_guard.core.events import Event

# Keeping the session's models in memory while nobody types.

RENEW_SECONDS: Final = 600.0
"""A third of the 30 minutes that each request asks for: one renewal may fail."""
# A user who is away for a meeting or a meal comes back to a loaded model. Over night the card and
# its electricity are others': who comes back in the morning waits for one load.
AWAY_SECONDS: Final = 4 * 3600.0


def is_due(
    resident: SessionModel,
    reading: ModelsReading | Unavailable,
    now: float,
    last_request_at: float,
) -> bool:
    """Whether to renew the stay of a model: only while Ollama lists it as this session loaded it."""
    if not resident.loaded or now - resident.touched_at < RENEW_SECONDS:
        return False
    if now - last_request_at > AWAY_SECONDS:
        return False
    found = listed(reading, resident.name)
    return found is not None and resident.entry is not None and not resident.entry.differs(found)


NOT_YET: Final = Unavailable("Ollama has not been asked yet")
RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class _Running:
    """A real request under way. It holds the request, so that the request's id stays its own."""

    asked: ChatRequest
    began_at: float
    was_loaded: bool
    idle_seconds: float
    before: tuple[ModelsReading | Unavailable, ...]


class OllamaResidency:
    """The residency of one Ollama's models (services.Residency).

    Args:
        client: Asks for lists and facts, in threads.
        emit: Takes events, in the loop's thread.
        connect: Makes the connections of errands.
        looking: Finds what only the machine and Ollama's details tell.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        client: OllamaClient,
        emit: Callable[[Event], None],
        *,
        connect: Callable[[], httpx.AsyncClient] | None = None,
        looking: ReloadInspector | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        base = client.base_url
        self._emit, self._clock = emit, clock
        self._errands, self._residents = BackgroundTasks(), LoadedModels()
        self._noticing = ReloadWatch(looking or ReloadInspector(client), emit)
        self._warmer = Prewarmer(
            client,
            prewarm.PrewarmRequests(base, connect or (lambda: prewarm.connection(base))),
            self._residents,
            self._errands,
            self._noticing,
            emit,
            clock,
        )
        self._news: queue.SimpleQueue[ModelsRead | ServerRead] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settings: DoorSettings | None = None
        self._version: str | Unavailable = NOT_YET
        self._running: dict[int, _Running] = {}
        self._last_main: ChatRequest | None = None
        self._last_request_at = clock()

    def observe(self, event: object) -> None:
        """Take in what was read of Ollama anyway. From any thread, with any event."""
        if isinstance(event, ModelsRead | ServerRead):
            self._news.put(event)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._catch_up)

    def serve(self, settings: DoorSettings) -> None:
        """These are the session's models and their pin."""
        self._loop, self._settings = asyncio.get_running_loop(), settings
        for role in settings.roles:
            resident = self._residents.get(role.model)
            if not role.path and not resident.options:
                resident.options = {option.name: option.value for option in role.runner_options}
        self._catch_up()

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last read."""
        return self._version

    def loaded_window(self, model: str) -> int | Unavailable:
        """The window that Ollama has loaded for a model, as last read."""
        reading = self._residents.newest
        found = listed(reading, model)
        if found is not None:
            return found.window_tokens
        return (
            reading if isinstance(reading, Unavailable) else Unavailable(f"{model} is not loaded")
        )

    def warm(self, ours: Sequence[str] = ()) -> None:
        """Load the main model ahead, and evaluate the head of the last request ahead; in the background.

        ``ours`` are models of this session, too: those that a sidecar before this one has loaded.
        """
        settings, model = self._settings, self._main_model()
        if settings is None or not model or self._errands.busy:
            return
        if self._running:
            self._emit(ModelWarmed(model, "load", problem=DROPPED))
        else:
            head = self._head_for(model, settings)
            self._errands.send(self._warmer.warm(model, head, settings, ours))

    async def begins(self, asked: ChatRequest, upstream: Upstream) -> None:
        """A real request comes: drop what is under way for nobody, and wait until its connection is closed.

        Only a load of the very same model goes on: Ollama lets the request wait for it, and would begin anew if whoever
        asked for it first were gone.
        """
        settings = self._settings
        if not _is_ours(upstream) or settings is None:
            return
        self._running[id(asked)] = self._run(asked)
        if self._errands.is_loading(asked.model, asked_options(asked, settings)):
            self._errands.joined = True
            return
        try:
            await self._errands.drop()
        except asyncio.CancelledError:
            del self._running[id(asked)]
            raise

    def ended(
        self, asked: ChatRequest, upstream: Upstream, load_seconds: float | Unavailable
    ) -> None:
        """A request is over: it is remembered for its head (in memory only), and a reload is told with its cause."""
        running, settings = self._running.pop(id(asked), None), self._settings
        if not _is_ours(upstream) or running is None or settings is None:
            return
        self._last_request_at = self._clock()
        if may_have_head(asked):
            self._last_main = asked
        released = running.began_at < self._residents.get(asked.model).released_at
        if isinstance(load_seconds, float | int) and not released:
            self._loaded(running, settings, load_seconds)

    def release(self, names: tuple[str, ...]) -> None:
        """These are about to be unloaded: end any errand, and expect them to be loaded again. From another thread."""
        if self._loop is None:
            return
        told = asyncio.run_coroutine_threadsafe(self._release(names), self._loop)
        try:
            told.result(RELEASE_SECONDS)
        except NotInTimeError:
            told.cancel()

    async def _release(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._residents.get(name).release(self._clock())
        await self._errands.drop()

    def _head_for(self, model: str, settings: DoorSettings) -> PromptHead | None:
        """With today's pin; none where the last request was another model's, which must not be loaded by the way."""
        last = self._last_main
        upstream = next((one for one in settings.upstreams if one.kind == "ollama"), None)
        if last is None or upstream is None or not same_model(last.model, model):
            return None
        return head_of(last, settings, upstream, self._version)

    def _main_model(self) -> str:
        settings = self._settings
        if settings is None:
            return ""
        mains = [one.model for one in settings.roles if one.role == "main" and not one.path]
        return mains[0] if mains else ""

    def _run(self, asked: ChatRequest) -> _Running:
        now, resident = self._clock(), self._residents.get(asked.model)
        self._last_request_at = now
        there = resident.loaded and not self._errands.is_loading(asked.model)
        idle = now - resident.touched_at
        return _Running(asked, now, there, idle, self._residents.readings)

    def _loaded(self, running: _Running, settings: DoorSettings, load_seconds: float) -> None:
        asked = running.asked
        resident, options = self._residents.get(asked.model), asked_options(asked, settings)
        if not running.was_loaded:
            self._errands.besides(self._noticing.note())
        elif is_load(load_seconds, resident.first_load_seconds):
            evidence = ReloadEvidence(
                model=resident.name,
                before=running.before,
                entry=resident.entry,
                ours=tuple(one.name for one in self._residents.all),
                options=options,
                options_before=resident.options,
                idle_seconds=running.idle_seconds,
                keep_alive_seconds=stay_seconds(keep_alive(resident, settings)),
            )
            self._errands.besides(self._noticing.tell(evidence, load_seconds))
        resident.keep_alive = asked.body.get("keep_alive")
        resident.hold(self._clock(), options, load_seconds)

    def _catch_up(self) -> None:
        while not self._news.empty():
            event = self._news.get()
            if isinstance(event, ServerRead):
                self._version = event.version
            else:
                self._residents.take(event.reading)
                self._renew()  # by this list: an older one could have a model that is gone by now

    def _renew(self) -> None:
        settings, now = self._settings, self._clock()
        if settings is None or settings.user_keep_alive or self._running or self._errands.busy:
            return
        reading, last = self._residents.newest, self._last_request_at
        due = [one for one in self._residents.all if is_due(one, reading, now, last)]
        if due:
            self._errands.send(self._warmer.renew(due, settings))


def _is_ours(upstream: Upstream) -> bool:
    """Whether it is the session's own Ollama: an entry of the user's may name another, of which nothing is read."""
    return upstream.kind == "ollama" and not upstream.path
