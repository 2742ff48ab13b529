"""Loading a model ahead, and having the head of a prompt evaluated ahead, without ever being in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.chat.body import Head, loading, runner_options
from aider_guard.core.chat.events import ModelWarmed
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import ModelsRead
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.names import canonical_name
from aider_guard.sidecar.door.asking import Asking
from aider_guard.sidecar.door.errands import Errands
from aider_guard.sidecar.door.evaluating import Evaluated, evaluate
from aider_guard.sidecar.door.reloading import Noticing
from aider_guard.sidecar.door.residents import Resident, Residents, keep_alive, listed

if TYPE_CHECKING:
    from aider_guard.core.events import Event

DROPPED: Final = "a request came first, or the end"
# Who leaves while the model is loaded leaves it behind for so long, where closing the connection
# does not end the load.
LOADING_KEEP_ALIVE: Final = "2m"


@dataclass(frozen=True)
class Place:
    """Whether a model may be loaded now: ``problem`` says why not, ``loaded`` that it is there already."""

    problem: str = ""
    loaded: bool = False


def place(
    reading: ModelsReading | Unavailable,
    model: str,
    window_tokens: int,
    residents: Iterable[Resident],
    also_ours: Iterable[str] = (),
) -> Place:
    """Never a place that somebody else's model has: all others in the list must be this session's own."""
    if isinstance(reading, Unavailable):
        return Place(reading.reason)
    ours = {canonical_name(one.name): one for one in residents if one.loaded}
    mine = canonical_name(model)
    allowed = {*ours, mine, *map(canonical_name, also_ours)}
    for other in reading.models:
        if canonical_name(other.name) not in allowed:
            return Place(f"{other.name} is loaded already, by another program")
    found = listed(reading, model)
    if found is None:
        return Place()
    held = ours.get(mine)
    if held is not None:
        differs = held.entry is not None and held.entry.differs(found)
        return Place(_other(model)) if differs else Place(loaded=True)
    # Before 0.10 the window is not told: what another program works with is left to it.
    return Place(loaded=True) if found.window_tokens == window_tokens else Place(_other(model))


def _other(model: str) -> str:
    return f"{model} is loaded already, by another program and with a window of its own"


@dataclass(frozen=True)
class Warmer:
    """Does the errands of one residency."""

    client: OllamaClient
    asking: Asking
    residents: Residents
    errands: Errands
    noticing: Noticing
    emit: Callable[[Event], None]
    clock: Callable[[], float]

    async def warm(
        self, model: str, head: Head | None, settings: DoorSettings, ours: Sequence[str] = ()
    ) -> None:
        """Load a model, and have the head evaluated if it was not there before. Tells of each."""
        started_at = self.clock()
        try:
            found = await self._look(model, settings, ours)
            if not found.problem and not found.loaded:
                found = Place(await self._load(model, settings))
                fresh = not found.problem
            else:
                fresh = False
        except asyncio.CancelledError:
            self.emit(ModelWarmed(model, "load", self.clock() - started_at, problem=DROPPED))
            raise
        seconds = self.clock() - started_at if fresh else 0.0
        self.emit(ModelWarmed(model, "load", seconds, problem=found.problem))
        if fresh and head is not None and not self.errands.joined:
            await self._evaluate(model, head)

    async def renew(self, residents: Sequence[Resident], settings: DoorSettings) -> None:
        """Have Ollama keep these models for as long again."""
        async with self.asking.opened() as post:
            for resident in residents:
                # Whether it succeeds or not: of a server that is down the next request tells.
                resident.touched_at = self.clock()
                wanted = keep_alive(resident, settings)
                body = loading(resident.name, resident.options, settings, wanted)
                await post("/api/generate", body)

    async def _look(self, model: str, settings: DoorSettings, ours: Sequence[str]) -> Place:
        reading = await asyncio.to_thread(self.client.loaded_models)
        # First of all, so that the guard knows what others had loaded before.
        self.emit(ModelsRead(reading))
        self.residents.take(reading)
        found = place(reading, model, settings.window_tokens, self.residents.all, ours)
        if found.problem or found.loaded:
            return found
        elsewhere = await asyncio.to_thread(self.noticing.looking.remote_host, model)
        if isinstance(elsewhere, Unavailable):
            return Place(elsewhere.reason)
        return Place(f"{model} runs on {elsewhere}, not here" if elsewhere else "")

    async def _load(self, model: str, settings: DoorSettings) -> str:
        """What went wrong, or nothing."""
        resident, started_at = self.residents.get(model), self.clock()
        wanted = None if settings.user_keep_alive else LOADING_KEEP_ALIVE
        body = loading(resident.name, resident.options, settings, wanted)
        options = runner_options(body)
        async with self.asking.opened() as post:
            with self.errands.loading(model, options):
                answer = await post("/api/generate", body)
            if isinstance(answer, Unavailable):
                return answer.reason
            now = self.clock()
            resident.hold(now, options, now - started_at)
            await self.noticing.note()
            if wanted is not None:
                await self.renew([resident], settings)
        return ""

    async def _evaluate(self, model: str, head: Head) -> None:
        started_at, found = self.clock(), Evaluated()
        try:
            async with self.asking.opened() as post:
                await evaluate(post, head, self.clock, found)
        except asyncio.CancelledError:
            found.problem = DROPPED
            raise
        finally:
            seconds = self.clock() - started_at
            self.emit(ModelWarmed(model, "head", seconds, found.tokens, found.problem))
