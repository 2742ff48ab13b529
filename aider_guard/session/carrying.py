"""How much of what was said goes on to the next Aider."""

from __future__ import annotations

from aider_guard.core.chatlog import Exchange
from aider_guard.launch.pins import DEFAULT_WINDOW_TOKENS


def limit_tokens(keep: float, window_tokens: int | None) -> int:
    """The most that may be carried over: *keep* of the window, and less than what Aider would summarise with a
    request of its own at its start. Its limit is a sixteenth of the window, from 1,024 to 8,192 (aider/models.py).
    """
    window = window_tokens or DEFAULT_WINDOW_TOKENS
    return int(min(keep * window, 0.9 * min(max(window / 16, 1024), 8192)))


def estimate_tokens(exchange: Exchange) -> int:
    """A number of cl100k tokens that is seldom exceeded, for when the sidecar cannot count: two bytes each."""
    return (len(exchange.user.encode()) + len(exchange.assistant.encode())) // 2 + 8
