"""Evidence → verdict: whether the model saw the whole prompt."""

from __future__ import annotations

from dataclasses import dataclass

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.kinds import Count, Verdict


@dataclass(frozen=True)
class LogEvidence:
    """What Ollama's log said while a request ran; 0 for nothing of the kind.

    ``cut_from`` and ``cut_to`` are ``prompt`` and ``new`` of "truncating input prompt", ``evaluated_tokens`` is
    ``task.n_tokens`` of llama-server's "new prompt" line, ``dropped_messages`` whether the debug line of dropped
    messages was there, ``shifted`` whether the context was shifted while the answer was written.
    """

    cut_from: int = 0
    cut_to: int = 0
    evaluated_tokens: int = 0
    slot_window_tokens: int = 0
    dropped_messages: bool = False
    shifted: bool = False


@dataclass(frozen=True)
class Evidence:
    """What is known of one request that was answered. ``prompt_bytes`` is an upper bound of its tokens, as no token
    is shorter than a byte; 0 where it is not known.
    """

    version: str | Unavailable
    window_tokens: int | Unavailable
    counted: Count | Unavailable
    prompt_bytes: int
    prompt_tokens: int | Unavailable
    answer_tokens: int | Unavailable
    done_reason: str
    truncation_forbidden: bool = False
    """Whether the request said ``"truncate": false`` to a server that knows it."""
    log: LogEvidence | Unavailable = Unavailable("the server's log is not read")
    is_ollama: bool = True


def judge(evidence: Evidence) -> Verdict:
    """The verdict; ``unknown`` wherever neither can be shown."""
    raise NotImplementedError
