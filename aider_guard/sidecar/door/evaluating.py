"""Having the head of a prompt evaluated ahead, in pieces small enough that nobody waits for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aider_guard.core.chat.body import Head
from aider_guard.core.readings import Unavailable
from aider_guard.ollama import client
from aider_guard.sidecar.door.asking import Post

PIECE_SECONDS: Final = 0.5
"""How long a piece shall take: Ollama finishes one that it has begun, also when its client went away."""
FIRST_CHARACTERS: Final = 128
"""The smallest piece, about 40 tokens: each costs some ten more, of the template and of the answer."""
ANEW: Final = "Ollama does not keep what it has evaluated of this model's prompts"
_GROWTH: Final = 4
_SIGNS: Final = 3


@dataclass
class Evaluated:
    """How much of a head was evaluated so far, and why not more."""

    tokens: int = 0
    problem: str = ""


@dataclass
class _Pace:
    """How fast it goes, in characters a second."""

    best: float = 0.0
    signs: int = 0
    """Pieces in a row that took as long as all of the head so far might."""

    def note(self, done: int, end: int, seconds: float) -> float:
        """The speed of this piece."""
        speed = (end - done) / seconds
        suspect = end >= 4 * (end - done) and seconds * self.best > end / 2
        self.signs = self.signs + 1 if suspect else 0
        self.best = max(self.best, speed)
        return speed


@dataclass(frozen=True)
class _Pieces:
    """Sends beginnings of a head."""

    post: Post
    head: Head
    clock: Callable[[], float]
    found: Evaluated

    async def seconds(self, end: int) -> float | None:
        """How long this beginning took; None when it was refused."""
        started_at = self.clock()
        answer = await self.post(self.head.path, self.head.beginning(end))
        if isinstance(answer, Unavailable):
            self.found.problem = answer.reason
            return None
        tokens = answer.get("prompt_eval_count")
        self.found.tokens = tokens if client.is_count(tokens) else self.found.tokens
        return max(self.clock() - started_at, 0.001)

    async def are_kept(self, end: int, seconds: float) -> bool:
        """Whether the beginning that took so long takes less the second time: a busy machine looks alike at first."""
        again = await self.seconds(end)
        if again is not None and again > seconds / 2:
            self.found.problem = ANEW
        return not self.found.problem


async def evaluate(post: Post, head: Head, clock: Callable[[], float], found: Evaluated) -> None:
    """Have a head evaluated; ``found`` is kept up to date, as the task may be cancelled at any time.

    Stops where each piece is evaluated from the beginning, as a cache that cannot be cut back (recurrent layers, some
    sliding windows) makes it: that would take longer than to evaluate it once.
    """
    pieces, pace = _Pieces(post, head, clock, found), _Pace()
    done, size = 0, FIRST_CHARACTERS
    while done < head.characters:
        end = min(head.characters, done + size)
        seconds = await pieces.seconds(end)
        if seconds is None:
            return
        speed = pace.note(done, end, seconds)
        if pace.signs >= _SIGNS:
            if not await pieces.are_kept(end, seconds):
                return
            pace = _Pace()
        done = end
        size = int(min(max(speed * PIECE_SECONDS, FIRST_CHARACTERS), size * _GROWTH))
