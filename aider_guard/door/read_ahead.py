"""Has the next prompt evaluated while the user reads and types, and compares it with the prompt that then comes.

Everything runs on the door's event loop. One task at a time works in the background (``BackgroundTasks``); reading
ahead is one of its kinds of work, and comes after loading. It loads no model, and asks before each piece whether the
model is still loaded, so that none of another program's is pushed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.chat.body import PromptHead
from aider_guard.core.chat.events import NextPromptCompared, NextPromptUnknown, PromptReadAhead
from aider_guard.core.chat.next_prompt import (
    NextPrompt,
    Usefulness,
    compare_with_head,
    is_compared,
    known_characters,
    matched_characters,
    next_head,
    sent_prompt,
)
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.model_names import canonical_name
from aider_guard.core.ollama_versions import era_of
from aider_guard.core.readings import Unavailable
from aider_guard.door.loaded_models import LoadedModels, find_listed
from aider_guard.door.prewarm import (
    CANCELLED,
    NOT_KEPT,
    BackgroundTasks,
    HeadEvaluation,
    Post,
    PrewarmRequests,
    whose_window,
)
from aider_guard.ollama.client import OllamaClient

RETRY_SECONDS: Final = 10.0
"""How long after a reason to rest it is looked at again."""
NOT_KEPT_SECONDS: Final = 600.0
"""For how long ``auto`` does not read ahead for a model whose server kept nothing: finding out took some seconds."""
_CACHED: Final = "all of it is in the server's cache already"
_NOT_LOADED: Final = "the model is not loaded"


@dataclass
class _Expected:
    """The prompt that is expected next."""

    prompt: NextPrompt
    head: PromptHead | None = None
    evaluation: HeadEvaluation | None = None
    is_read: bool = False

    @property
    def tokens(self) -> int:
        """How much of it was evaluated so far."""
        return self.evaluation.tokens if self.evaluation is not None else 0


@dataclass(frozen=True)
class _Cached:
    """What a model's cache holds: the beginning of a prompt, and its answer, if that was a request."""

    prompt: PromptHead
    characters: int
    answered: bool = False


