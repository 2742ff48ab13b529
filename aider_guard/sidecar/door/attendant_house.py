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
        """The pin where a request can carry it; else what is known to be loaded, or what the server said of itself."""
        pin = self.settings.window_tokens
        if upstream.kind == "openai":
            return self._told(asked.model, upstream.path)
        if asked.form in ("chat", "generate") and pin > 0:
            return pin
        return self.services.residency.loaded_window(asked.model)

    def _told(self, model: str, path: str) -> int | Unavailable:
        """What a server that is not Ollama said its window is, before the first prompt."""
        roles = (role for role in self.settings.roles if (role.path, role.model) == (path, model))
        windows = [role.window_tokens for role in roles if role.window_tokens > 0]
        return windows[0] if windows else Unavailable("this server did not tell its window")
