"""Long texts in pieces that are counted one by one, so that what was counted once costs nothing the next time."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

PIECE_CHARACTERS: Final = 2000
MAX_CHARACTERS: Final = 8_000_000

Value = TypeVar("Value")

# The end of a line between a sign and a letter: no pattern of patterns.py reaches over it, or looks over it.
_BORDER: Final = re.compile(r"(?<=\S\n)(?=[A-Za-z])")


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of some length, cut where tokens cannot reach over. Equal beginnings have equal pieces."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        border = _BORDER.search(text, start + PIECE_CHARACTERS)
        if border is None:
            break
        yield text[start : border.start()]
        start = border.start()
    if start < len(text):
        yield text[start:]


class Remembered(Generic[Value]):
    """A function of a text whose last values are remembered, in memory only."""

    def __init__(
        self, function: Callable[[str], Value], max_characters: int = MAX_CHARACTERS
    ) -> None:
        self._function = function
        self._max_characters = max_characters
        self._characters = 0
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __call__(self, text: str) -> Value:
        """The function's value."""
        if text in self._values:
            self._values.move_to_end(text)
            return self._values[text]
        value = self._values[text] = self._function(text)
        self._characters += len(text)
        while self._characters > self._max_characters:
            forgotten, _ = self._values.popitem(last=False)
            self._characters -= len(forgotten)
        return value
