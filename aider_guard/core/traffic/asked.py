"""A request for text, understood: which model, what for, and the prompt's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aider_guard.core.traffic.kinds import Purpose, RoleName

Form = Literal["chat", "generate", "openai_chat", "openai_text"]
"""The protocol: ``/api/chat``, ``/api/generate``, ``/v1/chat/completions`` and ``/v1/completions``."""


@dataclass(frozen=True)
class Message:
    """One message of a prompt. ``plain`` is whether ``content`` is all of it: no images, no calls of tools."""

    role: str
    content: str = field(repr=False)
    plain: bool = True


@dataclass(frozen=True)
class Asked:
    """A request for text. A ``generate`` request without ``raw`` has its system text and prompt as messages, one with
    ``raw`` (and ``openai_text``) has ``raw_prompt`` instead.
    """

    form: Form
    model: str
    messages: tuple[Message, ...]
    stream: bool
    role: RoleName = "main"
    purpose: Purpose = "other"
    raw_prompt: str | None = field(default=None, repr=False)
    num_ctx: int = 0
    """What the request itself asks for; 0 for nothing."""
    num_predict: int = 0
    """The longest answer that the request asks for, in tokens; 0 for no limit."""
    has_tools: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole body, decoded."""
