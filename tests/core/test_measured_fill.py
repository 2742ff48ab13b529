"""The measured fill: what it rests on in any history, and the limits of its warning."""

from __future__ import annotations

from typing import Any

import pytest
from core.histories_of_events import (
    UNKNOWN,
    Step,
    actions_of,
    at_first_prompt,
    finished,
    histories,
)
from hypothesis import given, settings

from aider_guard.core.actions import ShowNotice
from aider_guard.core.chat.types import Verdict
from aider_guard.core.readings import LastRequest
from aider_guard.core.state import (
    is_measured,
    used_tokens,
)


@settings(max_examples=200)
@given(histories())
def test_what_is_said_to_be_measured_was(steps: list[Step]) -> None:
    """In any history a measured fill is that of a request of the main model, without a command after it."""
    for step in steps:
        if is_measured(step.after):
            measured = step.after.last_request
            assert isinstance(measured, LastRequest)
            assert used_tokens(step.after) == measured.used_tokens
            assert not step.after.context_changed
            assert not step.after.files_changed


@settings(max_examples=200)
@given(histories())
def test_only_a_measured_fill_is_said_without_about(steps: list[Step]) -> None:
    """In any history a warning says "about" exactly for an estimate."""
    for step in steps:
        for action in actions_of([step], ShowNotice):
            if action.notice.name == "context_filling":
                says_about = action.notice.lines[0].startswith("context about ")
                assert says_about is not is_measured(step.after)


@pytest.mark.parametrize(
    ("prompts", "warnings"),
    [
        ([7_999], 0),
        ([8_000], 1),
        ([8_000, 7_500, 8_000], 1),
        ([8_000, 7_499, 8_000], 2),
    ],
)
def test_the_limits_themselves_are_full_and_not_free(prompts: list[int], warnings: int) -> None:
    """At 80 % the notice appears; again only after less than 75 %."""
    story = at_first_prompt()
    for prompt in prompts:
        story.measured_turn(prompt)
    shown = [one.notice.name for one in actions_of(story.steps, ShowNotice)]
    assert shown.count("context_filling") == warnings


CUT_TOKENS = Verdict("cut", "why", "tokens", 2_000)
PUSHED_OUT = Verdict("cut", "why", "generation", 2_000)
UNKNOWN_CUT = Verdict("cut", "why", "", UNKNOWN)
ESTIMATED = {"counted_tokens": 6_000, "error_percent": 20.0}
EXACTLY = {"counted_tokens": 6_000, "counted_exactly": True}


@pytest.mark.parametrize(
    ("evaluated", "facts", "prompt", "is_sure"),
    [
        (5_000, {}, 5_000, True),
        (5_000, {"verdict": CUT_TOKENS}, 7_000, False),
        (5_000, {"verdict": PUSHED_OUT}, 5_000, True),
        (5_000, {"verdict": UNKNOWN_CUT}, 5_000, False),
        (5_000, EXACTLY, 6_000, True),
        (6_001, EXACTLY, 6_001, True),
        (5_000, {**EXACTLY, "verdict": CUT_TOKENS}, 7_000, True),
        (4_800, ESTIMATED, 4_800, True),
        (4_799, ESTIMATED, 6_000, False),
        (7_000, ESTIMATED, 7_000, True),
        (3_000, {**ESTIMATED, "verdict": CUT_TOKENS}, 5_000, False),
        (2_000, {**ESTIMATED, "verdict": CUT_TOKENS}, 6_000, False),
        (5_000, {**ESTIMATED, "verdict": UNKNOWN_CUT}, 6_000, False),
        (7_000, {**ESTIMATED, "verdict": UNKNOWN_CUT}, 7_000, False),
    ],
)
def test_what_was_sent_is_what_was_evaluated_and_what_was_cut(
    evaluated: int, facts: dict[str, Any], prompt: int, is_sure: bool
) -> None:
    """Or what was counted before, where the server's number is below that by more than its error."""
    story = at_first_prompt()
    story.tell(finished(evaluated, 7, **facts))
    measured = story.state.last_request
    assert isinstance(measured, LastRequest)
    assert (measured.used_tokens, measured.is_sure) == (prompt + 7, is_sure)
