"""Counts the tokens of a request, as exactly as is possible for its model, and learns from the server's answers."""

from __future__ import annotations

import hashlib
import re
from collections import Counter as Sums
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, Generic, Literal, TypeVar

from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import Count, CountedBy
from aider_guard.counting.learned import Learned, Overhead
from aider_guard.counting.prompt import (
    PromptFormat,
    depends_on_thinking,
    has_template,
    is_text_only,
    messages_of,
    render,
)
from aider_guard.counting.vocabulary import Vocabulary

Kind = Literal["code", "prose", "data", "wide", "strange"]
"""A kind of text: how far cl100k is from another vocabulary depends on it.

``data`` is mostly digits, ``wide`` Chinese, Japanese or Korean, ``strange`` other signs beyond ASCII.
"""

_WIDE: Final = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_DIGITS, _CODE = "0123456789", "{}()[]<>=;_/\\#\"'`*+|&$:"


def kind_of(text: str) -> Kind:
    """Return the kind of most of a text."""
    size = len(text)
    beyond = size - len(text.encode("ascii", "ignore"))
    if beyond > 0.2 * size:
        return "wide" if 2 * len(_WIDE.findall(text)) > beyond else "strange"
    signs = size - sum(map(text.count, " \n\t"))
    if sum(map(text.count, _DIGITS)) > 0.3 * signs:
        return "data"
    return "code" if sum(map(text.count, _CODE)) > 0.08 * signs else "prose"


PIECE_CHARACTERS: Final = 2000
MAX_CHARACTERS: Final = 8_000_000

Value = TypeVar("Value")

# The end of a line between a sign and a letter: no pattern in vocabulary.py reaches over it, or looks over it.
_CUT: Final = re.compile(r"(?<=\S\n)(?=[A-Za-z])")


def pieces(text: str) -> Iterator[str]:
    """Cut a long text into pieces that are counted one by one, so that equal pieces are counted once.

    The cuts are where no token reaches over. Equal beginnings have equal pieces.
    """
    start = 0
    while cut := _CUT.search(text, start + PIECE_CHARACTERS):
        yield text[start : cut.start()]
        start = cut.start()
    if start < len(text):
        yield text[start:]


class Memo(Generic[Value]):
    """A function of a text whose last values are remembered, in memory only."""

    def __init__(
        self, function: Callable[[str], Value], max_characters: int = MAX_CHARACTERS
    ) -> None:
        self._function = function
        self._max_characters = max_characters
        self._characters = 0
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __call__(self, text: str) -> Value:
        """Return the function's value."""
        if text in self._values:
            self._values.move_to_end(text)
            return self._values[text]
        value = self._values[text] = self._function(text)
        self._characters += len(text)
        while self._characters > self._max_characters:
            forgotten, _ = self._values.popitem(last=False)
            self._characters -= len(forgotten)
        return value


_ROLES: Final = ("system", "user", "assistant")
_BYTES_A_TOKEN: Final = 3.5
NO_ENCODING_ERROR: Final = 60.0
"""How far a guess by the bytes alone may be off, in per cent."""
PARTLY_ERROR: Final = 15.0
"""How far a count may be off where a prompt holds more than its text: pictures, tools."""

Encoding = Callable[[str], int]


@dataclass(frozen=True)
class WeightedCount:
    """A count, with what is needed to learn from the answer."""

    count: Count
    roles: tuple[int, ...] = ()
    bases: tuple[int, ...] = ()
    """The prompt's tokens by the vocabulary: where the request does not say whether to think, and where it says yes."""
    by_kind: Mapping[str, int] = field(default_factory=dict)
    teaches: bool = True


