"""A while in which the user sees nothing of what Aider prints, and Aider nothing of what the user types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from aider_guard.core.screen import ShownPrompt
from aider_guard.session.keys import CURSOR_QUERY, without_answers

Purpose = Literal["tokens", "save", "restart"]


@dataclass
class Hold:
    """What is held back, in order, and the prompt that stands on the screen meanwhile.

    The child's cursor queries are answered with the terminal's answer to the one before: the screen stays as it is,
    so what the child believes of the cursor stays true.
    """

    purpose: Purpose
    screen: ShownPrompt | None
    answer: Callable[[], None]
    output: bytearray = field(default_factory=bytearray)
    keys: bytearray = field(default_factory=bytearray)
    _half_query: bytes = b""

    def child_wrote(self, data: bytes) -> None:
        """Keep the child's bytes and answer the queries among them."""
        self.output += data
        seen = self._half_query + data
        self._half_query = seen[1 - len(CURSOR_QUERY) :]
        for _ in range(seen.count(CURSOR_QUERY)):
            self.answer()

    def user_typed(self, data: bytes) -> None:
        """Keep the user's keys. Answers of the terminal to earlier queries are nobody's any more."""
        self.keys += without_answers(data)
