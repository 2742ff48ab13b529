"""Accounts for a finished request: whether the model saw all of it, and the event that reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aider_guard.core.chat.events import NOT_TOLD, RequestFinished
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.response import Usage
from aider_guard.core.chat.size import Part, bound_tokens, rows
from aider_guard.core.chat.types import Count, Verdict
from aider_guard.core.ollama_versions import era_of
from aider_guard.core.readings import ContextRow, Unavailable
from aider_guard.core.truncation import LOG_NOT_READ, Evidence, LogEvidence, judge
from aider_guard.door.interfaces import IncomingRequest, Outcome, PromptCounter, RequestTarget

FinishedOutcome = Literal["answered", "cancelled", "broken"]


@dataclass(frozen=True)
class Account:
    """All that is known of one finished request."""

    incoming: IncomingRequest
    request: ChatRequest
    outcome: Outcome
    usage: Usage
    counted: Count | Unavailable
    window_tokens: int | Unavailable
    version: str | Unavailable
    truncation_forbidden: bool
    first_byte_seconds: float | Unavailable
    log: LogEvidence | Unavailable = LOG_NOT_READ
    never_truncates: bool = False
    left_out: int = 0
    cached_tokens: int | Unavailable = NOT_TOLD
    """How much of the prompt the server knew already: told in its answer, or seen at its process."""

    @property
    def finished(self) -> FinishedOutcome:
        """How it ended for Aider: an answer that the server broke off is broken, though all of it was passed on."""
        if self.outcome in ("cancelled", "broken"):
            return "cancelled" if self.outcome == "cancelled" else "broken"
        return "broken" if self.usage.is_broken else "answered"

    def verdict(self) -> Verdict:
        """Judge whether the model saw all of the prompt."""
        return judge(
            Evidence(
                version=self.version,
                window_tokens=self.window_tokens,
                counted=self.counted,
                prompt_bytes=bound_tokens(self.request) or 0,
                prompt_tokens=self.usage.prompt_tokens,
                answer_tokens=self.usage.answer_tokens,
                done_reason=self.usage.done_reason,
                truncation_forbidden=self.truncation_forbidden,
                log=self.log,
                never_truncates=self.never_truncates,
                is_ollama=self.incoming.upstream.kind == "ollama",
            )
        )

    def true_tokens(self, verdict: Verdict) -> int | None:
        """Return how many tokens the prompt truly has, to learn from; None where the server may count otherwise."""
        counts_all = self.incoming.upstream.kind != "ollama" or era_of(self.version).counts_cached
        tokens = self.usage.prompt_tokens
        whole = verdict.outcome == "whole" and self.finished == "answered"
        return tokens if whole and counts_all and isinstance(tokens, int) and tokens else None

    def event(self, verdict: Verdict, parts: tuple[ContextRow, ...]) -> RequestFinished:
        """Return the event that reports the request."""
        usage, counted = self.usage, self.counted
        count = counted if isinstance(counted, Count) else None
        return RequestFinished(
            number=self.incoming.number,
            role=self.request.role,
            purpose=self.request.purpose,
            model=self.request.model,
            outcome=self.finished,
            verdict=verdict,
            window_tokens=self.window_tokens,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=self.cached_tokens,
            answer_tokens=usage.answer_tokens,
            counted_tokens=count.tokens if count else NOT_TOLD,
            counted_exactly=count.exact if count else False,
            error_percent=count.error_percent if count else 0.0,
            counted_by=count.counted_by if count else "",
            load_seconds=usage.load_seconds,
            prefill_seconds=usage.prefill_seconds,
            generation_seconds=usage.generation_seconds,
            first_byte_seconds=self.first_byte_seconds,
            done_reason=usage.done_reason,
            left_out=self.left_out,
            broke_off=usage.broke_off if self.outcome == "answered" else "",
            parts=parts,
        )


async def part_rows(
    counter: PromptCounter,
    model: str,
    prompt_parts: tuple[Part, ...],
    total: Count | int | Unavailable,
    target: RequestTarget,
) -> tuple[ContextRow, ...]:
    """Return the parts of a prompt in tokens that sum up to the total; nothing where there is no total.

    Where the parts cannot be counted, the total is shared out by the length of their texts.
    """
    if isinstance(total, Unavailable) or not prompt_parts:
        return ()
    tokens = await counter.count_texts(model, [part.text for part in prompt_parts], target)
    sizes = list(tokens) if isinstance(tokens, tuple) else [len(part.text) for part in prompt_parts]
    return rows(prompt_parts, sizes, total.tokens if isinstance(total, Count) else total)
