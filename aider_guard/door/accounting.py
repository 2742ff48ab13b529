"""What is known of a request when it is over: the verdict, and the event that tells it."""

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
from aider_guard.door.interfaces import IncomingRequest, Outcome, PromptCounter

FinishedOutcome = Literal["answered", "cancelled", "broken"]


@dataclass(frozen=True)
class Account:
    """All that was learned of one request."""

    call: IncomingRequest
    asked: ChatRequest
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

    @property
    def finished(self) -> FinishedOutcome:
        """How it ended for Aider: an answer that the server itself broke off is broken, however it was passed on."""
        if self.outcome in ("cancelled", "broken"):
            return "cancelled" if self.outcome == "cancelled" else "broken"
        unfinished = self.usage.pieces and not self.usage.ended
        return "broken" if self.usage.error or unfinished else "answered"

    def verdict(self) -> Verdict:
        """Whether the model saw all of it."""
        return judge(
            Evidence(
                version=self.version,
                window_tokens=self.window_tokens,
                counted=self.counted,
                prompt_bytes=bound_tokens(self.asked) or 0,
                prompt_tokens=self.usage.prompt_tokens,
                answer_tokens=self.usage.answer_tokens,
                done_reason=self.usage.done_reason,
                truncation_forbidden=self.truncation_forbidden,
                log=self.log,
                never_truncates=self.never_truncates,
                is_ollama=self.call.upstream.kind == "ollama",
            )
        )

    def measured_tokens(self, verdict: Verdict) -> int | None:
        """How many tokens the prompt truly has, to learn from; None where the server's number may be another."""
        counts_all = self.call.upstream.kind != "ollama" or era_of(self.version).counts_cached
        tokens = self.usage.prompt_tokens
        whole = verdict.outcome == "whole" and self.finished == "answered"
        return tokens if whole and counts_all and isinstance(tokens, int) and tokens else None

    def event(self, verdict: Verdict, parts: tuple[ContextRow, ...]) -> RequestFinished:
        """The event that tells it."""
        usage, counted = self.usage, self.counted
        known = counted if isinstance(counted, Count) else None
        return RequestFinished(
            number=self.call.number,
            role=self.asked.role,
            purpose=self.asked.purpose,
            model=self.asked.model,
            outcome=self.finished,
            verdict=verdict,
            window_tokens=self.window_tokens,
            prompt_tokens=usage.prompt_tokens,
            answer_tokens=usage.answer_tokens,
            counted_tokens=known.tokens if known else NOT_TOLD,
            counted_exactly=known.exact if known else False,
            error_percent=known.error_percent if known else 0.0,
            load_seconds=usage.load_seconds,
            prefill_seconds=usage.prefill_seconds,
            generation_seconds=usage.generation_seconds,
            first_byte_seconds=self.first_byte_seconds,
            done_reason=usage.done_reason,
            left_out=self.left_out,
            parts=parts,
        )


async def part_rows(
    counts: PromptCounter, model: str, found: tuple[Part, ...], total: Count | int | Unavailable
) -> tuple[ContextRow, ...]:
    """What the prompt is made of, in tokens that sum up to the total; by the length of the texts where nobody counts
    them; nothing where there is no total.
    """
    if isinstance(total, Unavailable) or not found:
        return ()
    tokens = await counts.count_texts(model, [part.text for part in found])
    sizes = [len(part.text) for part in found] if isinstance(tokens, Unavailable) else list(tokens)
    return rows(found, sizes, total.tokens if isinstance(total, Count) else total)
