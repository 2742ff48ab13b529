"""The next prompt as Aider tells it before the user has typed the message: read, made ready to be sent, compared.

Aider tells messages (launch/inside/next_prompt.py). What is sent of them must be byte for byte what the request will
begin with, or the server evaluates it in vain: it is made by the same functions as the request itself, from the body of
the last request to the same model, and the two are compared when the request comes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aider_guard.core.chat.body import PromptHead, body_to_send, is_plain_message, shortest_answer
from aider_guard.core.chat.request import (
    FORMS,
    ChatRequest,
    asks_for_nothing,
    prompt_blocks,
    read,
)
from aider_guard.core.chat.size import parts
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable

_PATHS: Final = {"ollama_chat": "/api/chat", "ollama": "/api/generate"}
"""Aider's prefixes of Ollama's models, and where litellm sends their requests."""
_MESSAGE: Final = "\N{WHITE SQUARE}"
"""Stands for the new message, and is cut off again. It may be anything that the door itself never answers."""


@dataclass(frozen=True)
class NextPrompt:
    """What the next request will begin with. Kept in memory only."""

    path: Literal["/api/chat", "/api/generate"]
    model: str
    """As Ollama knows it."""
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    think: Any = None


def parse_told(line: bytes) -> NextPrompt | Unavailable | None:
    """Return what a line of Aider's says; Unavailable where Aider cannot tell, None for a line that is no whole one.

    Any program that got hold of the pipe may have written it: what does not fit is left out.
    """
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match told:
        case {"unknown": str(reason)}:
            return Unavailable(reason[:200])
        case {"model": str(name), "messages": list(messages)}:
            prefix, _, model = name.partition("/")
            if prefix not in _PATHS:
                return Unavailable("the model is not one of Ollama's")
            plain = tuple(itertools.takewhile(is_plain_message, messages))
            path: Any = _PATHS[prefix]
            return NextPrompt(path, model, plain, told.get("think"))
    return None


def next_head(
    prompt: NextPrompt,
    last: ChatRequest | None,
    settings: DoorSettings,
    upstream: Upstream,
    version: str | Unavailable,
) -> PromptHead | None:
    """Return the head that the next request will begin with, as the door would send it; None where there is nothing.

    ``last`` is the last request of the main model, whose options and format the next one will have. Before the first
    request they are the user's own settings of the model, as far as they decide what the model is loaded with.
    """
    if not prompt.messages:
        return None
    body = _body(prompt, last, settings)
    listed = [*prompt.messages, {"role": "user", "content": _MESSAGE}]
    is_chat = prompt.path == "/api/chat"
    name = "messages" if is_chat else "prompt"
    body[name] = listed if is_chat else flattened(listed)
    request = read(FORMS[prompt.path], body, settings, upstream.path)
    sent = json.loads(
        body_to_send(request, json.dumps(body).encode("ascii"), settings, upstream, version)
    )
    sent.setdefault("options", {})
    if is_chat:
        messages = tuple(sent["messages"][:-1])
        return (
            PromptHead(prompt.path, shortest_answer(sent, name), messages, "") if messages else None
        )
    text = sent["prompt"][: sent["prompt"].rindex(_MESSAGE)]
    return PromptHead(prompt.path, shortest_answer(sent, name), (), text) if text else None


def _body(prompt: NextPrompt, last: ChatRequest | None, settings: DoorSettings) -> dict[str, Any]:
    fits = last is not None and same_model(last.model, prompt.model)
    if last is not None and fits and last.form == FORMS[prompt.path]:
        return dict(last.body)
    options = {
        option.name: option.value
        for role in settings.roles
        if not role.path and same_model(role.model, prompt.model)
        for option in role.runner_options
    }
    think = {} if prompt.think is None else {"think": prompt.think}
    return {"model": prompt.model, "options": options, **think}


def flattened(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return messages as litellm makes one prompt of them for ``ollama/`` models (``ollama_pt``, 1.81).

    That of 1.65.0, with Aider 0.80, leaves out the message behind each answer: its prompts part from these.
    """
    blocks = (
        (role, "".join(message["content"] for message in group))
        for role, group in itertools.groupby(messages, lambda message: message["role"])
    )
    return "".join(f"### {role.capitalize()}:\n{text}\n\n" for role, text in blocks if text)


