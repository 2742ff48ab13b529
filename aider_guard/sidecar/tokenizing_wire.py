"""What the door asks of the process that counts prompts, and what it answers: one JSON line each way (see lines.py).

They hold prompts, so they go through a pipe and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from aider_guard.core.chat.request import Asked, Form, Message
from aider_guard.core.wire import MAX_LINE_BYTES, WireError, build

# Keys of a body that a prompt depends on, besides its messages; of most only whether they are there.
_THINK: Final = "think"
_FORMS: Final[Mapping[str, Form]] = {form: form for form in get_args(Form)}
_PRESENT: Final = ("template", "suffix", "context", "images", "tools", "functions")


@dataclass(frozen=True)
class Place:
    """A model, and the server that has it; ``base`` is "" for one that is not asked about its models."""

    base: str
    model: str


@dataclass(frozen=True)
class LearnModel:
    """Learn this model's vocabulary, if it can be."""

    place: Place


@dataclass(frozen=True)
class Prompt:
    """What a count depends on, of a request."""

    form: str
    model: str
    messages: tuple[Message, ...]
    raw_prompt: str | None
    think: bool | None
    present: tuple[str, ...]

    def asked(self) -> Asked:
        """The request, with what is known of it here."""
        form = _FORMS.get(self.form, "chat")
        body = {**dict.fromkeys(self.present, True), _THINK: self.think}
        return Asked(form, self.model, self.messages, True, raw_prompt=self.raw_prompt, body=body)


@dataclass(frozen=True)
class CountPrompt:
    """Count a prompt. ``number`` names it in a ``Measured`` that may follow."""

    number: int
    place: Place
    prompt: Prompt


@dataclass(frozen=True)
class CountPlain:
    """Count single texts."""

    place: Place
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """The server evaluated so many tokens of a prompt that was counted before, and saw it whole."""

    number: int
    tokens: int


@dataclass(frozen=True)
class Counted:
    """The answer to ``CountPrompt``."""

    tokens: int
    exact: bool
    error_percent: float


@dataclass(frozen=True)
class CountedTexts:
    """The answer to ``CountPlain``."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Noted:
    """The answer to the others: "" or what was wrong."""

    problem: str = field(default="")


Question = LearnModel | CountPrompt | CountPlain | Measured
Answer = Counted | CountedTexts | Noted

_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind
    for kind in (LearnModel, CountPrompt, CountPlain, Measured, Counted, CountedTexts, Noted)
}


def prompt_of(asked: Asked) -> Prompt:
    """What a count depends on."""
    think = asked.body.get(_THINK)
    present = tuple(key for key in _PRESENT if asked.body.get(key))
    return Prompt(
        asked.form,
        asked.model,
        asked.messages,
        asked.raw_prompt,
        None if think is None else bool(think),
        present,
    )


def encode(value: Question | Answer) -> bytes | None:
    """One line; None when it is longer than a line may be."""
    # vars() is much cheaper than asdict(), which copies every text.
    line = json.dumps([type(value).__name__, value], default=vars, separators=(",", ":")).encode()
    return line + b"\n" if len(line) < MAX_LINE_BYTES else None


def decode(line: bytes) -> Any:
    """The value of a line. Raises ``WireError`` for any other."""
    try:
        name, value = json.loads(line)
        return build(_KINDS[name], value)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"not a line of the counter's ({type(error).__name__})") from None
