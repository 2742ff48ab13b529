"""What is known of the newest request of the main model."""

from __future__ import annotations

from dataclasses import dataclass

from aider_guard.core.readings import ContextRow, Unavailable


@dataclass(frozen=True)
class Measured:
    """The newest request of the main model, as the door counted it, and what its prompt was made of.

    ``is_sure`` is False where only what was asked for is known: a request that the door refused.
    """

    prompt_tokens: int
    answer_tokens: int = 0
    window_tokens: int | Unavailable = Unavailable("the request did not tell")
    rows: tuple[ContextRow, ...] = ()
    """They sum up to about the prompt and its answer; empty where the prompt was not understood."""
    is_sure: bool = True

    @property
    def used_tokens(self) -> int:
        """The request and its answer: what the next prompt begins with."""
        return self.prompt_tokens + self.answer_tokens
