"""The process that counts prompts for the door: questions on stdin and answers on stdout, one a line (wire.py).

``python -m aider_guard.counting.process TOKENIZERS LEARNED VOCABULARIES`` is started by door/prompt_counter.py with the
folders of Aider's encodings, of what was learned, and of vocabularies; each may be "". A vocabulary takes some 50 MB
and a second to load, so it lives here and not in the door, and only as long as it is used. The lines hold prompts, so
they go through a pipe and nowhere else; no text of a prompt is written anywhere.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from aider_guard.core.model_names import canonical_name
from aider_guard.core.readings import Unavailable
from aider_guard.counting.counter import ModelCounter, WeightedCount
from aider_guard.counting.files import load_counter
from aider_guard.counting.learned import Learned, keep_learned, read_learned
from aider_guard.counting.prompt import PromptFormat, read_format
from aider_guard.counting.vocabulary import Vocabulary, vocabulary_of
from aider_guard.counting.vocabulary_files import show, vocabulary_facts
from aider_guard.counting.wire import (
    Acknowledgement,
    Answer,
    CountedTexts,
    CountPlain,
    CountPrompt,
    LearnModel,
    MeasuredPrompt,
    ModelServer,
    PromptCount,
    decode,
    encode,
)
from aider_guard.line_process import serve_lines

# More models than a session has; each may hold a vocabulary.
_MODELS: Final = 4
_UNANSWERED: Final = 64
AGAIN_SECONDS: Final = 15.0
"""How long a server that did not describe a model is left alone: asking one that hangs delays every count."""


@dataclass(frozen=True)
class Folders:
    """The folders that are read and written; "" for none."""

    tokenizers: str = ""
    learned: str = ""
    vocabularies: str = ""


class TokenizerService:
    """Answers questions, one after the other."""

    def __init__(self, folders: Folders, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._clock = clock
        self._counters: OrderedDict[ModelServer, ModelCounter] = OrderedDict()
        self._complete: set[ModelServer] = set()
        self._asked_at: dict[ModelServer, float] = {}
        self._weighed: OrderedDict[int, tuple[ModelServer, WeightedCount]] = OrderedDict()

    def answer(self, line: bytes) -> bytes:
        """Return the answer's line. Raises ``WireError`` for a line that is no question, to end the process."""
        answer: Answer = Acknowledgement("not a question")
        match decode(line):
            case LearnModel(server):
                self._complete.discard(server)
                self._asked_at.pop(server, None)
                self._counter(server)
                problem = "" if server in self._complete else "the model was not told"
                answer = Acknowledgement(problem)
            case CountPrompt(number, server, prompt, rendered):
                weighted = self._counter(server).weigh(prompt.request(), rendered)
                self._weighed[number] = (server, weighted)
                while len(self._weighed) > _UNANSWERED:
                    self._weighed.popitem(last=False)
                count = weighted.count
                error_percent = float(count.error_percent)
                answer = PromptCount(count.tokens, count.exact, error_percent, count.counted_by)
            case CountPlain(server, texts):
                answer = CountedTexts(tuple(map(self._counter(server).text, texts)))
            case MeasuredPrompt(number, tokens):
                answer = self._learn(number, tokens)
        return encode(answer) or b"\n"

    def _learn(self, number: int, tokens: int) -> Acknowledgement:
        weighed = self._weighed.pop(number, None)
        counter = self._counters.get(weighed[0]) if weighed else None
        if weighed is None or counter is None:
            return Acknowledgement("that prompt was not counted")
        server, weighted = weighed
        if counter.learn(weighted, tokens):
            keep_learned(self._folders.learned, _key(server), counter.learned)
        return Acknowledgement()

    def _counter(self, server: ModelServer) -> ModelCounter:
        counter = self._counters.get(server)
        pause_seconds = self._clock() - self._asked_at.get(server, -AGAIN_SECONDS)
        may_ask = server not in self._complete and pause_seconds >= AGAIN_SECONDS
        if counter is None or may_ask:
            counter = self._counters[server] = self._make(server, counter)
        self._counters.move_to_end(server)
        while len(self._counters) > _MODELS:
            dropped, _ = self._counters.popitem(last=False)
            self._complete.discard(dropped)
        return counter

    def _make(self, server: ModelServer, previous: ModelCounter | None) -> ModelCounter:
        """Return a counter for a model; the previous one while its server does not answer."""
        self._asked_at[server] = self._clock()
        description = show(server.base, server.model) if server.base else Unavailable("not Ollama")
        if isinstance(description, Unavailable):
            return previous or self._make_with(server, PromptFormat(), None)
        prompt_format = read_format(server.model, description)
        facts = vocabulary_facts(server.base, server.model, description, self._folders.vocabularies)
        if isinstance(facts, Unavailable):
            return previous or self._make_with(server, prompt_format, None)
        self._complete.add(server)
        vocabulary = vocabulary_of(facts)
        known = vocabulary if isinstance(vocabulary, Vocabulary) else None
        return self._make_with(server, prompt_format, known)

    def _make_with(
        self, server: ModelServer, prompt_format: PromptFormat, vocabulary: Vocabulary | None
    ) -> ModelCounter:
        encoding = load_counter(self._folders.tokenizers) if vocabulary is None else None
        encoding = None if isinstance(encoding, Unavailable) else encoding
        learned = read_learned(self._folders.learned).get(_key(server), Learned())
        return ModelCounter(prompt_format, vocabulary, encoding, learned)


def _key(server: ModelServer) -> str:
    return canonical_name(server.model) if server.base else server.model


def main() -> NoReturn:
    """Answer questions until stdin closes."""
    serve_lines(TokenizerService(Folders(*sys.argv[1:4])).answer)


if __name__ == "__main__":
    main()
