"""Decides what to do with each request to a model: what is sent, what is answered instead, and what is reported of it.

The chat handler does no HTTP: the transport (forwarding.py) carries the bytes, the services (interfaces.py) count, read
the log and know what is loaded, and the rules are in core/chat.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Final

from aider_guard.core.chat import cloud
from aider_guard.core.chat import errors as chat_errors
from aider_guard.core.chat.body import (
    asks_for_usage,
    body_to_send,
    encode_body,
    forbids_truncation,
    without_thinking,
)
from aider_guard.core.chat.errors import Failure, failure_of_words
from aider_guard.core.chat.events import NOT_TOLD, Reason, RequestRefused, RequestStarted
from aider_guard.core.chat.replies import Timestamp, waiting
from aider_guard.core.chat.request import (
    FORMS,
    PREFIX,
    ChatRequest,
    asks_for_nothing,
    conversation,
    decode_body,
    is_own,
    read,
)
from aider_guard.core.chat.response import AnswerHead, Meter, Usage, UsageFilter
from aider_guard.core.chat.size import parts
from aider_guard.core.chat.types import Count, DoorSettings, Upstream
from aider_guard.core.egress import Place
from aider_guard.core.events import EgressBlocked, Event
from aider_guard.core.readings import Unavailable
from aider_guard.door.access import AccessRules
from aider_guard.door.accounting import Account, part_rows
from aider_guard.door.context import BrokenAnswers, RequestContext, RetrySchedule
from aider_guard.door.interfaces import (
    Abort,
    Forward,
    IncomingRequest,
    Outcome,
    Pass,
    Reply,
    Retry,
    Services,
    Trouble,
    error_reply,
)
from aider_guard.door.reading import PromptReading, SentPrompt
from aider_guard.door.refusals import PromptSizing, Refusals, SizedRequest
from aider_guard.door.request_order import RequestTurn, turn_of
from aider_guard.ollama.names import is_this_machine

_STREAM_STARTS: Final = (b"{", b"data:", b"event:", b"error:", b"id:", b"retry:", b":")
_COUNTED_PURPOSES: Final = ("chat", "edit", "other")


class ResponseStream:
    """Reads an upstream's answer as it passes, and ends it where it must not go on."""

    def __init__(self, *, is_ollama: bool, hides_usage: bool) -> None:
        self._meter = Meter()
        self._head = AnswerHead() if is_ollama else None
        self._filter = UsageFilter() if hides_usage else None
        self._started = False

    @property
    def usage(self) -> Usage:
        """What the server reported of the answer so far."""
        return self._meter.usage

    @property
    def has_text(self) -> bool:
        """Whether any of the answer was passed on, thinking aside."""
        return self._meter.so_far.texts > 0

    def feed(self, chunk: bytes, *, refuses_remote: bool) -> bytes | Failure:
        """Return what Aider gets in place of the next piece, or why the answer must end here.

        An error in the middle of a text is passed on: Aider takes the answer as broken then, which it is, and does not
        make half of it a change.
        """
        start = chunk.lstrip()
        if not self._started and start:
            self._started = True
            may_begin = any(known.startswith(start) for known in _STREAM_STARTS)
            if not start.startswith(_STREAM_STARTS) and not may_begin:
                return Failure("strange", chunk[:400].decode("utf-8", "replace"), 200)
        self._meter.feed(chunk)
        so_far = self._meter.so_far
        if so_far.error and not so_far.texts:
            return failure_of_words(so_far.error)
        checked = self._head.feed(chunk) if self._head and refuses_remote else chunk
        if checked is None:
            return Failure("cloud", self._meter.usage.remote)
        return self._filter.feed(checked) if self._filter else checked

    def remainder(self) -> bytes:
        """Return what was held back of an answer that has ended."""
        held = self._head.rest() if self._head else b""
        return self._filter.feed(held) + self._filter.rest() if self._filter else held


