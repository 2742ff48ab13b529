"""How much of the window is kept for the answer."""

from __future__ import annotations

from aider_guard.core.traffic.asked import Asked

_SHORTEST_TOKENS = 256
_LONGEST_TOKENS = 2048
_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 16


def reply_reserve(asked: Asked, window_tokens: int) -> int:
    """Tokens of the window that an answer needs: what the request allows it, else an eighth of the window.

    An eighth is never less than 256 or more than 2048 tokens. A request may allow more than anything could be answered
    (litellm passes a model's largest answer on): half of the window is the most that is kept. A commit message is one
    line.
    """
    eighth = max(_SHORTEST_TOKENS, min(window_tokens // 8, _LONGEST_TOKENS))
    if asked.purpose == "commit":
        eighth = _SHORTEST_TOKENS
    return min(asked.num_predict or eighth, window_tokens // 2)


def bound_tokens(asked: Asked) -> int | None:
    """More tokens than the prompt can have, as no token is shorter than a byte; None when that cannot be said.

    It cannot be said of images, of tools, and of a chat without a system message: the model's own comes in its place.
    """
    if asked.has_tools or not all(message.plain for message in asked.messages):
        return None
    if asked.raw_prompt is not None:
        return len(asked.raw_prompt.encode("utf-8", "replace")) + _TEMPLATE_TOKENS
    if not any(message.role == "system" for message in asked.messages):
        return None
    sizes = (len(message.content.encode("utf-8", "replace")) for message in asked.messages)
    return sum(sizes) + template_tokens(len(asked.messages))


def template_tokens(messages: int) -> int:
    """More tokens than a template adds to so many messages."""
    return _TEMPLATE_TOKENS + _MESSAGE_TOKENS * messages


def prompt_bytes(asked: Asked) -> int:
    """The bytes of the prompt's text, without any template."""
    texts = [message.content for message in asked.messages] or [asked.raw_prompt or ""]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
