"""Loads a model ahead, and has the head of its prompt evaluated ahead, while no request waits for Ollama."""

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
from functools import partial
from typing import Any, Final

import httpx

from aider_guard.core.chat.body import PromptHead, loading_body, runner_options
from aider_guard.core.chat.events import ModelWarmed
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.events import Event, ModelsRead
from aider_guard.core.model_names import same_model
from aider_guard.core.printable import printable
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.door.loaded_models import LoadedModels, SessionModel, find_listed, keep_alive
from aider_guard.door.reload_cause import ReloadWatch
from aider_guard.ollama.access import Headers
from aider_guard.ollama.client import OllamaClient, is_count
from aider_guard.ollama.http import Answer, json_object, refusal, verification
from aider_guard.ollama.names import display_base

# A load ends by itself after 5 minutes (OLLAMA_LOAD_TIMEOUT).
_TIMEOUT: Final = httpx.Timeout(600.0, connect=2.0)

Post = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any] | Unavailable]]
"""Sends a body to a path of Ollama's; returns its answer, or why there is none."""


def http_client(base: str, headers: Headers = ()) -> httpx.AsyncClient:
    """Return a client for a few requests: no proxy, no redirect, no certificates where they are not needed."""
    return httpx.AsyncClient(
        headers=headers,
        trust_env=False,
        verify=verification(base),
        follow_redirects=False,
        timeout=_TIMEOUT,
    )


@dataclass(frozen=True)
class PrewarmRequests:
    """Sends requests to one Ollama, over connections that close when the task is cancelled."""

    base: str
    connect: Callable[[], httpx.AsyncClient]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Post]:
        """Open connections for one task; they are closed afterwards, also when it is cancelled."""
        async with self.connect() as client:
            yield partial(_post, client, self.base)


async def _post(
    client: httpx.AsyncClient, base: str, path: str, body: Mapping[str, Any]
) -> dict[str, Any] | Unavailable:
    try:
        response = await client.post(base + path, json=dict(body))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return Unavailable(f"Ollama cannot be reached ({str(error) or type(error).__name__})")
    if response.status_code != httpx.codes.OK:
        refused = Answer(response.status_code, response.content)
        return refusal(refused, display_base(base), path).plain
    match json_object(response.content):
        case {"error": str(words)}:
            return Unavailable(f"Ollama refused {path}: {printable(words)[:200]}")
        case dict(answer):
            return answer
    return Unavailable(f"Ollama answered {path} in a form that is not its own")


PIECE_SECONDS: Final = 1.0
"""How long a piece shall take: Ollama finishes one that it has begun, even if its client closes the connection.

Only a request that does not begin with it loses that time. Smaller pieces cost all others more: on two cores, half
seconds made a reading of 5 s one of 7 s.
"""
SLOW_PIECE_SECONDS: Final = 2.0
"""How long one may take that would be smaller than ``FULL_TOKENS`` otherwise: a slow model reads few tokens at once no
faster than many. With pieces of half a second gemma3-270m took 60 s on one core for what takes 32 s at once.
"""
FULL_TOKENS: Final = 256
FIRST_CHARACTERS: Final = 128
"""The smallest piece, about 40 tokens: each costs some ten more, of the template and of the answer."""
NOT_KEPT: Final = "Ollama does not keep what it has evaluated of this model's prompts"
NO_ROOM: Final = "the rest does not fit the window"
_GROWTH: Final = 4
_SUSPECTS: Final = 2


@dataclass
class _Pace:
    """How fast the evaluation goes, in characters a second."""

    best: float = 0.0
    suspects: int = 0
    """Pieces in a row that took as long as all of the head so far might."""

    def update(self, done: int, end: int, seconds: float) -> float:
        """Take in how long a piece took; return its speed."""
        speed = (end - done) / seconds
        suspect = end >= 3 * (end - done) and seconds * self.best > end / 2
        self.suspects = self.suspects + 1 if suspect else 0
        self.best = max(self.best, speed)
        return speed


