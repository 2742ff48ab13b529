"""Follows how a model reads a prompt: tells the user of a long one, what the server knew of it, and why it read much.

A model that reads is silent, for minutes on a slow machine. Its own process says how far it is (slots.py); where that
is not seen, the time follows from how fast this model has read before, and from what the prompt before has in common.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from aider_guard.core.chat.events import (
    NOT_TOLD,
    ModelWarmed,
    PromptReadAhead,
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
)
from aider_guard.core.chat.pace import (
    KNOWN_BY,
    NO_PACE,
    PIECE_TOKENS,
    ReadingPace,
    ReadingPosition,
    ReadingSample,
    progress_words,
    seconds_left,
    still_words,
)
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.rereading import ReadEvidence, why_read
from aider_guard.core.chat.response import Usage
from aider_guard.core.chat.size import parts
from aider_guard.core.chat.types import CONVERSATION, Count, DoorSettings, Upstream
from aider_guard.core.events import Event
from aider_guard.core.ollama_versions import era_of, tells_cached, tells_window
from aider_guard.core.readings import Unavailable
from aider_guard.core.reloads import LOAD_SECONDS
from aider_guard.door.interfaces import RequestTarget
from aider_guard.door.prompt_memory import PaceStore, PromptMemory, place_of
from aider_guard.door.refusals import PromptSizing
from aider_guard.door.server_counter import LOADING
from aider_guard.door.slots import IDLE, Slot
from aider_guard.ollama.model_process import NO_PROCESS, STARTING

LOOK_AFTER_SECONDS: Final = 1.0
"""A prompt that is answered by then is not looked after at all."""
LOOK_EVERY_SECONDS: Final = 0.5
LONG_SECONDS: Final = 8.0
"""Of a prompt that takes longer to read, the user is told."""
_WORTH_SECONDS: Final = 2.0
"""Of one that is nearly read, nothing is told any more."""
_TOLD_EVERY_SECONDS: Final = 2.0
_SHOWN_EVERY_SECONDS: Final = 15.0
_LEAST_SAMPLE_SHARE: Final = 0.5
"""Where the server does not tell what it knew, a pace is learned only from prompts of which most was new."""

_UNSEEN: Final = Unavailable("this server does not show how far it has read")

Show = Callable[[str], Awaitable[None]]
"""Shows a line in Aider's own output."""


@dataclass(frozen=True)
class SentPrompt:
    """A request by its number, where it goes, and what counts its tokens."""

    number: int
    request: ChatRequest
    target: RequestTarget
    sizing: PromptSizing


