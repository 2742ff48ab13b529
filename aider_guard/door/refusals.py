"""Decides whether a prompt fits its window, and makes the door's own answers to a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aider_guard.core.chat import cloud, overflow
from aider_guard.core.chat import errors as chat_errors
from aider_guard.core.chat.body import count_unanswered, encode_body, without_unanswered
from aider_guard.core.chat.errors import FailedRequest, Failure
from aider_guard.core.chat.events import NOT_TOLD, Reason, RequestRefused
from aider_guard.core.chat.overflow import Overflow
from aider_guard.core.chat.replies import answer
from aider_guard.core.chat.request import FORMS, ChatRequest, asks_for_nothing, read
from aider_guard.core.chat.size import parts, reply_reserve
from aider_guard.core.chat.types import Count
from aider_guard.core.model_names import is_cloud_name
from aider_guard.core.other_servers import ServerName
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.door.accounting import part_rows
from aider_guard.door.context import RequestContext, RetrySchedule
from aider_guard.door.interfaces import IncomingRequest, Reply, RequestTarget, error_reply
from aider_guard.ollama.names import display_base, is_this_machine


@dataclass(frozen=True)
class Refusals:
    """Answers one request in the door's words, and emits the event that reports the refusal."""

    incoming: IncomingRequest
    context: RequestContext
    request: ChatRequest

    def nothing_to_edit(self) -> Reply:
        """Answer an architect's editor whose instructions are the door's own words, which were reported already."""
        return self._answer(["nothing to edit: the request was not answered by a model"])

    async def if_elsewhere(self, retries: RetrySchedule) -> Reply | None:
        """Refuse a model that does not run here, whose host the server does not tell, or whose name Ollama does not
        accept; return None for others.

        A server that may be restarting is waited for.
        """
        if not self.context.settings.refuse_cloud:
            return None
        names = cloud.named_models(self.incoming.path, self.request.body)
        if cloud_name := next(filter(is_cloud_name, names), None):
            return self._refuse("cloud", cloud.refusal(cloud_name))
        installed, upstream = self.context.services.installed, self.incoming.upstream
        invalid = cloud.invalid_name(self.incoming.path, self.request.body)
        if invalid is not None and upstream.kind == "ollama":
            return self._refuse("missing", cloud.invalid_lines(invalid))
        for name in names:
            while isinstance(host := await installed.host_of(upstream, name), Unavailable):
                failure = _failure_of(host)
                seconds = retries.until_reachable() if failure.waits else None
                if seconds is None:
                    return self.failed(failure, "/api/show")
                await asyncio.sleep(seconds)
            if host:
                return self._refuse("cloud", cloud.refusal(name, chat_errors.short_words(host)))
        return None

    def answered_elsewhere(self, host: str) -> Reply:
        """End the answer of a model that turned out not to run here."""
        return self._refuse(
            "cloud", cloud.refusal(self.request.model, chat_errors.short_words(host))
        )

    async def too_large(self, excess: Overflow | None) -> Reply:
        """Refuse a prompt that does not fit.

        ``excess`` is None, or says that it should fit, where only the server says that it does not.
        """
        if excess is None or not excess.over_tokens:
            window = self.context.window(self.request, self.incoming.upstream)
            return self._refuse("overflow", overflow.unknown_lines(window))
        excess = replace(excess, server=self._fixed_server(), model=self.request.model)
        prompt_parts = parts(self.request)
        counter = self.context.services.counter
        target = self.context.target(self.request, self.incoming.upstream)
        rows = await part_rows(counter, self.request.model, prompt_parts, excess.counted, target)
        return self._refuse("overflow", overflow.lines(excess, rows, prompt_parts), excess)

    def _fixed_server(self) -> ServerName | None:
        """Return the kind of the request's server where no request decides on the window; None where one does."""
        upstream, request = self.incoming.upstream, self.request
        if upstream.kind == "ollama":
            return None if request.form in ("chat", "generate") else "Ollama"
        known = self.context.services.others.known(upstream, request.model)
        return known.server if known else ""

    def overflow_of(self, failure: Failure, counted: Count | Unavailable) -> Overflow | None:
        """Return what the server found too large, in its own numbers where it tells them; None without any numbers."""
        # The process's own window may be a little larger than the one in the request, which is kept to the next time.
        known = (failure.window_tokens, self.context.window(self.request, self.incoming.upstream))
        windows = [window for window in known if isinstance(window, int)]
        window = min(windows, default=Unavailable("no window is known"))
        if isinstance(failure.prompt_tokens, int):
            exact = not failure.is_at_least
            counted = Count(failure.prompt_tokens, exact=exact, counted_by="refusal")
        if isinstance(window, Unavailable) or isinstance(counted, Unavailable):
            return None
        return Overflow(counted, window, reply_reserve(self.request, window))

    def failed(self, failure: Failure, path: str = "") -> Reply:
        """Explain a failure of the server, at the request's own path if no other is given."""
        upstream, fixed_server = self.incoming.upstream, self._fixed_server()
        failed_request = FailedRequest(
            self.request.model,
            display_base(upstream.base),
            is_ollama=upstream.kind == "ollama",
            server=fixed_server or "",
            is_here=is_this_machine(upstream.base),
            path=path or self.incoming.path,
            smaller_windows=() if fixed_server else self.context.settings.smaller_windows,
            alike=self.context.services.installed.similar_names(upstream, self.request.model),
        )
        return self._refuse(failure.reason, chat_errors.lines(failure, failed_request))

    def _refuse(
        self, reason: Reason, lines: Sequence[str], excess: Overflow | None = None
    ) -> Reply:
        request, incoming = self.request, self.incoming
        loads_only = asks_for_nothing(request)
        if loads_only and reason != "cloud":
            return error_reply("; ".join(lines), 502, incoming.path)
        window = excess.window_tokens if excess else self.context.window(request, incoming.upstream)
        refused = RequestRefused(
            *(incoming.number, request.role, request.purpose, request.model, reason),
            counted_tokens=excess.counted.tokens if excess else NOT_TOLD,
            counted_by=excess.counted.counted_by if excess else "",
            over_tokens=excess.over_tokens if excess else 0,
            window_tokens=window,
            said=tuple(lines),
        )
        self.context.emit(refused)
        if loads_only:
            return error_reply("; ".join(lines), 403, incoming.path)
        return self._answer(lines)

    def _answer(self, lines: Sequence[str]) -> Reply:
        reply = answer(self.request, lines, self.context.timestamp())
        return Reply(reply.content, reply.status, reply.content_type)


