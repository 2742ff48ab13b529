"""Judges by the evidence whether the model saw the whole prompt.

The server's log comes first where it is about this very request (others may run beside it), then exact counts, then the
prompt's size in bytes, then estimates outside their error. Where both are possible the verdict is ``unknown``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from aider_guard.core.chat.types import Count, Stage, Verdict
from aider_guard.core.ollama_versions import KEEPS, REFUSES, UNKNOWN_ERA, Era, era_of
from aider_guard.core.readings import Unavailable

LOG_NOT_READ: Final = Unavailable("the server's log is not read")


@dataclass(frozen=True)
class LoggedCut:
    """The log's warning of a prompt whose tokens were cut: how many there were, and how many are left.

    The first number does not include messages that were dropped before.
    """

    prompt_tokens: int
    left_tokens: int


@dataclass(frozen=True)
class LoggedPrompt:
    """A prompt as the runner got it, after any cut. ``window_tokens`` is the runner's, 0 where not logged."""

    tokens: int
    window_tokens: int = 0


@dataclass(frozen=True)
class LogEvidence:
    """What Ollama logged while a request ran; other requests may have run at the same time.

    ``dropped_messages`` is whether the debug line of dropped messages was logged, ``shifts`` how often the context was
    shifted while an answer was written, ``tells_all`` whether debug lines are logged, so that a missing one counts.
    """

    cuts: tuple[LoggedCut, ...] = ()
    prompts: tuple[LoggedPrompt, ...] = ()
    dropped_messages: bool = False
    shifts: int = 0
    tells_all: bool = False


@dataclass(frozen=True)
class Evidence:
    """The evidence on one request that was answered.

    ``prompt_bytes`` is an upper bound of the prompt's tokens, template and special tokens included, as no token is
    shorter than a byte; 0 where unknown. ``prompt_tokens`` and ``answer_tokens`` are the server's own numbers.
    """

    version: str | Unavailable
    window_tokens: int | Unavailable
    counted: Count | Unavailable
    prompt_bytes: int
    prompt_tokens: int | Unavailable
    answer_tokens: int | Unavailable
    done_reason: str
    truncation_forbidden: bool = False
    """Whether the request had ``"truncate": false``, to a server that knows it (never for ``/v1``)."""
    log: LogEvidence | Unavailable = LOG_NOT_READ
    is_ollama: bool = True
    never_truncates: bool = False
    """Whether Ollama's MLX runner runs the model (format ``safetensors``), which refuses instead."""


# While an answer is written, a full window loses the oldest tokens of the prompt.


def after_the_answer(
    evidence: Evidence, era: Era, prompt: Verdict, seen: int | Unavailable
) -> Verdict:
    """Return the verdict on prompt and answer, by the verdict on the prompt and the number of its evaluated tokens.

    The last token of an answer is never evaluated. If the answer ended where the window does, the prompt's verdict gets
    the stage ``generation``: the answer was cut, the prompt was not.
    """
    answer, window = evidence.answer_tokens, evidence.window_tokens
    if not (isinstance(answer, int) and isinstance(window, int) and isinstance(seen, int)):
        log = evidence.log
        if isinstance(log, LogEvidence) and log.shifts and len(log.prompts) <= 1:
            words = "Ollama's log tells that the context was shifted while an answer was written"
            return Verdict("unknown", f"{prompt.evidence}; {words}", "generation")
        return prompt
    held = _held(evidence.log, era, window, seen)
    over = seen + answer - 1 - held
    if seen > held:
        return prompt  # the window is another one
    if over > 0:
        return _shifted(prompt, seen, answer, over, held)
    if era is UNKNOWN_ERA and seen + answer - 1 >= window:
        return replace(prompt, outcome="unknown", evidence="prompt and answer fill the window")
    if over == 0 and evidence.done_reason == "length" and prompt.outcome == "whole":
        words = f"{prompt.evidence}; the answer ended where the window of {window:,} tokens does"
        return replace(prompt, evidence=words, stage="generation")
    return prompt