class ChatExchange:
    """Handles one request for text. The transport calls ``begin`` first, and ``end`` last and always, once."""

    turn: RequestTurn | None = None
    """Its turn among the requests to its model, once ``begin`` has decided that it is sent."""
    reading: PromptReading | None = None
    """How far its prompt is read, from then on."""

    def __init__(self, incoming: IncomingRequest, context: RequestContext) -> None:
        self._incoming = incoming
        self._context = context
        self._request: ChatRequest | None = None
        self._refusals: Refusals | None = None
        self._sizing = PromptSizing(incoming, context)
        self._left_out = 0
        self._retries = RetrySchedule(context.clock)
        self._stream: ResponseStream | None = None
        self._started = False
        self._mark = 0
        self._first_byte_seconds: float | Unavailable = NOT_TOLD

    async def begin(self) -> Forward | Reply | Retry:
        """Read the request; refuse what must not or cannot be answered; else send it on, changed as ``sent`` says.

        It may take its time, and is cancelled when Aider gives up. After a ``Retry`` it is called again.
        """
        settings, incoming = self._context.settings, self._incoming
        body = decode_body(incoming.body)
        form, upstream = FORMS[incoming.path], incoming.upstream
        if body is None:
            if incoming.body.strip() and settings.refuse_cloud:  # the server may read it
                return error_reply("the request cannot be read", 400, incoming.path)
            return Forward(incoming.body)  # the server's own error is right
        self._request = request = read(form, body, settings, upstream.path)
        self._refusals = refusals = Refusals(incoming, self._context, request)
        if refused := await refusals.if_elsewhere(self._retries):
            return refused
        await self._context.learn(request, upstream)
        prepared = await self._context.services.others.prepare(incoming.number, request, upstream)
        if isinstance(prepared, Failure):
            return refusals.failed(prepared)
        if prepared is not None:
            return self._wait(prepared.words, self._retries.until_loaded())
        if (quiet := self._without_vain_thoughts(request)) is not request:
            self._request = request = quiet
            self._incoming = incoming = replace(incoming, body=encode_body(request.body))
            self._sizing = PromptSizing(incoming, self._context)
            self._refusals = refusals = Refusals(incoming, self._context, request)
        version = self._context.version
        if asks_for_nothing(request):
            return Forward(body_to_send(request, incoming.body, settings, upstream, version))
        if request.purpose == "edit":
            users = [message.content for message in conversation(request) if message.role == "user"]
            if users and is_own(users[-1]):
                return refusals.nothing_to_edit()
        if failure := self._context.broken_answers.due(incoming.body):
            return refusals.failed(failure)
        return await self._forward(await self._sizing.fit(request), version)

    def _without_vain_thoughts(self, request: ChatRequest) -> ChatRequest:
        """Return the request without thinking where Aider would throw the thoughts away, else as it is."""
        context = self._context
        may_think = context.settings.think_for_side_work
        if may_think or not context.services.model_info.thinks(request.model):
            return request
        return without_thinking(request)

    async def _forward(self, sized: SizedRequest, version: str | Unavailable) -> Forward | Reply:
        incoming, context, request = self._incoming, self._context, sized.request
        upstream = incoming.upstream
        self._request, self._left_out = request, sized.left_out
        self._refusals = Refusals(incoming, context, request)
        if sized.overflow is not None:
            return await self._refusals.too_large(sized.overflow)
        await context.services.residency.on_request_start(request, upstream)
        self._started = True
        self._mark = context.services.log_watch.mark()
        numbered = (incoming.number, request.role, request.purpose, request.model)
        context.emit(RequestStarted(*numbered, server=upstream.kind))
        self.turn = turn_of(request, upstream)
        target = context.target(request, upstream)
        sent = SentPrompt(incoming.number, request, target, self._sizing)
        self.reading = context.services.readings.open(sent, context.emit)
        return Forward(body_to_send(request, sized.body, context.settings, upstream, version))

    async def follow_reading(self, show: Callable[[Reply], Awaitable[None]]) -> None:
        """Tell the user how far a long prompt is read, until cancelled; ``show`` gets pieces of an answer for Aider."""
        reading, refusals = self.reading, self._refusals
        if reading is None or refusals is None:
            return

        async def show_words(words: str) -> None:
            reply = waiting(refusals.request, words, self._context.timestamp())
            if reply.content:
                await show(Reply(reply.content, content_type=reply.content_type))

        await reading.follow(show_words)

    async def on_trouble(self, trouble: Trouble) -> Reply | Retry:
        """Decide about an upstream that could not be reached, or sent no answer.

        One that may be restarting is waited for, for a moment.
        """
        if trouble.kind != "silent" and (seconds := self._retries.until_reachable()) is not None:
            return Retry(seconds)
        if self._refusals is None:
            return error_reply(f"the model server does not answer: {trouble.words}", 502)
        reason = self._silence_reason() if trouble.kind == "silent" else "down"
        return self._refusals.failed(Failure(reason, trouble.words))

    async def on_refusal(
        self, status: int, content: bytes, location: str = ""
    ) -> Reply | Retry | Pass:
        """Decide about an answer with another status than 200: wait for a busy server, explain any other error.

        ``content`` is all of the answer, any coding undone. A redirect comes here, too, with its ``location``; it is
        not handed on as it is: the transport makes ``Pass`` an error of the door's.
        """
        refusals = self._refusals
        if refusals is None or not self._started:
            return Pass()
        failure = chat_errors.failure_of_answer(status, content, location)
        if failure.waits and (seconds := self._retries.until_free()) is not None:
            return self._wait(chat_errors.waiting_words(failure), seconds)
        if failure.reason == "overflow":
            counted = await self._sizing.counted()
            return await refusals.too_large(refusals.overflow_of(failure, counted))
        if failure.reason == "missing":  # the list may be half a minute old
            await self._context.services.installed.reread(self._incoming.upstream)
        return refusals.failed(failure)

    def _wait(self, why: str, seconds: float) -> Retry:
        """Wait before the next try, and say from time to time what for, where Aider shows that."""
        message = self._retries.message(why)
        if not message or self._request is None:
            return Retry(seconds)
        reply = waiting(self._request, message, self._context.timestamp())
        return Retry(seconds, reply.content, reply.content_type)

    def on_chunk(self, chunk: bytes) -> bytes | Reply:
        """Return what Aider gets in place of a piece of the answer: usually the same bytes.

        A piece comes after any transfer or content coding was undone. A ``Reply`` ends the answer with its content, and
        closes the upstream.
        """
        refusals, context = self._refusals, self._context
        if refusals is None or not self._started:
            return chunk
        if self._stream is None:
            self._first_byte_seconds = context.clock() - self._incoming.received_at
            if self.reading is not None:
                self.reading.answer_began()
            is_ollama = self._incoming.upstream.kind == "ollama"
            hides_usage = asks_for_usage(refusals.request)
            self._stream = ResponseStream(is_ollama=is_ollama, hides_usage=hides_usage)
        result = self._stream.feed(chunk, refuses_remote=context.settings.refuse_cloud)
        if isinstance(result, bytes):
            return result
        if result.reason == "cloud":
            return refusals.answered_elsewhere(result.words)
        return refusals.failed(result)

    def remainder(self) -> bytes:
        """Return what was held back of an answer that has ended.

        Whether it was broken is remembered here, and not in ``end``: with the last byte Aider may try again at once.
        """
        if self._started:
            self._remember(self._stream.usage if self._stream else Usage())
        return self._stream.remainder() if self._stream is not None else b""

    def on_broken(self, trouble: Trouble) -> Reply | Abort:
        """Decide about an answer that broke off: let Aider try again, or explain.

        It is explained where the second try broke as well and no text of this answer was passed on.
        """
        failure = Failure(self._silence_reason(), f"the answer broke off ({trouble.words})")
        due = self._context.broken_answers.record(self._incoming.body, failure)
        has_text = self._stream is not None and self._stream.has_text
        if not due or has_text or self._refusals is None:
            return Abort()
        self._context.broken_answers.forget(self._incoming.body)
        return self._refusals.failed(failure)

    async def end(self, outcome: Outcome) -> None:
        """Account for the request: all is sent, or Aider is gone, or the answer was aborted."""
        request = self._request
        self._context.services.others.end(self._incoming.number)
        if request is None or not self._started or outcome == "replied":
            self._sizing.stop()
        if request is None or not self._started:
            return
        if self.reading is not None:
            self.reading.end()
        usage = self._stream.usage if self._stream else Usage()
        residency, upstream = self._context.services.residency, self._incoming.upstream
        residency.on_request_end(request, upstream, usage.load_seconds)
        if outcome != "replied":
            await self._account(request, outcome, usage)

    async def _account(self, request: ChatRequest, outcome: Outcome, usage: Usage) -> None:
        context, upstream = self._context, self._incoming.upstream
        services, version = context.services, context.version
        counted = await self._sizing.counted()
        account = Account(
            incoming=self._incoming,
            request=request,
            outcome=outcome,
            usage=usage,
            counted=counted,
            window_tokens=context.window(request, upstream),
            version=version,
            truncation_forbidden=forbids_truncation(request, context.settings, upstream, version),
            first_byte_seconds=self._first_byte_seconds,
            log=await services.log_watch.since(self._mark),
            never_truncates=services.installed.never_truncates(upstream, request.model),
            left_out=self._left_out,
            cached_tokens=await self._cached_tokens(usage, counted, outcome),
        )
        verdict = account.verdict()
        if (tokens := account.true_tokens(verdict)) is not None:
            services.counter.learn(request, counted, tokens)
        prompt_parts = parts(request) if request.purpose in _COUNTED_PURPOSES else ()
        total = usage.prompt_tokens if isinstance(counted, Unavailable) else counted
        target = context.target(request, upstream)
        rows = await part_rows(services.counter, request.model, prompt_parts, total, target)
        context.emit(account.event(verdict, rows))

    async def _cached_tokens(
        self, usage: Usage, counted: Count | Unavailable, outcome: Outcome
    ) -> int | Unavailable:
        if self.reading is None:
            return usage.cached_tokens
        answered = outcome == "answered" and not usage.is_broken
        return await self.reading.account(usage, counted, answered=answered)

    def _remember(self, usage: Usage) -> None:
        """Remember an answer that the server ended with an error in the middle, which was passed on as it came.

        One that Aider takes as whole is not asked for again.
        """
        broken_answers, body = self._context.broken_answers, self._incoming.body
        if usage.is_broken and not usage.broke_off:
            broken_answers.record(body, chat_errors.failure_of_words(usage.error))
        else:
            broken_answers.forget(body)

    def _silence_reason(self) -> Reason:
        """Return what a connection that ended without a word means: to another machine, it may be the network."""
        return "crashed" if is_this_machine(self._incoming.upstream.base) else "lost"


