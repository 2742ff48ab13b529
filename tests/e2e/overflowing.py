"""Ten prompts that overflow a small window by every route, or just do not, and what is true of each.

Their sizes are known by construction: "the" is one token of the shallow model's, and so are each mark of its template
and each role, but for "assistant", which is two (``<|im_start|>``, role and newline before a message and at the end,
``<|im_end|>`` and newline after it). ``test_overflow_reality.py`` measures that it is so,
and that Ollama does what is expected here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fakes.ollama_eras import Part, Prompt, numbers

from aider_guard.core.chat.types import Stage

MODEL = "shallow"
WINDOW_TOKENS = 256
MESSAGE_TOKENS = {"system": 5, "user": 5, "assistant": 6}
TAIL_TOKENS = 4


@dataclass(frozen=True)
class Overflowing:
    """One request, and the verdict that is true of it; ``prompt`` is the same in numbers."""

    name: str
    path: Literal["/api/chat", "/api/generate"]
    body: dict[str, Any]
    prompt: Prompt
    outcome: Literal["whole", "cut"]
    stage: Stage
    since_0_30: tuple[Literal["whole", "cut"], Stage] | None = None
    """The same from 0.30 on, where it is another: the last place of the window is kept free."""

    def verdict(self, version: str) -> tuple[Literal["whole", "cut"], Stage]:
        """What is true on a server of this version."""
        if self.since_0_30 is not None and numbers(version) >= (0, 30):
            return self.since_0_30
        return self.outcome, self.stage

    @property
    def tokens(self) -> int:
        """How many tokens the whole prompt has."""
        return self.prompt.tokens

    @property
    def fits(self) -> bool:
        """Whether the prompt is not larger than the window."""
        return self.tokens <= WINDOW_TOKENS


def words(tokens: int) -> str:
    """A text of so many tokens."""
    return " ".join(["the"] * tokens)


def _options(num_predict: int) -> dict[str, Any]:
    return {"num_ctx": WINDOW_TOKENS, "num_predict": num_predict, "temperature": 0, "seed": 1}


def _chat(
    name: str,
    messages: list[tuple[str, int]],
    outcome: Literal["whole", "cut"],
    stage: Stage,
    *,
    num_predict: int = 1,
) -> Overflowing:
    body = {
        "model": MODEL,
        "messages": [{"role": role, "content": words(size)} for role, size in messages],
        "options": _options(num_predict),
    }
    parts = tuple(Part(role, size + MESSAGE_TOKENS[role]) for role, size in messages)
    prompt = Prompt(parts, WINDOW_TOKENS, TAIL_TOKENS, num_predict=num_predict)
    return Overflowing(name, "/api/chat", body, prompt, outcome, stage)


def _generate(
    name: str,
    size: int,
    outcome: Literal["whole", "cut"],
    stage: Stage,
    *,
    raw: bool = False,
    num_predict: int = 1,
    since_0_30: tuple[Literal["whole", "cut"], Stage] | None = None,
) -> Overflowing:
    body = {"model": MODEL, "prompt": words(size), "raw": raw, "options": _options(num_predict)}
    parts = (Part("user", size if raw else size + MESSAGE_TOKENS["user"]),)
    tail = 0 if raw else TAIL_TOKENS
    prompt = Prompt(parts, WINDOW_TOKENS, tail, num_predict=num_predict, raw=raw)
    return Overflowing(name, "/api/generate", body, prompt, outcome, stage, since_0_30)


_HISTORY = [("user", 25), ("assistant", 30)] * 6
_FULL = WINDOW_TOKENS - MESSAGE_TOKENS["user"] - TAIL_TOKENS

TEN = (
    _chat("many messages", [("system", 20), *_HISTORY, ("user", 25)], "cut", "messages"),
    _chat("one huge message", [("user", 400)], "cut", "tokens"),
    _chat("a system message and a huge one", [("system", 30), ("user", 400)], "cut", "tokens"),
    _generate("a generated text, too long", 400, "cut", "tokens"),
    _generate("a raw prompt, too long", 400, "cut", "tokens", raw=True),
    _chat("one token too many", [("user", _FULL + 1)], "cut", "tokens"),
    _generate(
        "exactly the window",
        WINDOW_TOKENS,
        "cut",
        "generation",
        raw=True,
        num_predict=4,
        since_0_30=("cut", "tokens"),
    ),
    _generate("an answer beyond the window", 240, "cut", "generation", raw=True, num_predict=18),
    _generate(
        "an answer to its end",
        240,
        "whole",
        "generation",
        raw=True,
        num_predict=17,
        since_0_30=("cut", "generation"),
    ),
    _chat("one that fits", [("system", 20), *_HISTORY[:4], ("user", 25)], "whole", ""),
)