class ModelCounter:
    """Counts one model's prompts. ``encoding`` counts with cl100k, None where it is missing."""

    def __init__(
        self,
        prompt_format: PromptFormat,
        vocabulary: Vocabulary | None,
        encoding: Encoding | None,
        learned: Learned,
    ) -> None:
        self._format = prompt_format
        self._vocabulary = vocabulary
        self._knows_encoding = encoding is not None
        if vocabulary is not None:
            self._plain = Memo(vocabulary.count_plain)
        encode = encoding or (lambda text: round(len(_in_bytes(text)) / _BYTES_A_TOKEN))
        self._kinds: Memo[tuple[Kind, int]] = Memo(lambda piece: (kind_of(piece), encode(piece)))
        template = _in_bytes(f"{prompt_format.own_renderer}{prompt_format.template}")
        digest = hashlib.sha256(template).hexdigest()[:16]
        same = learned.template == digest
        self.learned = learned if same else Learned(learned.ratios, template=digest)

    def text(self, text: str) -> int:
        """Count the tokens of a single text."""
        if self._vocabulary is not None:
            return self._exactly(text)
        return self.learned.ratios.estimate(self._by_kind([text]), 0).tokens

    def weigh(self, request: ChatRequest, rendered_text: str | None = None) -> WeightedCount:
        """Count the tokens of a prompt.

        ``rendered_text`` is its text as the server makes it, where that is known: with a vocabulary it is enough.
        """
        if rendered_text is not None and self._vocabulary is not None:
            tokens = self._exactly(rendered_text) + self._vocabulary.added
            return WeightedCount(Count(tokens, exact=True, counted_by="rendered"), teaches=False)
        weighted = self._weigh_messages(request)
        counted_by: CountedBy = "estimate" if self._vocabulary is None else "vocabulary"
        return replace(weighted, count=replace(weighted.count, counted_by=counted_by))

    def _weigh_messages(self, request: ChatRequest) -> WeightedCount:
        messages = messages_of(self._format, request)
        roles = tuple(sum(message.role == role for message in messages) for role in _ROLES)
        if request.raw_prompt is not None and request.form == "generate":
            messages, roles = (), ()
        if self._vocabulary is None:
            texts = [request.raw_prompt or "", *(message.content for message in messages)]
            return self._by_ratios(texts, roles, plain=is_text_only(request))
        if not messages:
            tokens = self._exactly(request.raw_prompt or "") + self._vocabulary.added
            return WeightedCount(Count(tokens, exact=True), teaches=False)
        rendered = self._count_rendered(request)
        if rendered and self.learned.overhead.nothing:
            return self._by_template(rendered, roles)
        contents = sum(self._exactly(message.content) for message in messages)
        bases = rendered or (contents + self._vocabulary.added,)
        return self._by_overhead(bases, roles, text_only=is_text_only(request))

    def _count_rendered(self, request: ChatRequest) -> tuple[int, ...]:
        """Count the rendered prompt, once or twice (see ``WeightedCount.bases``); none where it cannot be rendered."""
        if not has_template(self._format):
            return ()
        think = request.body.get("think")
        ways = [think if isinstance(think, bool) else None]
        if ways == [None] and self._format.thinks and depends_on_thinking(self._format):
            ways = [None, True]
        texts = [render(self._format, request, think=way) for way in ways]
        assert self._vocabulary is not None
        added = self._vocabulary.added
        return tuple(self._exactly(text) + added for text in texts if isinstance(text, str))

    def _by_template(self, bases: tuple[int, ...], roles: tuple[int, ...]) -> WeightedCount:
        thinks = self.learned.thinks
        if thinks is not None or len(set(bases)) == 1:
            chosen = bases[-1] if thinks else bases[0]
            return WeightedCount(Count(chosen, exact=True), roles, bases)
        most = max(bases)
        error = round(100 * (most - min(bases)) / most + 0.1, 1)
        return WeightedCount(Count(most, exact=False, error_percent=error), roles, bases)

    def _by_overhead(
        self, bases: tuple[int, ...], roles: tuple[int, ...], *, text_only: bool
    ) -> WeightedCount:
        base = bases[-1] if self.learned.thinks else bases[0]
        exactly = self.learned.overhead.exactly(roles) if text_only else None
        if exactly is not None:
            return WeightedCount(Count(base + exactly, exact=True), roles, bases)
        more, off = self.learned.overhead.about(roles)
        tokens = max(1, base + more)
        error = round(100 * off / tokens, 1) if text_only else PARTLY_ERROR
        count = Count(tokens, exact=False, error_percent=error)
        return WeightedCount(count, roles, bases, teaches=text_only)

    def _by_ratios(self, texts: list[str], roles: tuple[int, ...], *, plain: bool) -> WeightedCount:
        by_kind = self._by_kind(texts)
        count = self.learned.ratios.estimate(by_kind, sum(roles))
        if not self._knows_encoding:
            count = replace(count, error_percent=NO_ENCODING_ERROR)
        elif not plain:
            count = replace(count, error_percent=max(count.error_percent, PARTLY_ERROR))
        return WeightedCount(count, roles, by_kind=by_kind, teaches=plain and self._knows_encoding)

    def learn(self, weighted: WeightedCount, true_tokens: int) -> bool:
        """Learn from the tokens that the server evaluated of a prompt; return whether ``learned`` changed."""
        before = self.learned
        if not weighted.teaches or true_tokens <= 0:
            return False
        if weighted.bases:
            self.learned = self._with_sample(weighted, true_tokens)
        else:
            ratios = before.ratios.learn(weighted.by_kind, sum(weighted.roles), true_tokens)
            self.learned = replace(before, ratios=ratios)
        return self.learned != before

    def _with_sample(self, weighted: WeightedCount, true_tokens: int) -> Learned:
        learned, bases = self.learned, weighted.bases
        if len(set(bases)) > 1 and true_tokens in bases:
            learned = replace(learned, thinks=true_tokens == bases[-1])
        base = bases[-1] if learned.thinks else bases[0]
        overhead = learned.overhead.learn(weighted.roles, true_tokens - base)
        # As long as nothing is added, there is nothing to remember.
        return replace(learned, overhead=Overhead() if overhead.nothing else overhead)

    def _exactly(self, text: str) -> int:
        assert self._vocabulary is not None
        parts = self._vocabulary.split(text)
        return sum(1 if special else sum(map(self._plain, pieces(part))) for part, special in parts)

    def _by_kind(self, texts: list[str]) -> Mapping[str, int]:
        sums: Sums[str] = Sums()
        for kind, tokens in map(self._kinds, chain.from_iterable(map(pieces, texts))):
            sums[kind] += tokens
        return dict(sums)


def _in_bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