def _held(log: LogEvidence | Unavailable, era: Era, window: int, seen: int) -> int:
    """Return how many tokens fit before some are dropped; the log may show the runner's own window."""
    if isinstance(log, LogEvidence):
        windows = {logged.window_tokens for logged in log.prompts if logged.tokens == seen}
        if len(windows) == 1 and (own := windows.pop()):
            return own - 1 if era.pads else own
    return era.held_tokens(window) + (era is UNKNOWN_ERA)


def _shifted(prompt: Verdict, seen: int, answer: int, over: int, held: int) -> Verdict:
    """Return the verdict after shifts, each of which drops half of the held tokens, but for the first ones."""
    block = max((held - KEEPS[0]) // 2, 1)
    gone = min(-(-over // block) * block, max(seen - KEEPS[0], 0))
    if not gone:
        return prompt  # all of it is kept
    words = (
        f"a prompt of {seen:,} tokens and an answer of {answer:,} do not fit the window: about {gone:,} tokens of the "
        "prompt were given up while the answer was written"
    )
    if seen <= KEEPS[1]:  # with a BOS token in front all of it is kept, and that is not known here
        return replace(prompt, outcome="unknown", evidence=words)
    if prompt.outcome == "unknown":
        return Verdict("cut", words, "generation", Unavailable("more may have been cut before"))
    return Verdict("cut", words, "generation", gone)


_SLACK_TOKENS: Final = 16
"""By how many tokens a template that is not known in full may differ."""
_NOT_REFUSED: Final = Verdict(
    "whole", "Ollama was told to refuse a prompt that does not fit, and did not"
)
NOT_KNOWN: Final = Unavailable("the server does not tell how much it saw")


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict; ``unknown`` wherever neither can be shown."""
    if evidence.never_truncates:
        return Verdict("whole", "this model's runner refuses what is too long")
    era = era_of(evidence.version) if evidence.is_ollama else REFUSES
    log = evidence.log if isinstance(evidence.log, LogEvidence) else LogEvidence()
    window = evidence.window_tokens if isinstance(evidence.window_tokens, int) else None
    reported = evidence.prompt_tokens if isinstance(evidence.prompt_tokens, int) else None
    seen = reported if era.counts_cached else None
    if not era.counts_cached and reported is not None and len(log.prompts) == 1:
        # Without the cached tokens: the log has them all, if it can only be about this request.
        logged = log.prompts[0].tokens
        seen = logged if logged >= reported else None
    case = _Case(evidence, era, log, window, reported, seen)
    prompt = _of_the_prompt(case)
    counted = evidence.counted
    if prompt.outcome == "whole" and isinstance(counted, Count) and counted.is_partial:
        prompt = Verdict("unknown", f"the model's template leaves messages out; {prompt.evidence}")
    if prompt.outcome == "cut" or not evidence.is_ollama:
        return prompt
    if seen is None and prompt.outcome == "whole" and isinstance(counted, Count) and counted.exact:
        seen = counted.tokens
    return after_the_answer(evidence, case.era, prompt, NOT_KNOWN if seen is None else seen)


@dataclass(frozen=True)
class _Case:
    """The evidence, and the numbers that follow from it; None for those that do not."""

    given: Evidence
    era: Era
    log: LogEvidence
    window: int | None
    reported: int | None
    evaluated: int | None
    """The number of all tokens of the prompt that the model saw."""

    @property
    def at_cut_size(self) -> bool:
        """Whether the server evaluated exactly as many tokens as it leaves of a prompt that it cuts."""
        sizes = self.era.cut_sizes(self.window) if self.window else ()
        return self.evaluated in sizes

    @property
    def cut_stage(self) -> Stage:
        """How a prompt was cut that is larger than the window: "" where the size of the rest does not show it."""
        if self.at_cut_size:
            return "tokens"
        return "messages" if self.window and self.era.cut_sizes(self.window) else ""

    @property
    def is_beyond(self) -> bool:
        """Whether more was evaluated than the window holds: dropping messages has not made the prompt fit."""
        if self.window is None or self.evaluated is None:
            return False
        return self.evaluated > self.window

    def fits(self, tokens: int) -> bool:
        """Whether a prompt of this size is certainly not cut."""
        return self.window is not None and tokens <= self.era.whole_tokens(self.window)

    def exceeds(self, tokens: int) -> bool:
        """Whether a prompt of this size is certainly larger than the window."""
        return self.window is not None and tokens > self.era.longest_tokens(self.window)

    def overflows(self, tokens: int) -> bool:
        """Whether a prompt of this size is certainly cut."""
        return self.exceeds(tokens) and self.era.leaves != "nothing"


def _of_the_prompt(case: _Case) -> Verdict:
    counted = case.given.counted
    exact = counted if isinstance(counted, Count) and counted.exact else None
    estimate = counted if isinstance(counted, Count) and not counted.exact else None
    if exact and exact.tokens in (case.reported, case.evaluated):
        words = f"{exact.tokens:,} tokens counted before, and as many evaluated"
        return Verdict("whole", words)
    verdict = (
        _by_logged_cut(case, counted)
        or (_by_exact_count(case, exact.tokens) if exact else None)
        or (_by_shortness(case, estimate) if estimate else None)
        or _by_bytes(case)
        or _by_logged_silence(case, estimate)
        or (_by_estimate(case, estimate) if estimate else None)
    )
    if verdict is not None:
        return verdict
    if case.given.truncation_forbidden:
        return _NOT_REFUSED
    if case.at_cut_size:
        words = (
            f"{case.evaluated:,} tokens were evaluated: as many as are left of a prompt that is cut"
        )
        return Verdict("unknown", words)
    return Verdict("unknown", "nothing shows whether the prompt was cut")


def _by_logged_cut(case: _Case, counted: Count | Unavailable) -> Verdict | None:
    """Return the verdict by a logged cut that is of this request."""
    ours = [cut for cut in case.log.cuts if _is_ours(case, cut, counted)]
    if not ours:
        return None
    tokens = counted.tokens if isinstance(counted, Count) else 0
    cut = min(ours, key=lambda logged: abs(logged.prompt_tokens - tokens)) if tokens else ours[-1]
    gone = max(cut.prompt_tokens, tokens) - cut.left_tokens
    size, left = cut.prompt_tokens, cut.left_tokens
    words = f"Ollama's log: a prompt of {size:,} tokens was cut to {left:,}"
    return Verdict("cut", words, "tokens", gone)


def _is_ours(case: _Case, cut: LoggedCut, counted: Count | Unavailable) -> bool:
    """Whether a logged cut is of this request: its rest was evaluated, and the prompt was large enough."""
    reported, exactly = case.reported, case.era.counts_cached
    most = case.given.prompt_bytes or cut.prompt_tokens
    if isinstance(counted, Count) and (counted.exact or reported is None or not exactly):
        most = min(most, counted.at_most)
    if most < cut.prompt_tokens or case.fits(most):
        return False
    if reported is None:
        return True
    return cut.left_tokens == reported if exactly else cut.left_tokens >= reported


def _by_exact_count(case: _Case, tokens: int) -> Verdict | None:
    evaluated = case.evaluated
    if evaluated is not None and evaluated < tokens:
        words = f"{tokens:,} tokens counted before, {evaluated:,} evaluated"
        if case.given.truncation_forbidden and case.fits(tokens):
            is_close = tokens - evaluated <= max(_SLACK_TOKENS, tokens // 50)
            return _NOT_REFUSED if is_close else Verdict("unknown", words)
        stage: Stage = "" if case.fits(tokens) else case.cut_stage
        return Verdict("cut", words, stage, tokens - evaluated)
    seen = case.reported if evaluated is None else evaluated
    if seen is not None and seen > tokens:
        # More were evaluated than counted: with much room left, nothing was cut.
        room = max(_SLACK_TOKENS, tokens // 50)
        if seen - tokens <= room and case.fits(tokens + 2 * room):
            words = f"{seen:,} tokens evaluated, {seen - tokens:,} more than counted before"
            return Verdict("whole", words)
        return None
    if case.fits(tokens):
        return Verdict("whole", f"{tokens:,} tokens counted before fit the window")
    if case.overflows(tokens) and not case.given.truncation_forbidden:
        words = f"{tokens:,} tokens counted before do not fit the window of {case.window:,}"
        return Verdict("cut", words, "", NOT_KNOWN)
    return None


def _by_shortness(case: _Case, estimate: Count) -> Verdict | None:
    """Return the verdict on a prompt of which far fewer tokens were evaluated than estimated: it is never whole.

    Ollama need not have cut it: a template without the system text loses that of every prompt.
    """
    evaluated = case.evaluated
    if evaluated is None or evaluated + _SLACK_TOKENS >= estimate.at_least:
        return None
    may_be_cut = not (case.fits(estimate.at_most) or case.given.truncation_forbidden)
    if case.log.dropped_messages or may_be_cut or case.exceeds(estimate.at_least):
        return None  # the log, or the estimate with the window, says more
    words = f"about {estimate.tokens:,} tokens estimated before, only {evaluated:,} evaluated"
    return Verdict("unknown", words)


def _by_bytes(case: _Case) -> Verdict | None:
    size = case.given.prompt_bytes
    if size and case.fits(size) and (case.reported is None or case.reported <= size):
        return Verdict("whole", f"the prompt has {size:,} bytes: not more tokens than the window")
    return None


def _by_logged_silence(case: _Case, estimate: Count | None) -> Verdict | None:
    """Return the verdict by Ollama's debug lines, which name every dropped message, matched by the prompt's size."""
    sizes = [prompt.tokens for prompt in case.log.prompts]
    is_ours = any(size in (case.reported, case.evaluated) for size in sizes)
    is_alone = not sizes or (is_ours and len(sizes) == 1)
    may_be = is_alone and not (estimate and case.fits(estimate.at_most))
    if case.log.dropped_messages and may_be and not case.is_beyond:
        gone = estimate.tokens - case.evaluated if estimate and case.evaluated is not None else 0
        words = "Ollama's log: messages were dropped because they did not fit the window"
        return Verdict("cut", words, "messages", gone if gone > 0 else NOT_KNOWN)
    if case.log.tells_all and is_ours and not case.log.cuts and not case.log.dropped_messages:
        return Verdict("whole", "Ollama's log has every prompt that is cut, and not this one")
    return None


def _by_estimate(case: _Case, estimate: Count) -> Verdict | None:
    evaluated, forbidden = case.evaluated, case.given.truncation_forbidden
    is_short = evaluated is not None and evaluated < estimate.at_least
    is_more = case.reported is not None and case.reported > estimate.at_most
    if case.fits(estimate.at_most):
        fits = f"about {estimate.tokens:,} tokens fit the window"
        return None if is_short or is_more else Verdict("whole", fits)
    is_larger = case.exceeds(estimate.at_least)
    if is_short and (is_larger or not forbidden):
        assert evaluated is not None
        words = f"about {estimate.tokens:,} tokens estimated before, {evaluated:,} evaluated"
        stage: Stage = case.cut_stage if is_larger else ""
        return Verdict("cut", words, stage, estimate.tokens - evaluated)
    if evaluated is None and case.overflows(estimate.at_least) and not forbidden:
        words = f"about {estimate.tokens:,} tokens do not fit the window of {case.window:,}"
        return Verdict("cut", words, "", NOT_KNOWN)
    if not case.given.is_ollama and evaluated is not None and not is_more:
        return Verdict("whole", f"{evaluated:,} tokens evaluated, as many as estimated before")
    return None
