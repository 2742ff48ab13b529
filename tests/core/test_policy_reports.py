"""Which notices on requests are shown, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from core.histories_of_events import (
    UNKNOWN,
    WINDOW,
    Step,
    Story,
    actions_of,
    at_first_prompt,
    finished,
    histories,
)
from hypothesis import given, settings

from aider_guard.core.actions import Notice, ShowNotice
from aider_guard.core.chat.events import ReloadSeen, RequestFinished, RequestRefused
from aider_guard.core.chat.types import Verdict
from aider_guard.core.events import TurnFinished
from aider_guard.core.readings import Unavailable

CUT = Verdict("cut", "9,000 counted before, 8,000 evaluated", "messages", 1_000)
NOT_KNOWN = Verdict("unknown", "it could not be counted")


def notices_after(story: Story) -> list[Notice]:
    return [shown.notice for shown in actions_of(story.steps, ShowNotice)]


def names(story: Story) -> list[str]:
    return [notice.name for notice in notices_after(story)]


def cut(prompt: int = 8_000, **more: Any) -> RequestFinished:
    return finished(prompt, **{"verdict": CUT, "files_of_prompt": {"a.py": 4_000}, **more})


def test_a_cut_prompt_is_told_in_the_same_turn_with_what_helps() -> None:
    """The notice has the tokens, the stage and the evidence; no second notice says that the window is full."""
    story = at_first_prompt()
    story.measured_turn(8_000, verdict=CUT, counted_exactly=True, files_of_prompt={"a.py": 4_000})
    (notice,) = notices_after(story)
    assert notice.name == "truncation_seen"
    assert notice.lines[0].startswith("1,000 tokens of the prompt never reached the model: ")
    assert notice.lines[1].startswith("/drop a.py   (frees about 4,000 tokens")


def test_a_cut_prompt_is_told_once_a_turn_and_in_every_turn() -> None:
    """Reflections send nearly the same prompt again; another role's is another prompt."""
    story = at_first_prompt()
    story.tell(cut(), cut(), cut(role="editor", purpose="edit"), TurnFinished(3))
    assert names(story) == ["truncation_seen"] * 2
    story.tell(cut(), TurnFinished(1))
    assert names(story) == ["truncation_seen"] * 3


def test_a_cut_editors_prompt_does_not_silence_the_warning_of_the_window() -> None:
    """The editor has another window than the main model."""
    story = at_first_prompt()
    story.tell(cut(role="editor", purpose="edit", model="other"))
    story.measured_turn(8_500)
    assert names(story) == ["truncation_seen", "context_filling"]


def test_an_answer_that_broke_off_is_told_in_the_same_turn_and_in_every_turn() -> None:
    """Where Aider takes it as whole; of one that Aider asks for again it shows an error itself."""
    story = at_first_prompt()
    broken = finished(UNKNOWN, outcome="broken", broke_off="no_end")
    story.tell(finished(UNKNOWN, outcome="broken"), finished(UNKNOWN, outcome="cancelled"))
    assert not names(story)
    story.tell(broken, broken, TurnFinished(2))
    assert names(story) == ["answer_broke_off"]
    story.tell(cut(outcome="broken", broke_off="repetition"), TurnFinished(1))
    assert names(story) == ["answer_broke_off", "answer_broke_off", "truncation_seen"]


NEAR: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"prompt": 7_500}, True),
    ({"prompt": 7_499}, False),
    ({"prompt": 100, "counted_tokens": 9_900}, True),
    ({"prompt": UNKNOWN}, False),
    ({"prompt": UNKNOWN, "counted_tokens": 8_000}, True),
    ({"window_tokens": UNKNOWN}, False),
]


@pytest.mark.parametrize(("more", "told"), NEAR)
def test_not_knowing_is_said_where_the_prompt_was_near_the_window(
    more: dict[str, Any], told: bool
) -> None:
    """The server's number or the count before decides; a small prompt needs no notice."""
    story = at_first_prompt()
    story.tell(finished(**{"prompt": 9_000, "verdict": NOT_KNOWN, **more}))
    assert names(story) == ["truncation_unknown"] * told


def test_not_knowing_is_said_once_a_session() -> None:
    """A later turn does not repeat the notice."""
    story = at_first_prompt()
    for _ in range(3):
        story.tell(finished(9_000, verdict=NOT_KNOWN), TurnFinished(1))
    assert names(story).count("truncation_unknown") == 1


