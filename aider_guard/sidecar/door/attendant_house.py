"""What all visits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aider_guard.core.chat.replies import Moment
from aider_guard.core.chat.request import Asked
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
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
        """The pin where a request can carry it, and no more than the model was trained for: Ollama loads no more, and
        does not say so. Else what is known to be loaded, or what the server said of itself.
        """
        pin = self.settings.window_tokens
        if upstream.kind == "openai":
            return self._told(asked.model, upstream.path)
        if asked.form in ("chat", "generate") and pin > 0:
            trained = self.services.facts.trained(asked.model)
            return min(pin, trained) if isinstance(trained, int) else pin
        return self.services.residency.loaded_window(asked.model)

    @property
    def version(self) -> str | Unavailable:
        """The version of this Ollama, as last polled; where no poll has told it yet, as asked for this request."""
        polled = self.services.residency.version
        return self.services.facts.version if isinstance(polled, Unavailable) else polled

    async def learn(self, asked: Asked, upstream: Upstream) -> None:
        """Wait a moment for what decides how much of a prompt may be sent."""
        if upstream.kind == "ollama":
            unknown = isinstance(self.services.residency.version, Unavailable)
            await self.services.facts.learn(asked.model, version=unknown)

    def _told(self, model: str, path: str) -> int | Unavailable:
        """What a server that is not Ollama said its window is, before the first prompt."""
        roles = (role for role in self.settings.roles if (role.path, role.model) == (path, model))
        windows = [role.window_tokens for role in roles if role.window_tokens > 0]
        return windows[0] if windows else Unavailable("this server did not tell its window")
