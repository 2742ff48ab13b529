"""Encodes and decodes the JSON lines between the door and the process that counts its prompts.

The door loads this and not what counts: a vocabulary takes some 50 MB and a second to load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from aider_guard.core.chat.request import ChatRequest, Form, Message
from aider_guard.core.chat.types import CountedBy
from aider_guard.core.codec import MAX_LINE_BYTES, WireError, build

# Keys of a body that a prompt depends on, besides its messages; of most only whether they are there.
_THINK: Final = "think"
_FORMS: Final[Mapping[str, Form]] = {form: form for form in get_args(Form)}
_PRESENT: Final = ("template", "suffix", "context", "images", "tools", "functions")


@dataclass(frozen=True)
class ModelServer:
    """A model, and the server that has it; ``base`` is "" for one that is not asked about its models."""

    base: str
    model: str


@dataclass(frozen=True)
class LearnModel:
    """Learn this model's vocabulary, if it can be."""

    server: ModelServer


@dataclass(frozen=True)
class Prompt:
    """The parts of a request that its count depends on."""

    form: str
    model: str
    messages: tuple[Message, ...]
    raw_prompt: str | None
    think: bool | None
    present: tuple[str, ...]

    def request(self) -> ChatRequest:
        """Return the request, as far as it is known here."""
        form = _FORMS.get(self.form, "chat")
        body = {**dict.fromkeys(self.present, True), _THINK: self.think}
        return ChatRequest(
            form, self.model, self.messages, True, raw_prompt=self.raw_prompt, body=body
        )


@dataclass(frozen=True)
class CountPrompt:
    """Count a prompt. ``number`` names it in a ``MeasuredPrompt`` that may follow.

    ``rendered`` is its text as the server makes it, with the template; None where that is not known.
    """

    number: int
    server: ModelServer
    prompt: Prompt
    rendered: str | None = None


@dataclass(frozen=True)
class CountPlain:
    """Count single texts."""

    server: ModelServer
    texts: tuple[str, ...]


@dataclass(frozen=True)
class MeasuredPrompt:
    """Learn how many tokens the server evaluated of a prompt that was counted before, and that it saw whole."""

    number: int
    tokens: int


@dataclass(frozen=True)
class PromptCount:
    """The answer to ``CountPrompt``."""

    tokens: int
    exact: bool
    error_percent: float
    counted_by: CountedBy = ""


@dataclass(frozen=True)
class CountedTexts:
    """The answer to ``CountPlain``."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Acknowledgement:
    """The answer to the others: "" or what went wrong."""

    problem: str = ""


Question = LearnModel | CountPrompt | CountPlain | MeasuredPrompt
Answer = PromptCount | CountedTexts | Acknowledgement

_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind for kind in (*get_args(Question), *get_args(Answer))
}


def prompt_of(request: ChatRequest) -> Prompt:
    """Return the parts of a request that its count depends on."""
    think = request.body.get(_THINK)
    present = tuple(key for key in _PRESENT if request.body.get(key))
    think = None if think is None else bool(think)
    form, model, messages = request.form, request.model, request.messages
    return Prompt(form, model, messages, request.raw_prompt, think, present)


def encode(value: Question | Answer) -> bytes | None:
    """Return the line of a value; None when it is longer than a line may be."""
    # vars() is much cheaper than asdict(), which copies every text.
    line = json.dumps([type(value).__name__, value], default=vars, separators=(",", ":")).encode()
    return line + b"\n" if len(line) < MAX_LINE_BYTES else None


def decode(line: bytes) -> Any:
    """Return the value of a line. Raises ``WireError`` for any other."""
    try:
        name, value = json.loads(line)
        return build(_KINDS[name], value)
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"not a line of the counter's ({type(error).__name__})") from None