def test_a_reload_is_said_once_a_cause() -> None:
    """The same cause with other numbers is not repeated; another cause is reported."""
    story = at_first_prompt()
    causes = (
        "idle for 31 min",
        "idle for 31 min",
        "idle for 1,032 min",
        "crashed",
        "idle for 5 min",
    )
    story.tell(*(ReloadSeen("ours", 4.0, cause) for cause in causes))
    told = [notice.lines[0].partition(": ")[2] for notice in notices_after(story)]
    assert told == ["idle for 31 min", "crashed"]


def refused(purpose: Any, reason: Any = "overflow") -> RequestRefused:
    return RequestRefused(1, "weak", purpose, "ours", reason, 12_000, 2_500, WINDOW)


@pytest.mark.parametrize("purpose", ["chat", "edit", "other"])
def test_a_refusal_on_the_screen_is_not_repeated(purpose: str) -> None:
    """The door's answer is on the screen already."""
    story = at_first_prompt()
    story.tell(refused(purpose))
    assert notices_after(story) == []


def test_a_message_that_is_left_out_is_told_once_after_each_refusal() -> None:
    """The message stays in the chat and is left out again and again; one in a summary needs no step of the user."""
    story = at_first_prompt()
    for _ in range(2):
        story.tell(refused("chat"), finished(500, left_out=1, purpose="summary"))
        story.tell(finished(500, left_out=1), TurnFinished(1), finished(600, left_out=1))
        story.tell(TurnFinished(1))
    assert names(story) == ["message_left_out"] * 2


def test_a_missing_commit_message_is_told_once_a_turn() -> None:
    """Aider asks the weak model and then the main one for the same commit."""
    story = at_first_prompt()
    story.tell(refused("commit"), refused("commit"), TurnFinished(1))
    assert names(story) == ["request_refused"]
    story.tell(refused("commit"))
    assert names(story) == ["request_refused"] * 2


def test_a_missing_summary_is_told_once_a_reason() -> None:
    """Aider tries again after each turn."""
    story = at_first_prompt()
    for _ in range(3):
        story.tell(refused("summary"), TurnFinished(1))
    story.tell(refused("summary", "down"))
    assert names(story) == ["request_refused"] * 2


def test_advice_without_a_prompt_that_was_understood_is_the_newest_known() -> None:
    """Without parts of the prompt, the newest table names the files."""
    story = at_first_prompt()
    story.measured_turn(7_000, files_of_prompt={"a.py": 5_000})
    story.tell(cut(parts=()))
    assert notices_after(story)[0].lines[1].startswith("/drop a.py ")


def test_no_advice_on_the_chat_for_what_aider_asks_by_itself() -> None:
    """No file of the chat is in a commit message's prompt."""
    story = at_first_prompt()
    story.tell(cut(purpose="commit", role="weak"))
    assert "/drop" not in notices_after(story)[0].lines[1]


def test_a_window_of_nothing_is_no_error() -> None:
    """A server may report a window of 0."""
    story = at_first_prompt()
    story.tell(cut(window_tokens=0), cut(role="weak", window_tokens=Unavailable("not told")))
    nothing = "nothing in the chat can be dropped; only a larger window holds more"
    assert [notice.lines[1] for notice in notices_after(story)] == [nothing] * 2
    one_token = at_first_prompt()
    one_token.tell(cut(window_tokens=1))
    assert notices_after(one_token)[0].lines[1].startswith("/drop a.py ")


@pytest.mark.parametrize(("answer", "percent"), [(4, 44), (UNKNOWN, 40)])
def test_the_advice_counts_the_answer_where_it_was_counted(
    answer: int | Unavailable, percent: int
) -> None:
    """The next prompt begins with it: 80 and 4 tokens less the 40 of the file, in a window of 100."""
    story = at_first_prompt()
    story.tell(cut(80, answer_tokens=answer, window_tokens=100, files_of_prompt={"a.py": 40}))
    assert (
        notices_after(story)[0].lines[1]
        == f"/drop a.py   (frees about 40 tokens, then {percent} %)"
    )


@settings(max_examples=200)
@given(histories())
def test_no_cut_goes_untold(steps: list[Step]) -> None:
    """In any history of a running session a cut prompt is reported at once, or was reported in this turn."""
    told: set[tuple[str, str]] = set()
    for step in steps:
        if isinstance(step.event, TurnFinished) or step.after.launch != step.before.launch:
            told.clear()
        if not isinstance(step.event, RequestFinished) or step.event.verdict.outcome != "cut":
            continue
        notices = [action.notice.name for action in actions_of([step], ShowNotice)]
        key = (step.event.role, step.event.purpose)
        over = step.before.phase.value in ("ending", "ended")
        assert over or "truncation_seen" in notices or key in told
        told.add(key)
