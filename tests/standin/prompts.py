"""Makes the prompts of a stand-in as Ollama 0.30 to 0.35 does: by which template, what is dropped, what is cut.

The two stages of truncation are those of server/prompt.go (messages) and llm/llama_server.go (tokens).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.readings import Unavailable
from aider_guard.counting.prompt import PromptFormat, render
from standin.child import ChildError
from standin.log import slog

if TYPE_CHECKING:
    from standin.models import StoredModel

Messages = Sequence[dict[str, Any]]
Version = tuple[int, ...]
CUT_TO_HALF: Final = (0, 30, 11)
REFUSED_WITHOUT_SHIFT: Final = (0, 30, 9)
"""From these versions on."""
TOO_LONG: Final = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)


def with_own(model: StoredModel, messages: Messages) -> list[dict[str, Any]]:
    """A conversation with the model's own messages and system text in front (``ChatHandler``)."""
    has_system = bool(messages) and messages[0].get("role") == "system"
    system = [{"role": "system", "content": model.system}] if model.system else []
    return [*([] if has_system else system), *model.messages, *messages]


def rendered(model: StoredModel, messages: Messages, *, think: bool | None) -> str:
    """A conversation as text, by the model's renderer or by its template in Go. Raises ``ChildError``."""
    if model.renderer:
        if (by_code := RENDERERS.get(model.renderer)) is None:
            raise ChildError(f"unknown renderer {model.renderer!r}")
        return by_code(messages)
    return by_template(model.go_template or "{{ .Prompt }}", messages, think=think)


def by_template(template: str, messages: Messages, *, think: bool | None) -> str:
    """A conversation as text, by a template in Go. Raises ``ChildError``."""
    said = tuple(Message(one["role"], one.get("content") or "") for one in messages)
    text = render(PromptFormat(template), ChatRequest("chat", "", said, stream=False), think=think)
    if isinstance(text, Unavailable):
        raise ChildError(text.reason)
    return text


def qwen3_coder(messages: Messages) -> str:
    """ChatML with the first system text alone; an answer at the end is gone on with (model/renderers/qwen3coder.go)."""
    systems = [one["content"] for one in messages if one["role"] == "system" and one["content"]]
    others = [one for one in messages if one["role"] != "system"]
    turns = [("system", text) for text in systems[:1]]
    turns += [(one["role"], one["content"]) for one in others]
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    if others and others[-1]["role"] == "assistant":
        return text.removesuffix("<|im_end|>\n")
    return f"{text}<|im_start|>assistant\n" if others else text


RENDERERS: Final[dict[str, Callable[[Messages], str]]] = {"qwen3-coder": qwen3_coder}


async def fitting(
    messages: Messages,
    window_tokens: int,
    count: Callable[[Messages], Awaitable[int]],
    *,
    is_native: bool,
) -> list[dict[str, Any]]:
    """The messages without the oldest that do not fit; system messages and the last message stay."""
    for first in range(len(messages)):
        systems = [one for one in messages[:first] if one["role"] == "system"]
        kept = [*systems, *messages[first:]]
        if first == len(messages) - 1 or await count(kept) <= window_tokens:
            if first and is_native:
                words = "truncating native chat messages which exceed context length"
                slog("DEBUG", "routes.go:3087", words, truncated=first)
            elif first:
                words = "truncating input messages which exceed context length"
                slog("DEBUG", "prompt.go:77", words, truncated=len(messages) - first)
            return kept
    return list(messages)


@dataclass(frozen=True)
class Cut:
    """How a prompt is cut that does not fit: what decides is the window, and how the child was started."""

    version: Version
    window_tokens: int
    context_shift: bool
    adds_bos: bool

    def tokens(self, tokens: list[int], keep: int) -> list[int]:
        """What the model gets to read. Raises ``ChildError`` where nothing may be cut."""
        most = self.window_tokens - 1
        if len(tokens) <= most:
            return tokens
        if not self.context_shift and self.version >= REFUSED_WITHOUT_SHIFT:
            raise ChildError(TOO_LONG, 400)
        keep = min((keep if keep >= 0 else len(tokens)) + self.adds_bos, most)
        limit = most
        if self.version >= CUT_TO_HALF:
            limit = self.window_tokens - max((self.window_tokens - keep) // 2, 1)
        seen = [*tokens[:keep], *tokens[len(tokens) - limit + keep :]]
        numbers = {"limit": limit, "prompt": len(tokens), "keep": keep, "new": len(seen)}
        slog("WARN", "llama_server.go:317", "truncating input prompt", **numbers)
        return seen