@dataclass
class HeadEvaluation:
    """Has the head of a prompt evaluated ahead, in pieces so small that no request waits long for one.

    ``tokens`` (how much was evaluated so far) and ``problem`` (why not more) are kept up to date, as the task may be
    cancelled at any time.
    """

    head: PromptHead
    clock: Callable[[], float]
    tokens: int = 0
    problem: str = ""
    most_tokens: int = 0
    """How many may be evaluated at most, 0 for any number: some servers cut what does not fit, and say nothing."""
    done: int = 0
    """How many characters were evaluated so far; at first, how many the server has in its cache already."""
    known_tokens: int = 0
    """How many of the tokens were in the server's cache before."""

    async def run(self, post: Post) -> None:
        """Evaluate the head, until the end or a problem.

        Stops where each piece is evaluated from the beginning, as a cache that cannot be cut back (recurrent layers,
        some sliding windows) makes it: that would take longer than to evaluate it once.
        """
        pace, size = _Pace(), FIRST_CHARACTERS
        # All that is in the cache at once: a shorter beginning would have the cache cut back.
        if self.done:
            if await self._seconds(post, self.done) is None:
                return
            self.known_tokens = self.tokens
        while self.done < self.head.characters:
            end = min(self.head.characters, self.done + size)
            if self.most_tokens and self.tokens * end > self.most_tokens * max(self.done, 1):
                self.problem = NO_ROOM
                return
            seconds = await self._seconds(post, end)
            if seconds is None:
                return
            speed = pace.update(self.done, end, seconds)
            if pace.suspects >= _SUSPECTS:
                # A busy machine looks the same at first. What is kept takes less time once more.
                again = await self._seconds(post, end)
                if again is not None and again > seconds / 2:
                    self.problem = NOT_KEPT
                if self.problem:
                    return
                pace = _Pace()
            self.done = end
            full = FULL_TOKENS * self.done / max(1, self.tokens)
            wanted = max(speed * PIECE_SECONDS, min(full, speed * SLOW_PIECE_SECONDS))
            size = int(min(max(wanted, FIRST_CHARACTERS), size * _GROWTH))

    async def _seconds(self, post: Post, end: int) -> float | None:
        """Send the beginning up to ``end``; return how long its evaluation took, None when it was refused.

        It is the server's own number where it tells one (``prompt_eval_duration``, in nanoseconds). What a piece takes
        beside it (the prompt's text, the answer's token) does not grow with the piece: sized by all of it, pieces
        would become ever smaller on a server where that is a second.
        """
        started_at = self.clock()
        answer = await post(self.head.path, self.head.beginning(end))
        if isinstance(answer, Unavailable):
            self.problem = answer.reason
            return None
        tokens = answer.get("prompt_eval_count")
        self.tokens = tokens if is_count(tokens) else self.tokens
        took, told = self.clock() - started_at, answer.get("prompt_eval_duration")
        evaluated = told / 1e9 if is_count(told) and told else took
        return max(min(evaluated, took), 0.001)


@dataclass
class BackgroundTasks:
    """Tasks on the door's event loop: one at a time that makes way for requests, and side tasks that need not."""

    is_awaited: bool = False
    """Whether a request waits for the same model that the task loads, or something better is to be read after it."""
    may_be_cut: bool = False
    """Whether the task only evaluates ahead now, and may make way for something better to be evaluated."""
    _task: asyncio.Task[None] | None = None
    _loading: tuple[str, Mapping[str, Any]] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether the task is running."""
        return self._task is not None and not self._task.done()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start the task. Only when none is running."""
        self.is_awaited = self.may_be_cut = False
        self._task = self.start_side_task(work)

    def start_side_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that delays no request. An exception in it is a bug, and is reported as one."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    @contextmanager
    def loading(self, model: str, options: Mapping[str, Any]) -> Iterator[None]:
        """Note that Ollama loads this model with these options for the task."""
        self._loading = (model, dict(options))
        try:
            yield
        finally:
            self._loading = None

    async def join(self) -> None:
        """Wait until the task has ended, well or not; it evaluates nothing ahead any more."""
        self.is_awaited = True
        if self._task is not None:
            await asyncio.wait([self._task])

    def is_loading(self, model: str, options: Mapping[str, Any] | None = None) -> bool:
        """Return whether a model is being loaded, with these options if they matter."""
        name, with_options = self._loading or ("", {})
        return bool(name) and same_model(name, model) and options in (None, with_options)

    async def cancel(self) -> None:
        """Cancel the task, and wait until its connection is closed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()  # raises in the loop's own handler, which prints it


CANCELLED: Final = "a request came first, or the end"
# A client that leaves while the model is loaded leaves it behind for so long, where closing the
# connection does not end the load.
LOADING_KEEP_ALIVE: Final = "2m"


@dataclass(frozen=True)
class LoadDecision:
    """Whether a model may be loaded now: ``problem`` says why not, ``loaded`` that it is there already."""

    problem: str = ""
    loaded: bool = False


def decide_load(
    reading: ModelsReading | Unavailable,
    model: str,
    window_tokens: int,
    known: Iterable[SessionModel],
    also_allowed: Iterable[str] = (),
) -> LoadDecision:
    """Decide whether a model may be loaded: not where another program's model might be pushed out of memory.

    All other models in the list must be this session's own.
    """
    if isinstance(reading, Unavailable):
        return LoadDecision(reading.reason)
    loaded = [session_model for session_model in known if session_model.loaded]
    allowed = (model, *(session_model.name for session_model in loaded), *also_allowed)
    for other in reading.models:
        if not any(same_model(other.name, name) for name in allowed):
            return LoadDecision(f"{other.name} is loaded already, by another program")
    listed = find_listed(reading, model)
    if listed is None:
        return LoadDecision()
    own = next((entry for entry in loaded if same_model(entry.name, model)), None)
    if own is not None:
        differs = own.entry is not None and own.entry.differs(listed)
    else:
        differs = listed.window_tokens != window_tokens
    return LoadDecision(whose_window(listed)) if differs else LoadDecision(loaded=True)


def whose_window(listed: LoadedModel) -> str:
    """Return why a loaded model is left alone: its window is another than this session's, or is not told."""
    if isinstance(listed.window_tokens, Unavailable):  # before 0.10
        return f"{listed.name} is loaded already, and Ollama does not tell with which window"
    return f"{listed.name} is loaded already, by another program and with a window of its own"


