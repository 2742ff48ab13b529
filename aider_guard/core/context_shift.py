"""What becomes of a prompt while its answer is written: where the window is full, its oldest tokens are given up."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.evidence import Evidence, LogEvidence
from aider_guard.core.ollama_eras import KEEPS, UNKNOWN_ERA, Era
from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.kinds import Verdict


def after_the_answer(
    evidence: Evidence, era: Era, prompt: Verdict, seen: int | Unavailable
) -> Verdict:
    """The verdict on prompt and answer, from the one on the prompt and how much of it was evaluated.

    The last token of an answer is never evaluated. An answer that ended where the window does is the prompt's verdict
    with the stage ``generation``: the answer was cut, the prompt was not.
    """
    answer, window = evidence.answer_tokens, evidence.window_tokens
    if any(isinstance(one, Unavailable) for one in (answer, window, seen)):
        return _by_log_alone(evidence.log, prompt)
    assert isinstance(answer, int)
    assert isinstance(window, int)
    assert isinstance(seen, int)
    held = _held(evidence.log, era, window, seen)
    over = seen + answer - 1 - held
    if seen > held:
        return prompt  # it is another window
    if over > 0:
        return _shifted(prompt, seen, answer, over, held)
    if era is UNKNOWN_ERA and seen + answer - 1 >= window:
        return replace(prompt, outcome="unknown", evidence="prompt and answer fill the window")
    if over == 0 and evidence.done_reason == "length" and prompt.outcome == "whole":
        words = f"{prompt.evidence}; the answer ended where the window of {window:,} tokens does"
        return replace(prompt, evidence=words, stage="generation")
    return prompt


def _held(log: LogEvidence | Unavailable, era: Era, window: int, seen: int) -> int:
    """How many tokens fit before some are given up; the log may tell the runner's own window."""
    if isinstance(log, LogEvidence):
        told = {one.window_tokens for one in log.prompts if one.tokens == seen}
        if len(told) == 1 and (own := told.pop()):
            return own - 1 if era.pads else own
    return era.held_tokens(window) + (era is UNKNOWN_ERA)


def _shifted(prompt: Verdict, seen: int, answer: int, over: int, held: int) -> Verdict:
    """Each shift gives up half of what is held, but for the first tokens."""
    block = max((held - KEEPS[0]) // 2, 1)
    gone = min(-(-over // block) * block, max(seen - KEEPS[0], 0))
    if not gone:
        return prompt  # all of it is kept
    words = (
        f"a prompt of {seen:,} tokens and an answer of {answer:,} do not fit the window: about {gone:,} tokens of the "
        "prompt were given up while the answer was written"
    )
    if prompt.outcome == "unknown":
        return Verdict("cut", words, "generation", Unavailable("more may have been cut before"))
    return Verdict("cut", words, "generation", gone)


def _by_log_alone(log: LogEvidence | Unavailable, prompt: Verdict) -> Verdict:
    if isinstance(log, LogEvidence) and log.shifts and len(log.prompts) <= 1:
        words = "Ollama's log tells that the context was shifted while an answer was written"
        return Verdict("unknown", f"{prompt.evidence}; {words}", "generation")
    return prompt
