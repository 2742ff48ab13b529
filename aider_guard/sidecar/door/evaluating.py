"""Having the head of a prompt evaluated ahead, in pieces small enough that nobody waits for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.heads import Head
from aider_guard.sidecar import answers
from aider_guard.sidecar.door.asking import Post

PIECE_SECONDS: Final = 0.5
"""How long a piece shall take: Ollama finishes one that it has begun, also when its client went away."""
FIRST_CHARACTERS: Final = 256
_GROWTH: Final = 4
# Where the cache cannot be cut back (recurrent layers), each piece is evaluated from the beginning.
_SLOW: Final = 5


@dataclass
class Evaluated:
    """How much of a head was evaluated so far, and why not more."""

    tokens: int = 0
    problem: str = ""


async def evaluate(post: Post, head: Head, clock: Callable[[], float], found: Evaluated) -> None:
    """Have a head evaluated; ``found`` is kept up to date, as the task may be cancelled at any time."""
    done, size, fastest = 0, FIRST_CHARACTERS, 0.0
    while done < head.characters and not found.problem:
        end = min(head.characters, done + size)
        started_at = clock()
        answer = await post(head.path, head.beginning(end))
        if isinstance(answer, Unavailable):
            found.problem = answer.reason
            return
        seconds = max(clock() - started_at, 0.001)
        tokens, speed = answer.get("prompt_eval_count"), (end - done) / seconds
        found.tokens = tokens if answers.is_count(tokens) else found.tokens
        fastest = max(fastest, speed)
        if seconds > PIECE_SECONDS * _SLOW and speed * _SLOW < fastest:
            found.problem = "Ollama does not keep what it has evaluated of this model's prompts"
        done = end
        size = int(min(max(speed * PIECE_SECONDS, FIRST_CHARACTERS), size * _GROWTH))