@dataclass(frozen=True)
class Prewarmer:
    """Does the background work of one residency: loads, evaluates and renews."""

    client: OllamaClient
    requests: PrewarmRequests
    loaded: LoadedModels
    tasks: BackgroundTasks
    reload_watch: ReloadWatch
    emit: Callable[[Event], None]
    clock: Callable[[], float]

    async def warm(
        self,
        model: str,
        head: PromptHead | None,
        settings: DoorSettings,
        session_models: Sequence[str] = (),
    ) -> None:
        """Load a model, and have the head evaluated if the model was not there before. Reports each."""
        started_at, fresh = self.clock(), False
        try:
            decision = await self._check(model, settings, session_models)
            if not decision.problem and not decision.loaded:
                decision = LoadDecision(await self._load(model, settings))
                fresh = not decision.problem
        except asyncio.CancelledError:
            self.emit(ModelWarmed(model, "load", self.clock() - started_at, problem=CANCELLED))
            raise
        seconds = self.clock() - started_at if fresh else 0.0
        self.emit(ModelWarmed(model, "load", seconds, problem=decision.problem))
        if fresh and head is not None and not self.tasks.is_awaited:
            await self._evaluate(model, head)

    async def renew(self, models: Sequence[SessionModel], settings: DoorSettings) -> None:
        """Have Ollama keep these models for as long again."""
        async with self.requests.connection() as post:
            for model in models:
                # Whether it succeeds or not: a server that is down is noticed by the next request.
                model.renewed_at = self.clock()
                stay = keep_alive(model, settings)
                await post("/api/generate", loading_body(model.name, model.options, settings, stay))

    async def _check(
        self, model: str, settings: DoorSettings, session_models: Sequence[str]
    ) -> LoadDecision:
        reading = await asyncio.to_thread(self.client.loaded_models)
        # First of all, so that the guard knows what others had loaded before.
        self.emit(ModelsRead(reading))
        self.loaded.update(reading)
        window, own = settings.window_tokens, self.loaded.all
        decision = decide_load(reading, model, window, own, session_models)
        if decision.problem or decision.loaded:
            return decision
        host = await asyncio.to_thread(self.reload_watch.inspector.remote_host, model)
        if isinstance(host, Unavailable):
            return LoadDecision(host.reason)
        return LoadDecision(f"{model} runs on {host}, not here" if host else "")

    async def _load(self, name: str, settings: DoorSettings) -> str:
        """Load a model; return what went wrong, or nothing."""
        model, started_at = self.loaded.get(name), self.clock()
        stay = None if settings.user_keep_alive else LOADING_KEEP_ALIVE
        body = loading_body(model.name, model.options, settings, stay)
        options = runner_options(body)
        async with self.requests.connection() as post:
            with self.tasks.loading(name, options):
                answer = await post("/api/generate", body)
            if isinstance(answer, Unavailable):
                return answer.reason
            now = self.clock()
            model.mark_loaded(now, options, now - started_at)
            await self.reload_watch.record_processes()
            if stay is not None:
                await self.renew([model], settings)
        return ""

    async def _evaluate(self, model: str, head: PromptHead) -> None:
        self.tasks.may_be_cut = True
        started_at, evaluation = self.clock(), HeadEvaluation(head, self.clock)
        try:
            async with self.requests.connection() as post:
                await evaluation.run(post)
        except asyncio.CancelledError:
            evaluation.problem = CANCELLED
            raise
        finally:
            seconds = self.clock() - started_at
            self.emit(ModelWarmed(model, "head", seconds, evaluation.tokens, evaluation.problem))
