"""Loading a model ahead, and having the head of a prompt evaluated ahead, without ever being in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from aider_guard.core.chat.body import PromptHead, loading_body, runner_options
from aider_guard.core.chat.events import ModelWarmed
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import ModelsRead
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.door.loaded_models import LoadedModels, SessionModel, keep_alive, listed
from aider_guard.door.reload_cause import ReloadWatch
from aider_guard.ollama import client
from aider_guard.ollama import client as ollama_client
from aider_guard.ollama.client import OllamaClient, verification

if TYPE_CHECKING:
    from aider_guard.core.events import Event

# Asking Ollama for something that nobody waits for, over connections that close when it is cancelled.

# A load ends by itself after 5 minutes (OLLAMA_LOAD_TIMEOUT).
_TIMEOUT: Final = httpx.Timeout(600.0, connect=2.0)

Post = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any] | Unavailable]]
"""Sends a body to a path of Ollama's; its answer, or why there is none."""


def connection(base: str) -> httpx.AsyncClient:
    """A client for a few requests: no proxy, no redirect, no certificates where they are not needed."""
    return httpx.AsyncClient(
        trust_env=False,
        verify=verification(base),
        follow_redirects=False,
        timeout=_TIMEOUT,
    )


@dataclass(frozen=True)
class PrewarmRequests:
    """One Ollama."""

    base: str
    connect: Callable[[], httpx.AsyncClient]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Post]:
        """Connections for one errand; closed afterwards, also when it is cancelled."""
        async with self.connect() as client:

            async def post(path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unavailable:
                return await _post(client, self.base, path, body)

            yield post


async def _post(
    client: httpx.AsyncClient, base: str, path: str, body: Mapping[str, Any]
) -> dict[str, Any] | Unavailable:
    try:
        response = await client.post(base + path, json=dict(body))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return Unavailable(f"Ollama cannot be reached ({str(error) or type(error).__name__})")
    if response.status_code != httpx.codes.OK:
        return Unavailable(ollama_client.refusal(response.status_code, response.content, path))
    match ollama_client.json_object(response.content):
        case {"error": str(words)}:
            return Unavailable(f"Ollama refused {path}: {ollama_client.printable(words)[:200]}")
        case dict(answer):
            return answer
    return Unavailable(f"Ollama answered {path} in a form that is not its own")


# Having the head of a prompt evaluated ahead, in pieces small enough that nobody waits for one.

PIECE_SECONDS: Final = 0.5
"""How long a piece shall take: Ollama finishes one that it has begun, also when its client went away."""
FIRST_CHARACTERS: Final = 128
"""The smallest piece, about 40 tokens: each costs some ten more, of the template and of the answer."""
ANEW: Final = "Ollama does not keep what it has evaluated of this model's prompts"
_GROWTH: Final = 4
_SIGNS: Final = 3


@dataclass
class Evaluation:
    """How much of a head was evaluated so far, and why not more."""

    tokens: int = 0
    problem: str = ""


@dataclass
class _Pace:
    """How fast it goes, in characters a second."""

    best: float = 0.0
    signs: int = 0
    """Pieces in a row that took as long as all of the head so far might."""

    def note(self, done: int, end: int, seconds: float) -> float:
        """The speed of this piece."""
        speed = (end - done) / seconds
        suspect = end >= 4 * (end - done) and seconds * self.best > end / 2
        self.signs = self.signs + 1 if suspect else 0
        self.best = max(self.best, speed)
        return speed


@dataclass(frozen=True)
class _Pieces:
    """Sends beginnings of a head."""

    post: Post
    head: PromptHead
    clock: Callable[[], float]
    found: Evaluation

    async def seconds(self, end: int) -> float | None:
        """How long this beginning took; None when it was refused."""
        started_at = self.clock()
        answer = await self.post(self.head.path, self.head.beginning(end))
        if isinstance(answer, Unavailable):
            self.found.problem = answer.reason
            return None
        tokens = answer.get("prompt_eval_count")
        self.found.tokens = tokens if client.is_count(tokens) else self.found.tokens
        return max(self.clock() - started_at, 0.001)

    async def are_kept(self, end: int, seconds: float) -> bool:
        """Whether the beginning that took so long takes less the second time: a busy machine looks alike at first."""
        again = await self.seconds(end)
        if again is not None and again > seconds / 2:
            self.found.problem = ANEW
        return not self.found.problem


async def evaluate(
    post: Post, head: PromptHead, clock: Callable[[], float], found: Evaluation
) -> None:
    """Have a head evaluated; ``found`` is kept up to date, as the task may be cancelled at any time.

    Stops where each piece is evaluated from the beginning, as a cache that cannot be cut back (recurrent layers, some
    sliding windows) makes it: that would take longer than to evaluate it once.
    """
    pieces, pace = _Pieces(post, head, clock, found), _Pace()
    done, size = 0, FIRST_CHARACTERS
    while done < head.characters:
        end = min(head.characters, done + size)
        seconds = await pieces.seconds(end)
        if seconds is None:
            return
        speed = pace.note(done, end, seconds)
        if pace.signs >= _SIGNS:
            if not await pieces.are_kept(end, seconds):
                return
            pace = _Pace()
        done = end
        size = int(min(max(speed * PIECE_SECONDS, FIRST_CHARACTERS), size * _GROWTH))


# Work for nobody in particular: one errand at a time, and it ends when somebody comes.


@dataclass
class BackgroundTasks:
    """Tasks on the door's event loop."""

    joined: bool = False
    """Whether a request waits for the same model that the errand has loaded."""
    _task: asyncio.Task[None] | None = None
    _loading: tuple[str, Mapping[str, Any]] | None = None
    _besides: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._task is not None and not self._task.done()

    def send(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin an errand. Only when none is under way."""
        self.joined = False
        self._task = self.besides(work)

    def besides(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that is in nobody's way. What it raises is a bug, and told as one."""
        task = asyncio.get_running_loop().create_task(work)
        self._besides.add(task)
        task.add_done_callback(self._over)
        return task

    @contextmanager
    def loading(self, model: str, options: Mapping[str, Any]) -> Iterator[None]:
        """While Ollama loads this model with these options for the errand."""
        self._loading = (model, dict(options))
        try:
            yield
        finally:
            self._loading = None

    def is_loading(self, model: str, options: Mapping[str, Any] | None = None) -> bool:
        """Whether a model is being loaded, with these options if they matter."""
        if self._loading is None:
            return False
        name, with_options = self._loading
        return same_model(name, model) and options in (None, with_options)

    async def drop(self) -> None:
        """End what is under way; back when its connection is closed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _over(self, task: asyncio.Task[None]) -> None:
        self._besides.discard(task)
        if not task.cancelled():
            task.result()  # raises in the loop's own handler, which prints it


DROPPED: Final = "a request came first, or the end"
# Who leaves while the model is loaded leaves it behind for so long, where closing the connection
# does not end the load.
LOADING_KEEP_ALIVE: Final = "2m"


@dataclass(frozen=True)
class LoadDecision:
    """Whether a model may be loaded now: ``problem`` says why not, ``loaded`` that it is there already."""

    problem: str = ""
    loaded: bool = False


def place(
    reading: ModelsReading | Unavailable,
    model: str,
    window_tokens: int,
    residents: Iterable[SessionModel],
    also_ours: Iterable[str] = (),
) -> LoadDecision:
    """Never a place that somebody else's model has: all others in the list must be this session's own."""
    if isinstance(reading, Unavailable):
        return LoadDecision(reading.reason)
    loaded = [resident for resident in residents if resident.loaded]
    ours = (model, *(resident.name for resident in loaded), *also_ours)
    for other in reading.models:
        if not any(same_model(other.name, name) for name in ours):
            return LoadDecision(f"{other.name} is loaded already, by another program")
    found = listed(reading, model)
    if found is None:
        return LoadDecision()
    held = next((resident for resident in loaded if same_model(resident.name, model)), None)
    if held is not None:
        differs = held.entry is not None and held.entry.differs(found)
        return LoadDecision(_other(model)) if differs else LoadDecision(loaded=True)
    # Before 0.10 the window is not told: what another program works with is left to it.
    return (
        LoadDecision(loaded=True)
        if found.window_tokens == window_tokens
        else LoadDecision(_other(model))
    )


def _other(model: str) -> str:
    return f"{model} is loaded already, by another program and with a window of its own"


@dataclass(frozen=True)
class Prewarmer:
    """Does the errands of one residency."""

    client: OllamaClient
    asking: PrewarmRequests
    residents: LoadedModels
    errands: BackgroundTasks
    noticing: ReloadWatch
    emit: Callable[[Event], None]
    clock: Callable[[], float]

    async def warm(
        self, model: str, head: PromptHead | None, settings: DoorSettings, ours: Sequence[str] = ()
    ) -> None:
        """Load a model, and have the head evaluated if it was not there before. Tells of each."""
        started_at = self.clock()
        try:
            found = await self._look(model, settings, ours)
            if not found.problem and not found.loaded:
                found = LoadDecision(await self._load(model, settings))
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

    async def renew(self, residents: Sequence[SessionModel], settings: DoorSettings) -> None:
        """Have Ollama keep these models for as long again."""
        async with self.asking.opened() as post:
            for resident in residents:
                # Whether it succeeds or not: of a server that is down the next request tells.
                resident.touched_at = self.clock()
                wanted = keep_alive(resident, settings)
                body = loading_body(resident.name, resident.options, settings, wanted)
                await post("/api/generate", body)

    async def _look(self, model: str, settings: DoorSettings, ours: Sequence[str]) -> LoadDecision:
        reading = await asyncio.to_thread(self.client.loaded_models)
        # First of all, so that the guard knows what others had loaded before.
        self.emit(ModelsRead(reading))
        self.residents.take(reading)
        found = place(reading, model, settings.window_tokens, self.residents.all, ours)
        if found.problem or found.loaded:
            return found
        elsewhere = await asyncio.to_thread(self.noticing.looking.remote_host, model)
        if isinstance(elsewhere, Unavailable):
            return LoadDecision(elsewhere.reason)
        return LoadDecision(f"{model} runs on {elsewhere}, not here" if elsewhere else "")

    async def _load(self, model: str, settings: DoorSettings) -> str:
        """What went wrong, or nothing."""
        resident, started_at = self.residents.get(model), self.clock()
        wanted = None if settings.user_keep_alive else LOADING_KEEP_ALIVE
        body = loading_body(resident.name, resident.options, settings, wanted)
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

    async def _evaluate(self, model: str, head: PromptHead) -> None:
        started_at, found = self.clock(), Evaluation()
        try:
            async with self.asking.opened() as post:
                await evaluate(post, head, self.clock, found)
        except asyncio.CancelledError:
            found.problem = DROPPED
            raise
        finally:
            seconds = self.clock() - started_at
            self.emit(ModelWarmed(model, "head", seconds, found.tokens, found.problem))
