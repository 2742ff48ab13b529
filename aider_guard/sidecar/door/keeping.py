"""Keeping the session's models in memory while nobody types."""

from __future__ import annotations

from typing import Final

from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.sidecar.door.residents import Resident, listed

RENEW_SECONDS: Final = 600.0
"""A third of the 30 minutes that each request asks for: one renewal may fail."""
# A user who is away for a meeting or a meal comes back to a loaded model. Over night the card and
# its electricity are others': who comes back in the morning waits for one load.
AWAY_SECONDS: Final = 4 * 3600.0


def is_due(
    resident: Resident,
    reading: ModelsReading | Unavailable,
    now: float,
    last_request_at: float,
) -> bool:
    """Whether to renew the stay of a model: only while Ollama lists it as this session loaded it."""
    if not resident.loaded or now - resident.touched_at < RENEW_SECONDS:
        return False
    if now - last_request_at > AWAY_SECONDS:
        return False
    found = listed(reading, resident.name)
    return found is not None and resident.entry is not None and not resident.entry.differs(found)