def _failure_of(why: Unavailable) -> Failure:
    """Return the failure of the door's own question where a model runs. One without a status may go away."""
    if isinstance(why, NoAnswer) and why.status:
        return chat_errors.failure_of_answer(why.status, why.content, why.location)
    words = why.cause if isinstance(why, NoAnswer) and why.cause else why.reason
    return Failure("down", words, waits=True)


# The size of a prompt, and what is sent of one that does not fit, before it is refused.

_COUNT_DELAY_SECONDS: Final = 0.005
_MOST_COUNTS: Final = 8
"""How often one prompt is counted: with all messages that were not sent before, and with ever fewer of them."""


@dataclass(frozen=True)
class SizedRequest:
    """The request that may be sent, with its body; ``overflow`` says by how much it is too large all the same."""

    request: ChatRequest
    body: bytes
    left_out: int = 0
    overflow: Overflow | None = None


class PromptSizing:
    """Counts one request's prompt, and shortens it where that makes it fit."""

    def __init__(self, incoming: IncomingRequest, context: RequestContext) -> None:
        self._incoming = incoming
        self._context = context
        self._counting: asyncio.Task[Count | Unavailable] | None = None

    async def fit(self, request: ChatRequest) -> SizedRequest:
        """Return the prompt, or what fits of it.

        A prompt that does not fit is sent without the oldest messages that the door has not sent before, and with as
        many of them as fit. The last of them is the one that the user may have meant with "go on".
        """
        overflow = await self._overflow(request)
        sized = SizedRequest(request, self._incoming.body, overflow=overflow)
        messages = count_unanswered(request) if overflow is not None else 0
        form, path = FORMS[self._incoming.path], self._incoming.upstream.path
        for leave_out in range(max(1, messages - _MOST_COUNTS + 2), messages + 1):
            body = without_unanswered(request, leave_out)
            shorter = read(form, body, self._context.settings, path)
            overflow = await self._overflow(shorter)
            sized = SizedRequest(shorter, encode_body(body), leave_out, overflow)
            if overflow is None:
                break
        return sized

    async def counted(self) -> Count | Unavailable:
        """Return the count of the prompt that is sent."""
        unknown = Unavailable("the prompt was not counted")
        return unknown if self._counting is None else await self._counting

    async def counted_again(self, request: ChatRequest) -> Count | Unavailable:
        """Count a prompt that was sent while its model was being loaded: now its server can be asked."""
        return await self._context.services.counter.count(request, self._target(request))

    def stop(self) -> None:
        """Stop counting: the count is not needed any more."""
        if self._counting is not None:
            self._counting.cancel()

    async def _overflow(self, request: ChatRequest) -> Overflow | None:
        """Return by how much a prompt is too large; None for one that is sent.

        Where the count changes nothing, it is not waited for. A prompt that could not be counted in time is judged by a
        guess: if it were sent, Ollama might drop a part of it in silence.
        """
        counter = self._context.services.counter
        window = self._context.window(request, self._incoming.upstream)
        warns = self._context.settings.on_overflow == "warn"
        reserve = 0 if isinstance(window, Unavailable) else reply_reserve(request, window)
        if warns or isinstance(window, Unavailable) or counter.fits(request, window - reserve):
            self._counting = asyncio.ensure_future(self._count_later(request))
            return None
        self._counting = asyncio.ensure_future(counter.count(request, self._target(request)))
        size = await self._size(request)
        is_unsure = size.at_least + reserve <= window < size.at_most + reserve
        residency, upstream = self._context.services.residency, self._incoming.upstream
        # The request would wait for the model in any case, and its server can count as soon as it is there.
        if is_unsure and not size.exact and await residency.wait_for_load(request, upstream):
            self._counting = asyncio.ensure_future(counter.count(request, self._target(request)))
            size = await self._size(request)
        excess = Overflow(size, window, reserve)
        return excess if excess.over_tokens else None

    async def _size(self, request: ChatRequest) -> Count:
        """Return the count of the prompt, or a guess where there is none in time."""
        counted = await self.counted()
        guess = self._context.services.counter.guess
        return guess(request) if isinstance(counted, Unavailable) else counted

    async def _count_later(self, request: ChatRequest) -> Count | Unavailable:
        """Count once the request is sent: handing the prompt to the counter takes a millisecond of this loop."""
        await asyncio.sleep(_COUNT_DELAY_SECONDS)
        counter = self._context.services.counter
        return await counter.count(request, self._target(request))

    def _target(self, request: ChatRequest) -> RequestTarget:
        return self._context.target(request, self._incoming.upstream)