@dataclass
class ReadAhead:
    """Reads the next prompt ahead, for one Ollama.

    ``why_rest`` says why the machine should be left alone now, "" for no reason; it may take a second.
    """

    client: OllamaClient
    requests: PrewarmRequests
    loaded: LoadedModels
    tasks: BackgroundTasks
    emit: Callable[[PromptReadAhead | NextPromptCompared | NextPromptUnknown], None]
    clock: Callable[[], float]
    why_rest: Callable[[], str] = lambda: ""
    is_idle: Callable[[], bool] = lambda: True
    """Whether no request of Aider's is running."""
    settings: DoorSettings | None = None
    version: Callable[[], str | Unavailable] = lambda: Unavailable("it was not asked")
    is_reading: bool = False
    """Whether something is being read, or about to be."""
    _last: ChatRequest | None = None
    _expected: _Expected | None = None
    _came: _Expected | None = None
    """What was expected before the request that is running came."""
    _cached: dict[str, _Cached] = field(default_factory=dict)
    _usefulness: Usefulness = field(default_factory=Usefulness)
    _not_kept_until: dict[str, float] = field(default_factory=dict)
    """For which models the server was found to keep nothing."""
    _rested_because: str = ""
    _unknown_because: str = ""
    _retry: asyncio.TimerHandle | None = None

    @property
    def is_expecting(self) -> bool:
        """Whether the next prompt is known: then it is read instead of the head of the last one."""
        return self._expected is not None

    def take(self, told: NextPrompt | Unavailable) -> None:
        """Take what Aider tells of its next prompt, and begin to read it as soon as nothing else is done."""
        if isinstance(told, Unavailable):
            self._expected = None
            if told.reason != self._unknown_because:
                self._unknown_because = told.reason
                self.emit(NextPromptUnknown(told.reason))
            return
        self._unknown_because = ""
        if self._expected is None or self._expected.prompt != told:
            self._expected = _Expected(told)
        elif self.is_reading:
            return
        self.start()

    def forget(self) -> None:
        """Expect nothing until told again, and nothing in any cache: models are unloaded."""
        self._expected = None
        self._cached.clear()

    def start(self) -> None:
        """Begin to read what is expected, unless a request is running, or what is expected is not known or was read."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        expected = self._expected
        if expected is None or expected.is_read or not self.is_idle():
            return
        if self.tasks.busy and not self.tasks.may_be_cut:  # it is read after that
            self.tasks.is_awaited = True
        else:
            self.tasks.start_side_task(self._start_anew())

    async def _start_anew(self) -> None:
        await self.tasks.cancel()
        if self.is_idle() and not self.tasks.busy:
            self.tasks.start(self.read())

    async def after(self, work: Callable[[], Awaitable[None]]) -> None:
        """Load or renew first, then read."""
        await work()
        if self.is_idle():
            await self.read()

    async def read(self) -> None:
        """Read what is expected, in pieces, and report how much it was."""
        self.is_reading = self.tasks.may_be_cut = True
        try:
            await self._read()
        finally:
            self.is_reading = False

    async def _read(self) -> None:
        expected, settings = self._expected, self.settings
        upstream = own_upstream(settings) if settings is not None else None
        if expected is None or expected.is_read or settings is None or upstream is None:
            return
        model, head = expected.prompt.model, None
        if settings.read_ahead != "off":
            head = next_head(expected.prompt, self._last, settings, upstream, self.version())
        expected.head = head
        if head is None:
            return
        if reason := await self._why_not(model, settings):
            self._rest(model, reason)
            return
        self._rested_because = ""
        known = self._known(model, head)
        if known < head.characters:
            await self._evaluate(expected, head, known, settings)
        else:
            expected.is_read = True
            self.emit(PromptReadAhead(model, problem=_CACHED))

    def _known(self, model: str, head: PromptHead) -> int:
        cached = self._cached.get(canonical_name(model))
        if cached is None:
            return 0
        known = known_characters(head, cached.prompt, answered=cached.answered)
        return known if cached.answered else min(known, cached.characters)

    async def _why_not(self, model: str, settings: DoorSettings) -> str:
        if reason := await asyncio.to_thread(self._why_foreign, model, settings):
            return reason
        if settings.read_ahead == "on":
            return ""
        if self.clock() < self._not_kept_until.get(canonical_name(model), 0.0):
            return NOT_KEPT
        return self._usefulness.reason_to_rest or await asyncio.to_thread(self.why_rest)

    def _why_foreign(self, model: str, settings: DoorSettings) -> str:
        """Return why this model must not be asked: asking would load it, or load it anew. Blocks."""
        reading = self.client.loaded_models()
        if isinstance(reading, Unavailable):
            return reading.reason
        listed, own = find_listed(reading, model), self.loaded.get(model)
        if listed is None:
            return _NOT_LOADED
        differs = listed.window_tokens != settings.window_tokens
        if own.loaded:
            differs = own.entry is not None and own.entry.differs(listed)
        return whose_window(listed) if differs else ""

    def _rest(self, model: str, reason: str) -> None:
        """Report why nothing is read, once, and look again later."""
        if reason != self._rested_because:
            self._rested_because = reason
            self.emit(PromptReadAhead(model, problem=reason))
        if reason not in (self._usefulness.reason_to_rest, NOT_KEPT):
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self.start)

    async def _evaluate(
        self, expected: _Expected, head: PromptHead, known: int, settings: DoorSettings
    ) -> None:
        model, started_at = expected.prompt.model, self.clock()
        listed = find_listed(self.loaded.newest, model)
        windows = (settings.window_tokens, listed.window_tokens if listed is not None else 0)
        most = min((tokens for tokens in windows if isinstance(tokens, int) and tokens), default=0)
        evaluation = HeadEvaluation(head, self.clock, most_tokens=most, done=known)
        expected.evaluation = evaluation
        try:
            async with self.requests.connection() as post:
                await evaluation.run(self._while_loaded(model, settings, post))
            expected.is_read = True
        except asyncio.CancelledError:
            evaluation.problem = CANCELLED
            raise
        finally:
            name = canonical_name(model)
            self._cached[name] = _Cached(head, evaluation.done)
            if evaluation.problem == NOT_KEPT:
                self._not_kept_until[name] = self.clock() + NOT_KEPT_SECONDS
            seconds = self.clock() - started_at
            self.emit(
                PromptReadAhead(
                    *(model, evaluation.tokens, seconds, evaluation.problem),
                    cached_tokens=evaluation.known_tokens,
                )
            )

    def _while_loaded(self, model: str, settings: DoorSettings, post: Post) -> Post:
        async def post_while_loaded(
            path: str, body: Mapping[str, Any]
        ) -> dict[str, Any] | Unavailable:
            reason = await asyncio.to_thread(self._why_foreign, model, settings)
            return Unavailable(reason) if reason else await post(path, body)

        return post_while_loaded

    def on_request_start(self, request: ChatRequest) -> None:
        """Expect nothing more until told, where this is the request of the user's message."""
        if is_compared(request):
            self._came, self._expected = self._expected, None

    def known_tokens(self, request: ChatRequest, upstream: Upstream) -> int:
        """Return with how many tokens that were read ahead for it a running request begins, 0 where none were."""
        came, settings = self._came, self.settings
        if came is None or came.head is None or came.evaluation is None or settings is None:
            return 0
        read = came.evaluation.done
        matched = matched_characters(came.head, sent_prompt(request, settings, upstream))
        return came.tokens * min(matched, read) // max(1, read)

    def on_request_end(self, request: ChatRequest, upstream: Upstream) -> None:
        """Compare the request of the user's message with what was expected, remember its options and what is cached.

        Goes on reading after any other. It is not done at the start of a request, which it would hold up.
        """
        settings = self.settings
        if settings is None or request.form not in ("chat", "generate"):
            return
        compared = is_compared(request)
        # From 0.30 on the server keeps a prompt that another one takes the place of, and takes it back.
        if compared or era_of(self.version()).engine != "C":
            sent = sent_prompt(request, settings, upstream)
            cached = _Cached(sent, sent.characters, answered=True)
            self._cached[canonical_name(request.model)] = cached
            if compared:
                self._compare(request, sent)
                self._last = request
        self.start()

    def _compare(self, request: ChatRequest, sent: PromptHead) -> None:
        expected, self._came = self._came, None
        if expected is None or expected.head is None:
            return
        match = compare_with_head(expected.head, sent, request)
        self._usefulness = self._usefulness.after(match)
        self.emit(
            NextPromptCompared(
                request.model, expected.tokens, match.percent, parted_in=match.parted_in
            )
        )


def own_upstream(settings: DoorSettings) -> Upstream | None:
    """Return the session's own Ollama; an entry of the user's may name another, which is not read."""
    own = (up for up in settings.upstreams if up.kind == "ollama" and not up.path)
    return next(own, None)
