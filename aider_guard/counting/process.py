"""The process that counts prompts: questions on stdin, answers on stdout (tokenizing_wire.py), see door/counts.py.

``python -m aider_guard.counting.process TOKENIZERS LEARNED VOCABULARIES``: the folders of Aider's encodings, of what
was learned, and of vocabularies; each may be "". A vocabulary takes some 50 MB and a second to load, so it lives here
and not in the door, and only as long as it is used. No text of a prompt is written anywhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from aider_guard.core.chat.request import ChatRequest, Form, Message
from aider_guard.core.chat.types import Count
from aider_guard.core.model_names import canonical_name
from aider_guard.core.readings import Unavailable
from aider_guard.core.wire import MAX_LINE_BYTES, WireError, build
from aider_guard.counting.counter import ModelCounter, WeightedCount
from aider_guard.counting.files import load_counter
from aider_guard.counting.learned import Learned, keep_learned, read_learned
from aider_guard.counting.prompt import PromptFormat, card_of
from aider_guard.counting.vocabulary import Vocabulary, vocabulary_of
from aider_guard.counting.vocabulary_files import show, vocabulary_facts
from aider_guard.line_process import serve_lines

# What the door asks of the process that counts prompts, and what it answers: one JSON line each way (see lines.py).
#
# They hold prompts, so they go through a pipe and nowhere else.

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

    place: ModelServer


@dataclass(frozen=True)
class Prompt:
    """What a count depends on, of a request."""

    form: str
    model: str
    messages: tuple[Message, ...]
    raw_prompt: str | None
    think: bool | None
    present: tuple[str, ...]

    def asked(self) -> ChatRequest:
        """The request, with what is known of it here."""
        form = _FORMS.get(self.form, "chat")
        body = {**dict.fromkeys(self.present, True), _THINK: self.think}
        return ChatRequest(
            form, self.model, self.messages, True, raw_prompt=self.raw_prompt, body=body
        )


@dataclass(frozen=True)
class CountPrompt:
    """Count a prompt. ``number`` names it in a ``LastRequest`` that may follow."""

    number: int
    place: ModelServer
    prompt: Prompt


@dataclass(frozen=True)
class CountPlain:
    """Count single texts."""

    place: ModelServer
    texts: tuple[str, ...]


@dataclass(frozen=True)
class MeasuredPrompt:
    """The server evaluated so many tokens of a prompt that was counted before, and saw it whole."""

    number: int
    tokens: int


@dataclass(frozen=True)
class PromptCount:
    """The answer to ``CountPrompt``."""

    tokens: int
    exact: bool
    error_percent: float


@dataclass(frozen=True)
class CountedTexts:
    """The answer to ``CountPlain``."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Acknowledgement:
    """The answer to the others: "" or what was wrong."""

    problem: str = field(default="")


Question = LearnModel | CountPrompt | CountPlain | MeasuredPrompt
Answer = PromptCount | CountedTexts | Acknowledgement

_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind
    for kind in (
        LearnModel,
        CountPrompt,
        CountPlain,
        MeasuredPrompt,
        PromptCount,
        CountedTexts,
        Acknowledgement,
    )
}


def prompt_of(asked: ChatRequest) -> Prompt:
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


# More models than a session has; each may hold a vocabulary.
_MODELS: Final = 4
_UNANSWERED: Final = 64
AGAIN_SECONDS: Final = 15.0
"""How long a server that did not tell of a model is left alone: asking one that hangs holds up every count."""


@dataclass(frozen=True)
class Folders:
    """Where things lie; "" for nowhere."""

    tokenizers: str = ""
    learned: str = ""
    vocabularies: str = ""


class TokenizerService:
    """Answers questions, one after the other."""

    def __init__(self, folders: Folders, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._clock = clock
        self._counters: OrderedDict[ModelServer, ModelCounter] = OrderedDict()
        self._told: set[ModelServer] = set()
        self._asked_at: dict[ModelServer, float] = {}
        self._weighed: OrderedDict[int, tuple[ModelServer, WeightedCount]] = OrderedDict()

    def answer(self, line: bytes) -> bytes:
        """The answer's line. Raises ``WireError`` for a line that is no question, to end the process."""
        answer: Answer = Acknowledgement("not a question")
        match decode(line):
            case LearnModel(place):
                self._told.discard(place)
                self._asked_at.pop(place, None)
                self._counter(place)
                answer = Acknowledgement("" if place in self._told else "the model was not told")
            case CountPrompt() as question:
                answer = self._count(question)
            case CountPlain(place, texts):
                counter = self._counter(place)
                answer = CountedTexts(tuple(map(counter.text, texts)))
            case MeasuredPrompt(number, tokens):
                answer = self._learn(number, tokens)
        return encode(answer) or b"\n"

    def _count(self, question: CountPrompt) -> PromptCount:
        weighed = self._counter(question.place).weigh(question.prompt.asked())
        self._weighed[question.number] = (question.place, weighed)
        while len(self._weighed) > _UNANSWERED:
            self._weighed.popitem(last=False)
        count: Count = weighed.count
        return PromptCount(count.tokens, count.exact, float(count.error_percent))

    def _learn(self, number: int, tokens: int) -> Acknowledgement:
        place, weighed = self._weighed.pop(number, (None, None))
        counter = self._counters.get(place) if place is not None else None
        if counter is None or place is None or weighed is None:
            return Acknowledgement("that prompt was not counted")
        if counter.learn(weighed, tokens):
            keep_learned(self._folders.learned, _key(place), counter.learned)
        return Acknowledgement()

    def _counter(self, place: ModelServer) -> ModelCounter:
        counter = self._counters.get(place)
        if counter is None or self._may_be_told(place):
            counter = self._counters[place] = self._made(place, counter)
        self._counters.move_to_end(place)
        while len(self._counters) > _MODELS:
            forgotten, _ = self._counters.popitem(last=False)
            self._told.discard(forgotten)
        return counter

    def _may_be_told(self, place: ModelServer) -> bool:
        asked_at = self._asked_at.get(place, -AGAIN_SECONDS)
        is_due = self._clock() - asked_at >= AGAIN_SECONDS
        return bool(place.base) and place not in self._told and is_due

    def _made(self, place: ModelServer, before: ModelCounter | None) -> ModelCounter:
        """The counter for a model; the one before while its server does not answer."""
        self._asked_at[place] = self._clock()
        shown = show(place.base, place.model) if place.base else Unavailable("not Ollama")
        if isinstance(shown, Unavailable):
            return before or self._with(place, PromptFormat(), None)
        card = card_of(place.model, shown)
        facts = vocabulary_facts(place.base, place.model, shown, self._folders.vocabularies)
        if isinstance(facts, Unavailable):
            return before or self._with(place, card, None)
        self._told.add(place)
        vocabulary = vocabulary_of(facts)
        return self._with(place, card, vocabulary if isinstance(vocabulary, Vocabulary) else None)

    def _with(
        self, place: ModelServer, card: PromptFormat, vocabulary: Vocabulary | None
    ) -> ModelCounter:
        encoding = load_counter(self._folders.tokenizers) if vocabulary is None else None
        known = encoding if not isinstance(encoding, Unavailable) else None
        learned = read_learned(self._folders.learned).get(_key(place), Learned())
        return ModelCounter(card, vocabulary, known, learned)


def _key(place: ModelServer) -> str:
    return canonical_name(place.model) if place.base else place.model


if __name__ == "__main__":
    tokenizing = TokenizerService(Folders(*sys.argv[1:4]))
    serve_lines(tokenizing.answer)
