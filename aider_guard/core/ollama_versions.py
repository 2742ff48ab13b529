"""What differs between the versions of Ollama, as data: how they cut prompts that are too large, and their engine.

Sources: server/prompt.go (messages are dropped while the prompt has more tokens than the window, in all versions),
runner/llamarunner/runner.go and runner/ollamarunner/runner.go (0.4 to 0.24), llm/llama_server.go and llama.cpp's
server-context.cpp (0.30 and later), llm/ext_server/server.cpp (before 0.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from aider_guard.core.model_memory import Engine
from aider_guard.core.readings import Unavailable

KEEPS: Final = (4, 5)
"""How many tokens at the beginning are kept: ``num_keep``'s default (api/types.go), one more with a BOS token."""


@dataclass(frozen=True)
class Era:
    """Versions that behave alike, from ``since`` to the next era.

    A prompt of up to ``window - spare_tokens`` tokens is not cut. ``counts_cached`` is whether ``prompt_eval_count``
    includes cached tokens. ``leaves`` is the size of a cut prompt: the whole window, all but one token of it, half of
    it and the kept tokens, or no fixed number; "nothing" where it is refused. ``pads`` is whether the runner's window
    is the next multiple of 256 and keeps one place free.
    """

    since: tuple[int, ...]
    engine: Engine
    spare_tokens: int
    counts_cached: bool
    leaves: Literal["window", "all but one", "half", "any", "nothing"]
    pads: bool = False
    knows_truncate: bool = False

    def whole_tokens(self, window_tokens: int) -> int:
        """The largest prompt that is never cut."""
        return window_tokens - self.spare_tokens

    def longest_tokens(self, window_tokens: int) -> int:
        """The largest prompt that may be whole: since 0.30 some models are asked without Ollama's own cutting."""
        if not self.pads:
            return self.whole_tokens(window_tokens)
        return self.held_tokens(window_tokens) + (not self.since)

    def cut_sizes(self, window_tokens: int) -> frozenset[int]:
        """The sizes that the server reports of a prompt whose tokens were cut; empty where that is no fixed number."""
        match self.leaves:
            case "window":
                return frozenset((window_tokens,))
            case "all but one":
                return frozenset((window_tokens - 1,))
            case "half":
                return frozenset(
                    window_tokens - max((window_tokens - keep) // 2, 1) for keep in KEEPS
                )
        return frozenset()

    def held_tokens(self, window_tokens: int) -> int:
        """How many tokens the runner holds before it drops some."""
        return -(-window_tokens // 256) * 256 - 1 if self.pads else window_tokens


ERAS: Final = (
    Era((0,), "A", 1, counts_cached=False, leaves="any"),
    Era((0, 4), "A", 0, counts_cached=True, leaves="window"),
    Era((0, 11, 11), "B", 0, counts_cached=True, leaves="window"),
    Era((0, 12, 6), "B", 0, counts_cached=True, leaves="window", knows_truncate=True),
    Era((0, 30), "C", 1, counts_cached=False, leaves="all but one", pads=True, knows_truncate=True),
    Era(
        (0, 30, 1), "C", 1, counts_cached=True, leaves="all but one", pads=True, knows_truncate=True
    ),
    Era((0, 30, 11), "C", 1, counts_cached=True, leaves="half", pads=True, knows_truncate=True),
)
UNKNOWN_ERA: Final = Era((), "C", 1, counts_cached=False, leaves="any", pads=True)
"""What holds for every version; the engine is taken to be the newest."""
REFUSES: Final = Era((), "C", 1, counts_cached=True, leaves="nothing")
"""Servers that refuse a prompt that is too large: llama.cpp's, vLLM."""


def era_of(version: str | Unavailable) -> Era:
    """The era of a version; ``UNKNOWN_ERA`` for none, and for a build from source, which calls itself 0.0.0."""
    numbers = () if isinstance(version, Unavailable) else release(version)
    if len(numbers) < 2 or not any(numbers):
        return UNKNOWN_ERA
    return next(era for era in reversed(ERAS) if numbers >= era.since)


def knows_truncate(version: str | Unavailable) -> bool:
    """Whether this Ollama refuses a prompt that is too large when the request has ``"truncate": false``.

    That holds for ``/api/chat`` and ``/api/generate``: the OpenAI-compatible paths ignore the field.
    """
    return era_of(version).knows_truncate


_TELLS_WINDOW_SINCE: Final = (0, 10)


def tells_window(version: str | Unavailable) -> bool:
    """Whether this Ollama lists the window of a loaded model (``context_length`` in /api/ps, api/types.go)."""
    return not isinstance(version, Unavailable) and release(version) >= _TELLS_WINDOW_SINCE


_TELLS_CACHED_SINCE: Final = (0, 33, 3)


def tells_cached(version: str | Unavailable) -> bool:
    """Whether this Ollama's answers say how much of a prompt came from the cache (``prompt_eval_cached_count``)."""
    return not isinstance(version, Unavailable) and release(version) >= _TELLS_CACHED_SINCE


def reserves_all_logits(version: str) -> bool:
    """Whether this Ollama's llama.cpp has room for the logits of a whole batch: that of 0.30.0 (b9452) does.

    llama.cpp#23861 ended that on 1 or 2 June 2026. The build of 0.30.1 to 0.30.3 (b9479) is of the same two days, so it
    is taken to do so too; 0.30.4 has one of the day after (b9493).
    """
    return (0, 30) <= release(version) < (0, 30, 4)


def release(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version, (0, 9, 3) for ``0.9.3-rc1``; empty when there are none."""
    match = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,6})*)(?![0-9])", version.strip())
    return tuple(int(part) for part in match[1].split(".")) if match else ()
