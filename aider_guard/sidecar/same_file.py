"""Models under several names: Ollama has one runner for a file of weights, and lists it by the name that loaded it
(server/sched.go).
"""

from __future__ import annotations

from collections.abc import Iterable

from aider_guard.core.readings import Unavailable
from aider_guard.sidecar.names import canonical_name
from aider_guard.sidecar.ollama import OllamaClient


def same_file(
    client: OllamaClient, name: str, others: Iterable[str], timeout_seconds: float | None = None
) -> tuple[str, ...] | Unavailable:
    """Which of the other models run from the same file as this one, under another name."""
    different = [other for other in others if canonical_name(other) != canonical_name(name)]
    wanted = client.blob(name, timeout_seconds) if different else ""
    if isinstance(wanted, Unavailable) or not wanted:
        return wanted or ()
    found = []
    for other in different:
        blob = client.blob(other, timeout_seconds)
        if isinstance(blob, Unavailable):
            return blob
        if blob == wanted:
            found.append(other)
    return tuple(found)