@dataclass(frozen=True)
class HeadMatch:
    """How much of a head a request began with, in characters, and in which part of the request the two part.

    ``parted_in`` is "" where the request begins with the whole head.
    """

    matched: int
    characters: int
    parted_in: str = ""

    @property
    def percent(self) -> int:
        """The share of the head that the request began with; 100 only for all of it."""
        return int(100 * self.matched / self.characters) if self.characters else 100


def sent_prompt(request: ChatRequest, settings: DoorSettings, upstream: Upstream) -> PromptHead:
    """Return the whole prompt of a request as the door sends it."""
    version = Unavailable("it makes no difference to the prompt")
    body = json.dumps(request.body).encode("ascii")
    sent = json.loads(body_to_send(request, body, settings, upstream, version))
    prompt, listed = sent.get("prompt"), sent.get("messages")
    if isinstance(prompt, str) and request.form == "generate":
        return PromptHead("/api/generate", {}, (), prompt)
    plain = itertools.takewhile(is_plain_message, listed if isinstance(listed, list) else ())
    return PromptHead("/api/chat", {}, tuple(plain), "")


def compare_with_head(head: PromptHead, sent: PromptHead, request: ChatRequest) -> HeadMatch:
    """Compare a head with the request that came, whose prompt is sent as ``sent_prompt`` returns it."""
    matched = matched_characters(head, sent)
    if matched >= head.characters:
        return HeadMatch(matched, head.characters)
    text = sent.prompt[:matched]
    place = sum(len(block.content) for block in prompt_blocks(text)) if text else matched
    return HeadMatch(matched, head.characters, _part_at(request, place))


def matched_characters(head: PromptHead, other: PromptHead) -> int:
    """Return with how many characters of a head another prompt begins, as the server sees both."""
    if head.path != other.path:
        return 0
    if head.prompt:
        return _same(head.prompt, other.prompt)
    matched = 0
    for before, after in zip(head.messages, other.messages):  # noqa: B905  # one is usually longer
        if before["role"] != after["role"]:
            break
        matched += _same(before["content"], after["content"])
        if before["content"] != after["content"]:
            break
    return matched


def known_characters(head: PromptHead, cached: PromptHead, *, answered: bool) -> int:
    """Return how much of a head the server has in its cache, which holds another prompt and, if answered, its answer.

    What is sent first must be as long as that: a shorter prompt would have the server cut its cache back.
    """
    matched = matched_characters(head, cached)
    if not answered or matched < cached.characters or head.prompt:
        return matched
    following = head.messages[len(cached.messages) :][:1]
    return matched + sum(len(one["content"]) for one in following if one["role"] == "assistant")


def is_compared(request: ChatRequest) -> bool:
    """Whether a request is the one that answers the user's message, with the main model."""
    of_the_user = request.role == "main" and request.purpose in ("chat", "other")
    return of_the_user and request.form in ("chat", "generate") and not asks_for_nothing(request)


def _same(left: str, right: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    if right.startswith(left):
        return len(left)
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return low


def _part_at(request: ChatRequest, characters: int) -> str:
    """Return the kind of the part of a request that holds the character at this place."""
    end = 0
    for part in parts(request):
        end += len(part.text)
        if characters < end:
            return "message" if part.current else "read-only" if part.read_only else part.kind
    return "end"


UNUSED_TO_REST: Final = 2
_USED_PERCENT: Final = 50


@dataclass(frozen=True)
class Usefulness:
    """How often in a row what was read ahead was of no use. Decides whether ``auto`` goes on."""

    unused: int = 0

    def after(self, match: HeadMatch) -> Usefulness:
        """Return what is known after one more request."""
        return Usefulness(0 if match.percent >= _USED_PERCENT else self.unused + 1)

    @property
    def reason_to_rest(self) -> str:
        """Why nothing is read ahead, "" where it is."""
        if self.unused < UNUSED_TO_REST:
            return ""
        return "the last prompts did not begin with what was expected"
