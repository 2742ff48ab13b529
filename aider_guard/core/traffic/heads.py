"""The head of a prompt: what the next one will begin with too, and the requests that have it evaluated ahead.

Aider's order (coders/chat_chunks.py, 0.86): system text, examples, read-only files, map of the repository; then the
history, the files that may be edited, and the question. A new Aider has another history, so the head ends before it.

Ollama does not stop in the middle of a prompt whose client went away (0.9.3: the runner looks for that only when it has
an answer to send), so a head is evaluated in pieces, each the beginning of the next: what is dropped is one piece.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.asked import Asked
from aider_guard.core.traffic.bodies import sent
from aider_guard.core.traffic.flattened import prompt_blocks
from aider_guard.core.traffic.kinds import DoorSettings, Upstream
from aider_guard.core.traffic.parts import parts

RUNNER_OPTIONS: Final = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "use_mlock",
    "num_thread",
    "numa",
    "low_vram",
    "draft_num_predict",
)
"""The options that a runner is started with (api/types.go, Runner): a request with others loads the model again."""
_ANSWERS: Final = ("num_predict", "stop", "seed", "temperature")
_QUESTION: Final = {"role": "user", "content": "."}
"""Some templates refuse a conversation in which nobody asks anything."""


@dataclass(frozen=True)
class Head:
    """The beginning of a prompt, ready to be sent. Kept in memory only."""

    path: str
    body: Mapping[str, Any] = field(repr=False)
    """The request without its prompt."""
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    """For ``/api/chat``."""
    prompt: str = field(repr=False)
    """For ``/api/generate``."""

    @property
    def characters(self) -> int:
        """How long it is."""
        return len(self.prompt) + sum(len(message["content"]) for message in self.messages)

    def beginning(self, characters: int) -> dict[str, Any]:
        """The body that has this much of the head evaluated, with the smallest answer."""
        if self.prompt:
            return {**self.body, "prompt": self.prompt[:characters]}
        messages = list(_cut(self.messages, characters))
        if not any(message.get("role") == "user" for message in messages):
            messages.append(_QUESTION)
        return {**self.body, "messages": messages}


def head_of(
    asked: Asked, settings: DoorSettings, upstream: Upstream, version: str | Unavailable
) -> Head | None:
    """The head of a main request to Ollama, as the door would send it; None when it has none that is known."""
    if not may_have_head(asked) or upstream.kind != "ollama":
        return None
    body = json.loads(sent(asked, _encoded(asked.body), settings, upstream, version))
    length = _fixed_length(asked)
    if asked.form == "generate":
        return _flattened_head(asked, body, length)
    messages = tuple(_cut(_plain(body.get("messages")), length))
    return Head("/api/chat", _smallest(body, "messages"), messages, "") if messages else None


def may_have_head(asked: Asked) -> bool:
    """Whether a request is the main model's, and of a form that is understood."""
    of_the_user = asked.role == "main" and asked.purpose in ("chat", "other")
    return of_the_user and asked.form in ("chat", "generate") and asked.raw_prompt is None


def loading(
    model: str, options: Mapping[str, Any], settings: DoorSettings, keep_alive: object
) -> dict[str, Any]:
    """The body for ``/api/generate`` that loads a model and asks nothing (Ollama's routes.go: no prompt), with the
    runner's options of the last request and the pin, as with any other option it would be loaded again.
    """
    pin = {"num_ctx": settings.window_tokens} if settings.window_tokens > 0 else {}
    body: dict[str, Any] = {"model": model, "stream": False, "options": {**options, **pin}}
    return body if keep_alive is None else {**body, "keep_alive": keep_alive}


def runner_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a request says that a runner is started with."""
    options = body.get("options")
    found = options if isinstance(options, dict) else {}
    return {name: found[name] for name in RUNNER_OPTIONS if found.get(name) is not None}


def _fixed_length(asked: Asked) -> int:
    """How many characters of the messages the next Aider will send again."""
    fixed = itertools.takewhile(
        lambda part: part.kind in ("system", "map") or (part.kind == "file" and part.read_only),
        parts(asked),
    )
    return sum(len(part.text) for part in fixed)


def _flattened_head(asked: Asked, body: dict[str, Any], length: int) -> Head | None:
    prompt = body.get("prompt")
    if body.get("system") or not isinstance(prompt, str) or len(asked.messages) != 1:
        return None
    end, left = 0, length
    for block in prompt_blocks(prompt):
        if left < len(block.content):
            heading = 0 if block.whole == block.content else block.whole.index("\n") + 1
            end += heading + left if left else 0
            break
        end, left = end + len(block.whole), left - len(block.content)
    return Head("/api/generate", _smallest(body, "prompt"), (), prompt[:end]) if end else None


def _plain(messages: object) -> Sequence[Mapping[str, Any]]:
    """The messages up to the first that is more than a text."""
    listed = messages if isinstance(messages, list) else []
    return tuple(itertools.takewhile(_is_plain, listed))


def _is_plain(message: object) -> bool:
    match message:
        case {"role": str(), "content": str(), **more}:
            return not any(more.values())
    return False


def _cut(messages: Sequence[Mapping[str, Any]], characters: int) -> Sequence[Mapping[str, Any]]:
    """The messages that have the first so many characters."""
    found = []
    for message in messages:
        if characters <= 0:
            break
        found.append({**message, "content": message["content"][:characters]})
        characters -= len(message["content"])
    return found


def _smallest(body: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    """The request without its prompt, for one token of an answer of any form."""
    options = {name: value for name, value in body["options"].items() if name not in _ANSWERS}
    rest = {name: value for name, value in body.items() if name not in (prompt, "format")}
    return {**rest, "stream": False, "options": {**options, "num_predict": 1}}


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode("ascii")
