"""What all visits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.asked import Asked
from aider_guard.core.traffic.kinds import DoorSettings, Upstream
from aider_guard.core.traffic.replies import Moment
from aider_guard.sidecar.door.attendant_breaks import Breaks
from aider_guard.sidecar.door.services import Services

if TYPE_CHECKING:
    from aider_guard.core.events import Event


@dataclass(frozen=True)
class House:
    """What all visits share, and the settings at the time of this one."""

    settings: DoorSettings
    services: Services
    emit: Callable[[Event], None]
    breaks: Breaks
    clock: Callable[[], float]
    moment: Callable[[], Moment]

    def window(self, asked: Asked, upstream: Upstream) -> int | Unavailable:
        """The pin where a request can carry it; else what is known to be loaded."""
        pin = self.settings.window_tokens
        if upstream.kind == "ollama" and asked.form in ("chat", "generate") and pin > 0:
            return pin
        return self.services.residency.loaded_window(asked.model)
