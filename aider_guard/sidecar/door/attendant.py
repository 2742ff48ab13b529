"""Whoever decides about requests for text: what is sent, what is answered instead, and what is told of it.

The attendant does no HTTP: transport carries (seam.py), services count, read the log and know what is loaded
(services.py), and the rules are in core/traffic.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from aider_guard.core.traffic import cloud
from aider_guard.core.traffic.kinds import DoorSettings, Upstream
from aider_guard.core.traffic.reading import FORMS, TooDeepError, decoded
from aider_guard.core.traffic.replies import Moment
from aider_guard.sidecar.door.attendant_breaks import Breaks
from aider_guard.sidecar.door.attendant_house import House
from aider_guard.sidecar.door.seam import Call, Reply
from aider_guard.sidecar.door.services import Services
from aider_guard.sidecar.door.visit import TextVisit
from aider_guard.sidecar.names import is_cloud_name

if TYPE_CHECKING:
    from aider_guard.core.events import Event

_NOT_SENT_ON = ("/api/show", "/api/delete")
"""What Ollama answers by itself, also for a stub of a model that runs elsewhere (server/routes.go)."""


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
    _breaks: list[Breaks] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """One memory of broken answers for the session."""
        self._breaks.append(Breaks(self.clock))

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
            self.settings(), self.services, self.emit, self._breaks[0], self.clock, self.moment
        )
        return TextVisit(call, house)

    def permits(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        """The refusal of what Ollama would carry out of the machine; None for all else.

        A body too large to be looked at may name anything; only files (blobs) are so large.
        """
        if upstream.kind != "ollama" or not self.settings().refuse_cloud:
            return None
        if cloud.leaves(path):
            return _forbidden(path)
        if cloud.is_content(path):
            return None
        try:
            named = cloud.named_models(path, decoded(body or b"") or {})
        except TooDeepError:
            return _forbidden("what cannot be read here")
        if body is None and method not in ("GET", "HEAD"):
            return _forbidden("what is too large to be looked at")
        gone = next((name for name in named if self._is_elsewhere(path, name)), None)
        return _forbidden(gone) if gone is not None else None

    def _is_elsewhere(self, path: str, name: str) -> bool:
        if is_cloud_name(name):
            return True
        return path not in _NOT_SENT_ON and bool(self.services.shelf.remote_host(name))


def _forbidden(what: str) -> Reply:
    return Reply(json.dumps({"error": cloud.refused_words(what)}).encode("ascii"), 403)
