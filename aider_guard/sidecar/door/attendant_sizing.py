"""Whether a prompt fits its window; and what is sent of one that does not, before it is refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat.body import encoded, unanswered, without_unanswered
from aider_guard.core.chat.overflow import Overflow
from aider_guard.core.chat.request import FORMS, Asked, read
from aider_guard.core.chat.size import reply_reserve
from aider_guard.core.chat.types import Count
from aider_guard.core.readings import Unavailable
from aider_guard.sidecar.door.attendant_house import House
from aider_guard.sidecar.door.seam import Call

_NOT_COUNTED: Final = Unavailable("the prompt was not counted")
_ON_ITS_WAY_SECONDS: Final = 0.005
_MOST_COUNTS: Final = 8
"""How often one prompt is counted: with all messages that were not sent before, and with ever fewer of them."""


@dataclass(frozen=True)
class Sized:
    """What may be sent, with its body; and by how much it is too large all the same."""

    asked: Asked
    body: bytes
    left_out: int = 0
    overflow: Overflow | None = None


class Sizing:
    """The size of one request's prompt."""

    def __init__(self, call: Call, house: House) -> None:
        self._call = call
        self._house = house
        self._counting: asyncio.Task[Count | Unavailable] | None = None

    async def fitted(self, asked: Asked) -> Sized:
        """The prompt; or, where it does not fit, without the oldest messages that the door has not sent before, and
        with as many of them as fit. The last of them is the one that the user may have meant with "go on".
        """
        sized = Sized(asked, self._call.body, overflow=await self._overflow(asked))
        messages = unanswered(asked) if sized.overflow is not None else 0
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

    async def _without(self, asked: Asked, leave_out: int) -> Sized:
        call, body = self._call, without_unanswered(asked, leave_out)
        less = read(FORMS[call.path], body, self._house.settings, call.upstream.path)
        return Sized(less, encoded(body), leave_out, await self._overflow(less))

    async def _overflow(self, asked: Asked) -> Overflow | None:
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

    async def _count_later(self, asked: Asked) -> Count | Unavailable:
        """Count once the request is on its way: handing the prompt to the counter takes a millisecond of this loop."""
        await asyncio.sleep(_ON_ITS_WAY_SECONDS)
        return await self._house.services.counts.count(asked)
