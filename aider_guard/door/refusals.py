"""The answers that the door gives itself to one request, and the event that tells each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat import cloud, overflow, request
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
from aider_guard.core.readings import Unavailable
from aider_guard.door.accounting import part_rows
from aider_guard.door.context import RequestContext, RetrySchedule
from aider_guard.door.interfaces import IncomingRequest, Reply
from aider_guard.ollama.names import display_base, is_this_machine

_NOTHING_TO_EDIT: Final = ("nothing to edit: the request was not answered by a model",)


def error(words: str, status: int, path: str = "/api/") -> Reply:
    """An error in the form of the path's protocol, to a request that wants no text."""
    said: object = f"{request.PREFIX}{words}"
    if not path.startswith("/api/"):
        said = {"message": said, "type": "api_error", "param": None, "code": None}
    return Reply(json.dumps({"error": said}).encode("ascii"), status)


@dataclass(frozen=True)
class Refusals:
    """Answers one request in the door's words."""

    call: IncomingRequest
    house: RequestContext
    asked: ChatRequest

    def nothing_to_edit(self) -> Reply:
        """To an architect's editor whose instructions are the door's own words. It was told already."""
        return self._said(_NOTHING_TO_EDIT)

    async def elsewhere(self, waits: RetrySchedule) -> Reply | None:
        """The refusal of a model that does not run here, or of which nobody says where it runs; None for others."""
        if not self.house.settings.refuse_cloud:
            return None
        names = cloud.named_models(self.call.path, self.asked.body)
        if gone := next(filter(is_cloud_name, names), None):
            return self._refuse("cloud", cloud.refusal(gone))
        for name in names:
            host = await self._where(name, waits)
            if isinstance(host, Unavailable):
                return self.failed(Failure("down", host.reason))
            if host:
                return self._refuse("cloud", cloud.refusal(name, chat_errors.printable(host)))
        return None

    async def _where(self, name: str, waits: RetrySchedule) -> str | Unavailable | None:
        """As the shelf says; a server that may be restarting is waited for."""
        shelf, upstream = self.house.services.shelf, self.call.upstream
        while isinstance(host := await shelf.where(upstream, name), Unavailable):
            seconds = waits.for_its_return()
            if seconds is None:
                return host
            await asyncio.sleep(seconds)
        return host

    def answered_elsewhere(self, host: str) -> Reply:
        """What ends the answer of a model that turned out not to run here."""
        return self._refuse("cloud", cloud.refusal(self.asked.model, chat_errors.printable(host)))

    async def too_large(self, found: overflow.Overflow | None) -> Reply:
        """The refusal of a prompt that does not fit; None, or one that should fit, where only the server says so."""
        if found is None or not found.over_tokens:
            window = self.house.window(self.asked, self.call.upstream)
            return self._refuse("overflow", overflow.unknown_lines(window))
        pieces = parts(self.asked)
        counts = self.house.services.counts
        rows = await part_rows(counts, self.asked.model, pieces, found.counted)
        return self._refuse("overflow", overflow.lines(found, rows, pieces), found)

    def overflow_of(
        self, failure: Failure, counted: Count | Unavailable
    ) -> overflow.Overflow | None:
        """What the server found too large, in its own numbers where it tells them; None where nobody has any."""
        window = failure.window_tokens
        if isinstance(window, Unavailable):
            window = self.house.window(self.asked, self.call.upstream)
        if isinstance(failure.prompt_tokens, int):
            counted = Count(failure.prompt_tokens, exact=True)
        if isinstance(window, Unavailable) or isinstance(counted, Unavailable):
            return None
        return overflow.Overflow(counted, window, reply_reserve(self.asked, window))

    def failed(self, failure: Failure) -> Reply:
        """What is said of a server's failure."""
        upstream, settings = self.call.upstream, self.house.settings
        asker = FailedRequest(
            self.asked.model,
            display_base(upstream.base),
            is_ollama=upstream.kind == "ollama",
            is_here=is_this_machine(upstream.base),
            window_tokens=settings.window_tokens,
            smaller_windows=settings.smaller_windows,
            alike=self.house.services.shelf.alike(upstream, self.asked.model),
        )
        return self._refuse(failure.reason, chat_errors.lines(failure, asker))

    def _refuse(
        self, reason: Reason, lines: Sequence[str], found: overflow.Overflow | None = None
    ) -> Reply:
        asked = self.asked
        if asks_for_nothing(asked):
            return error("; ".join(lines), 403 if reason == "cloud" else 502, self.call.path)
        window = found.window_tokens if found else self.house.window(asked, self.call.upstream)
        refused = RequestRefused(
            self.call.number,
            asked.role,
            asked.purpose,
            asked.model,
            reason,
            counted_tokens=found.counted.tokens if found else NOT_TOLD,
            over_tokens=found.over_tokens if found else 0,
            window_tokens=window,
            said=tuple(lines),
        )
        self.house.emit(refused)
        return self._said(lines)

    def _said(self, lines: Sequence[str]) -> Reply:
        spoken = answer(self.asked, lines, self.house.moment())
        return Reply(spoken.content, spoken.status, spoken.content_type)


