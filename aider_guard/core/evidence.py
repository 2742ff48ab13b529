"""What is known of one request: what a verdict on it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.kinds import Count

LOG_NOT_READ: Final = Unavailable("the server's log is not read")


@dataclass(frozen=True)
class LoggedCut:
    """The warning of a prompt whose tokens were cut: how many there were, and how many are left.

    Messages that were dropped before are not in the first number.
    """

    prompt_tokens: int
    left_tokens: int


@dataclass(frozen=True)
class LoggedPrompt:
    """A prompt as the runner takes it, after any cut. ``window_tokens`` is the runner's, 0 where it is not told."""

    tokens: int
    window_tokens: int = 0


@dataclass(frozen=True)
class LogEvidence:
    """What Ollama's log said while a request ran. Requests of others may have run at the same time.

    ``dropped_messages`` is whether the debug line of dropped messages was there, ``shifts`` how often the context was
    shifted while an answer was written, ``tells_all`` whether the log has debug lines, so that silence means something.
    """

    cuts: tuple[LoggedCut, ...] = ()
    prompts: tuple[LoggedPrompt, ...] = ()
    dropped_messages: bool = False
    shifts: int = 0
    tells_all: bool = False


@dataclass(frozen=True)
class Evidence:
    """What is known of one request that was answered.

    ``prompt_bytes`` is an upper bound of the prompt's tokens, template and special tokens included, as no token is
    shorter than a byte; 0 where it is not known. ``prompt_tokens`` and ``answer_tokens`` are the server's own numbers.
    """

    version: str | Unavailable
    window_tokens: int | Unavailable
    counted: Count | Unavailable
    prompt_bytes: int
    prompt_tokens: int | Unavailable
    answer_tokens: int | Unavailable
    done_reason: str
    truncation_forbidden: bool = False
    """Whether the request said ``"truncate": false`` to a server that knows it (never true of ``/v1``)."""
    log: LogEvidence | Unavailable = LOG_NOT_READ
    is_ollama: bool = True
    never_truncates: bool = False
    """Whether the model is of Ollama's MLX runner (format ``safetensors``), which refuses instead."""