class ReadingWatch:
    """Follows the prompts of one door. Used on its event loop, but for ``slots``, which blocks and runs in a thread.

    Args:
        slots: Looks at the process of a model, by server and model.
        goes_back: Whether a model's cache can be cut back to a common beginning.
        even_tokens: Behind how many tokens a model's attention takes as long as its weights.
        read_ahead: With how many tokens a request that was sent begins that were read ahead for it.
        clock: Monotonic seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        slots: Callable[[str, str], Slot | Unavailable] = lambda _base, _model: _UNSEEN,
        goes_back: Callable[[str], bool] = lambda _model: True,
        even_tokens: Callable[[str], float | Unavailable] = lambda _model: NO_PACE,
        *,
        read_ahead: Callable[[ChatRequest, Upstream], int] = lambda _request, _upstream: 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.slots, self.goes_back, self.even_tokens = slots, goes_back, even_tokens
        self.read_ahead = read_ahead
        self.clock, self.sleep = clock, sleep
        self.prompts, self.paces = PromptMemory(), PaceStore()
        self.shows_progress = False

    def serve(self, settings: DoorSettings) -> None:
        """Take the settings, and what earlier sessions have learned."""
        self.shows_progress = settings.shows_progress
        self.paces.open(settings.learned_dir)

    def observe(self, event: Event) -> None:
        """Take in what was loaded or read ahead."""
        if isinstance(event, ModelWarmed):
            self.prompts.note_ahead(event.model)
            if event.kind == "load" and event.seconds and not event.problem:
                self.prompts.note_loaded(event.model)
            else:
                self.prompts.note_read(event.model)
        elif isinstance(event, PromptReadAhead) and event.tokens:
            self.prompts.note_read(event.model)

    def open(self, sent: SentPrompt, emit: Callable[[Event], None]) -> PromptReading:
        """Begin to follow a prompt that is sent now."""
        return PromptReading(self, sent, emit)


@dataclass(frozen=True)
class _Estimate:
    position: ReadingPosition
    elapsed_seconds: float
    left_seconds: float
    known_by: KNOWN_BY

    @property
    def read_tokens(self) -> int:
        """What is read by now, also of the piece that is read just now."""
        since = self.elapsed_seconds - self.position.at_seconds
        share = since / max(since + self.left_seconds, 0.001)
        return self.position.read_tokens + round(self.position.unread_tokens * min(1.0, share))


class PromptReading:
    """Follows one prompt, from when it is sent to when its answer has ended."""

    def __init__(
        self, watch: ReadingWatch, sent: SentPrompt, emit: Callable[[Event], None]
    ) -> None:
        self._watch, self._sizing, self._emit = watch, sent.sizing, emit
        self._number, self._request, self._target = sent.number, sent.request, sent.target
        self._place = place_of(sent.request.model, sent.target.upstream)
        self._began_at = watch.clock()
        self._counted_again: Count | Unavailable | None = None
        self._task: int | None = None
        self._position: ReadingPosition | None = None
        self._looked_at: float | None = None
        self._cached_seen: int | Unavailable = NOT_TOLD
        self._estimated_seconds: float | None = None
        self._is_over = False
        self._last_look: asyncio.Task[None] | None = None

    @property
    def _pace(self) -> ReadingPace:
        pace, even = self._watch.paces.of(self._place), self._watch.even_tokens(self._request.model)
        return pace if isinstance(even, Unavailable) else replace(pace, even_tokens=even)

    @property
    def is_followed(self) -> bool:
        """Whether the user is to be told how far it is: a summary is made in the background."""
        return self._watch.shows_progress and self._request.purpose != "summary"

    async def follow(self, show: Show) -> None:
        """Tell of the reading while it goes on and takes long, until cancelled. ``show`` shows lines in Aider."""
        watch = self._watch
        await watch.sleep(LOOK_AFTER_SECONDS)
        counted = await self._sizing.counted()
        told_at = shown_at = float("-inf")
        while not self._is_over:
            looked = await self._look()
            if isinstance(looked, Slot) and self._counted_again is None and not _is_exact(counted):
                counted = self._counted_again = await self._sizing.counted_again(self._request)
            now = watch.clock()
            estimate = self._estimate(counted, looked, now)
            if estimate is not None and self._is_long(estimate):
                if now - told_at >= _TOLD_EVERY_SECONDS:
                    told_at = now
                    self._emit(self._event(estimate))
                if now - shown_at >= _SHOWN_EVERY_SECONDS:
                    words = self._words(estimate, is_first=shown_at < 0)
                    shown_at = now
                    await show(words)
            await watch.sleep(LOOK_EVERY_SECONDS)

    def _words(self, estimate: _Estimate, *, is_first: bool) -> str:
        if is_first:
            return progress_words(estimate.position, estimate.left_seconds)
        return still_words(self._event(estimate).percent, estimate.left_seconds)

    def _is_long(self, estimate: _Estimate) -> bool:
        if self._estimated_seconds is not None:
            return True
        whole = estimate.elapsed_seconds + estimate.left_seconds
        if whole < LONG_SECONDS or estimate.left_seconds < _WORTH_SECONDS:
            return False
        self._estimated_seconds = whole
        return True

    def _event(self, estimate: _Estimate) -> ReadingEstimated:
        return ReadingEstimated(
            self._number,
            self._request.model,
            prompt_tokens=estimate.position.prompt_tokens,
            cached_tokens=estimate.position.cached_tokens,
            read_tokens=estimate.read_tokens,
            seconds_left=round(estimate.left_seconds, 1),
            known_by=estimate.known_by,
        )

    async def _look(self) -> Slot | Unavailable:
        upstream = self._target.upstream
        if upstream.kind != "ollama" or era_of(self._target.version).engine != "C":
            return _UNSEEN
        return await asyncio.to_thread(self._watch.slots, upstream.base, self._request.model)

    def _estimate(
        self, counted: Count | Unavailable, looked: Slot | Unavailable, now: float
    ) -> _Estimate | None:
        """Return how far the prompt is by the newest look; None while it is not read, or nothing can be told."""
        if isinstance(counted, Unavailable):
            return None
        if isinstance(looked, Slot):
            if looked.answers:
                return None
            self._note(counted.tokens, looked, now)
            known_by: KNOWN_BY = "slots"
        elif self._task is not None:  # one look that failed
            known_by = "slots"
        elif looked in (IDLE, LOADING, NO_PROCESS, STARTING):
            self._began_at = now  # it waits, or its model is being loaded
            return None
        else:
            known_by = "pace"
            if self._position is None:
                self._position = self._by_the_last(counted.tokens)
        if self._position is None:
            return None
        elapsed = now - self._began_at
        left = seconds_left(self._pace, self._position, elapsed)
        if isinstance(left, Unavailable):
            return None
        return _Estimate(self._position, elapsed, left, known_by)

    def _note(self, prompt_tokens: int, slot: Slot, now: float) -> None:
        """Take what the process says. A task seen before this one was another request's: this one begins now."""
        if self._task is not None and slot.task != self._task:
            self._began_at, self._position, self._looked_at = now, None, None
        self._task = slot.task
        read = 0 if self._position is None else self._position.read_tokens
        before, self._looked_at = self._looked_at, now
        if self._position is None or slot.read_tokens > read:
            # The newest piece ended at any time since the look before, or since the piece before it.
            pieces = max(1.0, (slot.read_tokens - read) / PIECE_TOKENS)
            ago = 0.0 if before is None else (now - before) / pieces / 2
            at_seconds = now - ago - self._began_at if slot.read_tokens else 0.0
            cached = min(slot.cached_tokens, prompt_tokens)
            self._position = ReadingPosition(prompt_tokens, cached, slot.read_tokens, at_seconds)
        self._cached_seen = slot.cached_tokens

    def _by_the_last(self, prompt_tokens: int) -> ReadingPosition | None:
        """Return where it begins, by what the last prompt has in common with it, or what was read ahead for it.

        None where the model may be loading.
        """
        target, known = self._target, self._watch.prompts.last(self._place) is not None
        # A list without windows does not say that it is loaded; that it has answered does, as it is kept.
        is_loaded = isinstance(target.loaded_tokens, int) or (
            known and not tells_window(target.version)
        )
        if target.upstream.kind == "ollama" and not is_loaded:
            return None
        ahead = self._watch.read_ahead(self._request, target.upstream)
        known_tokens = max(self._common_tokens(prompt_tokens), ahead)
        return ReadingPosition(prompt_tokens, min(known_tokens, prompt_tokens))

    def _common_tokens(self, prompt_tokens: int) -> int:
        last = self._watch.prompts.last(self._place)
        return last.parting(parts(self._request)).tokens(prompt_tokens) if last is not None else 0

    def answer_began(self) -> None:
        """Note that the prompt is read. A server that does not tell what it knew is looked at while it answers."""
        self._finish()
        is_silent = self._target.upstream.kind == "ollama" and not tells_cached(
            self._target.version
        )
        if self._request.purpose in CONVERSATION and is_silent and self._last_look is None:
            self._last_look = asyncio.ensure_future(self._look_once())

    async def _look_once(self) -> None:
        looked = await self._look()
        if isinstance(looked, Slot) and looked.answers:
            self._cached_seen = looked.cached_tokens

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._estimated_seconds is not None:
            seconds = round(self._watch.clock() - self._began_at, 2)
            estimated = round(self._estimated_seconds, 2)
            self._emit(ReadingFinished(self._number, self._request.model, seconds, estimated))

    def end(self) -> None:
        """Follow no more: the request is over, however it ended."""
        self._finish()

    async def account(
        self, usage: Usage, counted: Count | Unavailable, *, answered: bool
    ) -> int | Unavailable:
        """Learn from an answer that has ended, and report what was read again and why.

        Returns how many tokens of the prompt the server knew already.
        """
        watch, request = self._watch, self._request
        if self._counted_again is not None:
            counted = self._counted_again
        if self._last_look is not None:
            await self._last_look
        prompt, cached = usage.prompt_tokens, usage.cached_tokens
        if isinstance(cached, Unavailable) and isinstance(self._cached_seen, int):
            is_possible = isinstance(prompt, int) and self._cached_seen < prompt
            cached = self._cached_seen if is_possible else cached
        if answered and isinstance(prompt, int):
            await self._learn(prompt, cached, usage)
            if isinstance(cached, int) and request.purpose in CONVERSATION:
                self._report_reread(prompt, cached, usage, counted)
        watch.prompts.note(self._place, request, counted, answered=answered)
        return cached

    async def _learn(self, prompt: int, cached: int | Unavailable, usage: Usage) -> None:
        target, seconds = self._target, usage.prefill_seconds
        counts_all = target.upstream.kind != "ollama" or era_of(target.version).counts_cached
        if isinstance(seconds, Unavailable) or not counts_all:
            return
        known: int | None
        if isinstance(cached, int):
            known = cached
        elif _was_loaded(usage):
            known = 0
        else:
            known = self._watch.prompts.sure_tokens(self._place, self._request, prompt)
            if known is None or known > _LEAST_SAMPLE_SHARE * prompt:
                return
        sample = ReadingSample(known, prompt - known, seconds)
        if sample.is_sound:
            await asyncio.to_thread(self._watch.paces.learn, self._place, sample)

    def _report_reread(
        self, prompt: int, cached: int, usage: Usage, counted: Count | Unavailable
    ) -> None:
        last = self._watch.prompts.last(self._place)
        if last is None:
            return
        parted = last.parting(parts(self._request))
        exactly = last.common_tokens(counted)
        common = parted.tokens(prompt) if exactly is None else exactly
        message = parted.message_characters
        evidence = ReadEvidence(
            prompt,
            cached,
            common,
            parted.at,
            message_tokens=round(prompt * message / max(1, parted.all_characters)),
            prefill_seconds=usage.prefill_seconds,
            between=last.between,
            goes_back=self._watch.goes_back(self._request.model),
            was_loaded=_was_loaded(usage),
        )
        if (cause := why_read(evidence)) is not None:
            self._emit(
                PromptReread(
                    *(self._number, self._request.model, cause, prompt, prompt - cached, common),
                    is_exact=exactly is not None,
                    seconds=usage.prefill_seconds,
                )
            )


def _was_loaded(usage: Usage) -> bool:
    """Whether the model was loaded for this request."""
    load = usage.load_seconds
    return isinstance(load, float | int) and load > LOAD_SECONDS


def _is_exact(counted: Count | Unavailable) -> bool:
    return isinstance(counted, Count) and counted.exact
