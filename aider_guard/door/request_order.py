"""Orders what the door sends to one model: the user's messages first, side work in between, one at a time.

Most servers work on one request after another (Ollama 0.10 and later: ``OLLAMA_NUM_PARALLEL`` is 1), in the order in
which they come. A commit message or a summary waits here until none of the user's messages is on its way, and is cut
off when one comes: its answer comes as a whole at the end, so it can be asked for again without Aider noticing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import CONVERSATION, Upstream
from aider_guard.core.model_names import canonical_name

_SIDE_WORK: Final = ("commit", "summary")
_MOST_CUTS: Final = 3
"""How often one request is cut off: what it had read so far is lost each time, and it must end at some time."""

Place = tuple[str, str]
"""A server's address and a model there, whose requests wait for each other."""


@dataclass(eq=False)
class RequestTurn:
    """One request's turn. ``cut`` is set when it has to make way; ``cuts`` counts how often it had to."""

    place: Place
    is_side_work: bool = False
    is_users: bool = False
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    cuts: int = 0

    @property
    def may_be_cut(self) -> bool:
        """Whether it makes way for a message of the user's."""
        return self.is_side_work and self.cuts < _MOST_CUTS


def turn_of(request: ChatRequest, upstream: Upstream) -> RequestTurn:
    """Return the turn of a request. Another program's, which Aider does not know of, is never held up."""
    # Other servers have one model, whatever its name is in the request.
    model = canonical_name(request.model) if upstream.kind == "ollama" else ""
    purpose = request.purpose
    is_side_work = purpose in _SIDE_WORK and not request.stream
    return RequestTurn((upstream.base, model), is_side_work, purpose in CONVERSATION)


class RequestOrder:
    """Lets each request be sent when its turn has come. Used on the door's event loop only."""

    def __init__(self) -> None:
        self._running: list[RequestTurn] = []
        self._waiting: list[RequestTurn] = []
        """The user's messages that wait until what they cut off has ended."""
        self._changed: list[asyncio.Event] = []

    @asynccontextmanager
    async def turn(self, turn: RequestTurn) -> AsyncIterator[None]:
        """Wait for a request's turn, and hold it while the request is with the server.

        A message of the user's cuts side work off and waits until its connection is closed, which frees the slot.
        """
        if turn.is_users:
            self._waiting.append(turn)
            try:
                for other in self._at(turn.place):
                    if other.may_be_cut:
                        other.cut.set()
                while any(other.cut.is_set() for other in self._at(turn.place)):
                    await self._change()
            finally:
                self._waiting.remove(turn)
                self._tell()
        elif turn.is_side_work:
            while not self._is_free(turn.place):
                await self._change()
        self._running.append(turn)
        try:
            yield
        finally:
            if turn.cut.is_set():
                turn.cut.clear()
                turn.cuts += 1
            self._running.remove(turn)
            self._tell()

    def _at(self, place: Place) -> list[RequestTurn]:
        return [turn for turn in self._running if turn.place == place]

    def _is_free(self, place: Place) -> bool:
        is_held = any(other.is_users or other.is_side_work for other in self._at(place))
        return not is_held and all(other.place != place for other in self._waiting)

    async def _change(self) -> None:
        """Wait until a request began or ended."""
        changed = asyncio.Event()
        self._changed.append(changed)
        try:
            await changed.wait()
        finally:
            self._changed.remove(changed)

    def _tell(self) -> None:
        for changed in self._changed:
            changed.set()
