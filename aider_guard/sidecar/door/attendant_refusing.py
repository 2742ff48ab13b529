"""The answers that the door gives itself to one request, and the event that tells each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic import cloud, overflow, own, troubles
from aider_guard.core.traffic.asked import Asked
from aider_guard.core.traffic.events import NOT_TOLD, Reason, RequestRefused
from aider_guard.core.traffic.kinds import Count
from aider_guard.core.traffic.parts import parts
from aider_guard.core.traffic.reading import asks_for_nothing
from aider_guard.core.traffic.replies import answer
from aider_guard.core.traffic.reserve import reply_reserve
from aider_guard.core.traffic.troubles import Asker, Failure
from aider_guard.sidecar.door.attendant_account import part_rows
from aider_guard.sidecar.door.attendant_house import House
from aider_guard.sidecar.door.seam import Call, Reply
from aider_guard.sidecar.here import is_this_machine
from aider_guard.sidecar.names import display_base, is_cloud_name

_NOTHING_TO_EDIT: Final = ("nothing to edit: the request was not answered by a model",)


def error(words: str, status: int) -> Reply:
    """An error in Ollama's form, to a request that wants no text."""
    return Reply(json.dumps({"error": f"{own.PREFIX}{words}"}).encode("ascii"), status)


@dataclass(frozen=True)
class Refusing:
    """Answers one request in the door's words."""

    call: Call
    house: House
    asked: Asked

    def nothing_to_edit(self) -> Reply:
        """To an architect's editor whose instructions are the door's own words. It was told already."""
        return self._said(_NOTHING_TO_EDIT)

    def elsewhere(self) -> Reply | None:
        """The refusal of a model that does not run here; None for one that does."""
        if self.call.upstream.kind != "ollama" or not self.house.settings.refuse_cloud:
            return None
        for name in cloud.named_models(self.call.path, self.asked.body):
            host = self.house.services.shelf.remote_host(name)
            if host or is_cloud_name(name):
                return self._refuse("cloud", cloud.refusal(name, troubles.printable(host)))
        return None

    def answered_elsewhere(self, host: str) -> Reply:
        """What ends the answer of a model that turned out not to run here."""
        return self._refuse("cloud", cloud.refusal(self.asked.model, troubles.printable(host)))

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
        asker = Asker(
            self.asked.model,
            display_base(upstream.base),
            is_ollama=upstream.kind == "ollama",
            is_here=is_this_machine(upstream.base),
            window_tokens=settings.window_tokens,
            smaller_windows=settings.smaller_windows,
            alike=self.house.services.shelf.alike(self.asked.model),
        )
        return self._refuse(failure.reason, troubles.lines(failure, asker))

    def _refuse(
        self, reason: Reason, lines: Sequence[str], found: overflow.Overflow | None = None
    ) -> Reply:
        asked = self.asked
        if asks_for_nothing(asked):
            return error("; ".join(lines), 403 if reason == "cloud" else 502)
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
