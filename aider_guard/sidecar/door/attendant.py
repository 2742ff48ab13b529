"""Whoever decides about requests for text: what is sent, what is answered instead, and what is told of it.

The attendant does no HTTP: transport carries (seam.py), services count, read the log and know what is loaded
(services.py), and the rules are in core/traffic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from aider_guard.core.chat import cloud
from aider_guard.core.chat.events import RequestRefused
from aider_guard.core.chat.replies import Moment
from aider_guard.core.chat.request import FORMS, PREFIX
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.sidecar.door.attendant_breaks import Breaks
from aider_guard.sidecar.door.attendant_entrance import Entrance
from aider_guard.sidecar.door.attendant_house import House
from aider_guard.sidecar.door.attendant_refusing import error
from aider_guard.sidecar.door.seam import Call, Reply
from aider_guard.sidecar.door.services import Services
from aider_guard.sidecar.door.visit import TextVisit

if TYPE_CHECKING:
    from aider_guard.core.events import Event


def now() -> Moment:
    """This moment, as Ollama writes it."""
    at = datetime.now(timezone.utc)
    return Moment(at.isoformat().replace("+00:00", "Z"), int(at.timestamp()))


@dataclass(frozen=True)
class DoorAttendant:
    """The attendant of one session's door (seam.Attendant). ``emit`` is called on the door's event loop."""

    settings: Callable[[], DoorSettings]
    services: Services
    emit: Callable[[Event], None]
    clock: Callable[[], float] = time.monotonic
    moment: Callable[[], Moment] = now
    _breaks: Breaks = field(init=False, repr=False)
    _entrance: Entrance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """One memory of broken answers for the session, and one of models made and deleted."""
        object.__setattr__(self, "_breaks", Breaks(self.clock))
        object.__setattr__(self, "_entrance", Entrance(self.services.shelf))

    def attends(self, upstream: Upstream, method: str, path: str) -> bool:
        """Whether it is a request for text. Ollama has its own protocol and OpenAI's, other servers have the latter."""
        form = FORMS.get(path)
        if method != "POST" or form is None:
            return False
        if upstream.kind == "ollama":
            return path.startswith(("/api/", "/v1/"))
        return form in ("openai_chat", "openai_text")

    def visit(self, call: Call) -> TextVisit:
        """A new request for text."""
        house = House(
            self.settings(), self.services, self.emit, self._breaks, self.clock, self.moment
        )
        return TextVisit(call, house)

    async def permits(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        """The refusal of what could be carried out of the machine; None for all else. A refusal is told."""
        if not self.settings().refuse_cloud:
            return None
        refused = await self._entrance.judge(upstream, method, path, body)
        if refused is None:
            return None
        what, words = cloud.shown(refused.what), refused.words
        self.emit(RequestRefused(0, "main", "other", what, refused.reason, said=(words,)))
        return error(words.removeprefix(PREFIX), refused.status, path)