def now() -> Timestamp:
    """Return this moment, as Ollama writes it."""
    at = datetime.now(timezone.utc)
    return Timestamp(at.isoformat().replace("+00:00", "Z"), int(at.timestamp()))


class ChatHandler:
    """Handles the requests of one session's door. ``emit`` is called on the door's event loop."""

    def __init__(
        self,
        settings: Callable[[], DoorSettings],
        services: Services,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        timestamp: Callable[[], Timestamp] = now,
    ) -> None:
        self._settings = settings
        self._services = services
        self._emit = emit
        self._clock, self._timestamp = clock, timestamp
        self._broken_answers = BrokenAnswers(clock)
        self._access_rules = AccessRules(services.installed)

    def handles(self, upstream: Upstream, method: str, path: str) -> bool:
        """Return whether a request is one for text: its body is then read as a whole. Others are only passed on.

        Ollama has its own protocol and OpenAI's, other servers have the latter.
        """
        form = FORMS.get(path) if method == "POST" else None
        if upstream.kind == "ollama":
            return form is not None and path.startswith(("/api/", "/v1/"))
        return form in ("openai_chat", "openai_text")

    def open_exchange(self, incoming: IncomingRequest) -> ChatExchange:
        """Begin to handle a request for text."""
        context = RequestContext(
            *(self._settings(), self._services, self._emit),
            *(self._broken_answers, self._clock, self._timestamp),
        )
        return ChatExchange(incoming, context)

    async def refusal(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        """Return the answer to a request that could carry something out of the machine; None lets it pass.

        ``body`` is None where it is streamed: only small bodies are shown. A refusal is reported.
        """
        if not self._settings().refuse_cloud:
            return None
        refused = await self._access_rules.judge(upstream, method, path, body)
        if refused is None:
            return None
        what, words = cloud.shown(refused.what), refused.words
        self._emit(RequestRefused(0, "main", "other", what, refused.reason, said=(words,)))
        return error_reply(words.removeprefix(PREFIX), refused.status, path)

    def answer_for_cloud(self, place: Place, path: str, body: bytes) -> Reply:
        """Return the answer to a request that a provider's client would have sent to this place. It is reported."""
        self._emit(EgressBlocked(place.host, place.port, "http"))
        reply = cloud.answer_offline(place.host, path, decode_body(body) or {})
        return Reply(reply.content, reply.status, reply.content_type)