# Whether a prompt fits its window; and what is sent of one that does not, before it is refused.

_NOT_COUNTED: Final = Unavailable("the prompt was not counted")
_ON_ITS_WAY_SECONDS: Final = 0.005
_MOST_COUNTS: Final = 8
"""How often one prompt is counted: with all messages that were not sent before, and with ever fewer of them."""


@dataclass(frozen=True)
class SizedRequest:
    """What may be sent, with its body; and by how much it is too large all the same."""

    asked: ChatRequest
    body: bytes
    left_out: int = 0
    overflow: Overflow | None = None


class PromptSizing:
    """The size of one request's prompt."""

    def __init__(self, call: IncomingRequest, house: RequestContext) -> None:
        self._call = call
        self._house = house
        self._counting: asyncio.Task[Count | Unavailable] | None = None

    async def fitted(self, asked: ChatRequest) -> SizedRequest:
        """The prompt; or, where it does not fit, without the oldest messages that the door has not sent before, and
        with as many of them as fit. The last of them is the one that the user may have meant with "go on".
        """
        sized = SizedRequest(asked, self._call.body, overflow=await self._overflow(asked))
        messages = count_unanswered(asked) if sized.overflow is not None else 0
        for leave_out in range(max(1, messages - _MOST_COUNTS + 2), messages + 1):
            sized = await self._without(asked, leave_out)
            if sized.overflow is None:
                break
        return sized

    async def counted(self) -> Count | Unavailable:
        """The count of what is sent."""
        return await self._counting if self._counting is not None else _NOT_COUNTED

    def stop(self) -> None:
        """Nobody wants to know any more."""
        if self._counting is not None:
            self._counting.cancel()

    async def _without(self, asked: ChatRequest, leave_out: int) -> SizedRequest:
        call, body = self._call, without_unanswered(asked, leave_out)
        less = read(FORMS[call.path], body, self._house.settings, call.upstream.path)
        return SizedRequest(less, encode_body(body), leave_out, await self._overflow(less))

    async def _overflow(self, asked: ChatRequest) -> Overflow | None:
        """None, without waiting for the count, where the prompt is sent whatever it counts. One that nobody counted in
        time is judged by a guess: let through, a part of it could be lost in silence.
        """
        counts, window = self._house.services.counts, self._house.window(asked, self._call.upstream)
        warns = self._house.settings.on_overflow == "warn"
        if warns or isinstance(window, Unavailable):
            self._counting = asyncio.ensure_future(self._count_later(asked))
            return None
        reserve = reply_reserve(asked, window)
        if counts.fits(asked, window - reserve):
            self._counting = asyncio.ensure_future(self._count_later(asked))
            return None
        self._counting = asyncio.ensure_future(counts.count(asked))
        counted = await self.counted()
        size = counts.guess(asked) if isinstance(counted, Unavailable) else counted
        found = Overflow(size, window, reserve)
        return found if found.over_tokens else None

    async def _count_later(self, asked: ChatRequest) -> Count | Unavailable:
        """Count once the request is on its way: handing the prompt to the counter takes a millisecond of this loop."""
        await asyncio.sleep(_ON_ITS_WAY_SECONDS)
        return await self._house.services.counts.count(asked)
