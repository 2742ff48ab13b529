"""How far a long prompt is read is kept for status, and shown as the terminal's title until the answer begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.histories_of_events import (
    UNKNOWN,
    Step,
    Story,
    actions_of,
    at_first_prompt,
    finished,
    histories,
)
from hypothesis import given, settings

from aider_guard.core.actions import ShowNotice, ShowTitle
from aider_guard.core.chat.events import (
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    RequestRefused,
    RereadCause,
)
from aider_guard.core.events import (
    AiderExited,
    AiderLogged,
    DeadlinePassed,
    Event,
    ModelsChosen,
    PromptShown,
    SidecarLost,
    TurnFinished,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.state import Phase
from aider_guard.session import control
from aider_guard.view import status

READING = ReadingEstimated(1, "ours", 4_400, 1_600, 700, 41.0, "slots")
REREAD = PromptReread(1, "ours", "map", 6_000, 4_000, 2_000, is_exact=True, seconds=20.0)


def titles(story: Story) -> list[str]:
    return [shown.text for shown in actions_of(story.steps, ShowTitle)]


def test_the_title_says_how_much_is_read_and_how_long_the_rest_takes() -> None:
    """700 of 2,800 tokens are a quarter."""
    story = at_first_prompt()
    story.tell(READING, replace(READING, read_tokens=1_400, seconds_left=22.0))
    assert titles(story) == [
        "aider: reading, 25 % read, about 40 s left",
        "aider: reading, 50 % read, about 20 s left",
    ]


@pytest.mark.parametrize(
    "event",
    [
        ReadingFinished(1, "ours", 44.0, 41.0),
        finished(4_400),
        RequestRefused(1, "main", "chat", "ours", "crashed"),
        SidecarLost("it died"),
        DeadlinePassed("sidecar_silent"),
        PromptShown(),
        AiderExited(1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_title_is_given_back_when_it_is_over(event: Event) -> None:
    """Also where no report on its end comes any more."""
    story = at_first_prompt()
    story.tell(READING, event)
    assert titles(story)[1:] == [""]
    assert story.state.reading is None


def test_the_end_of_another_request_changes_nothing() -> None:
    """A summary in the background ends while the message is read; without a reading there is no title to give back."""
    story = at_first_prompt()
    story.tell(ReadingFinished(1, "ours", 1.0, 1.0), READING, finished(500, number=2))
    assert len(titles(story)) == 1
    assert story.state.reading == READING


def test_each_cause_of_reading_again_is_told_once_a_session() -> None:
    story = at_first_prompt()
    story.tell(REREAD, REREAD, replace(REREAD, cause="file_edited"), REREAD)
    notices = [shown.notice for shown in actions_of(story.steps, ShowNotice)]
    assert [notice.name for notice in notices] == ["prompt_reread"] * 2


TURNS: list[tuple[str, bool, int]] = [
    ("mmm", True, 3),
    ("mm", True, 0),
    ("m.mm", True, 4),
    ("m..m.m.m..", True, 0),
    ("..m.mm", True, 6),
    ("fmfm", True, 0),
    ("mmmmmmmm", True, 3),
    ("mmmm", False, 0),
]


@pytest.mark.parametrize(("turns", "follows", "told_at"), TURNS)
def test_a_map_that_changes_in_most_turns_is_told_once_with_what_helps(
    turns: str, follows: bool, told_at: int
) -> None:
    """In three of the last four, each for seconds; where the map does not follow the words it does not help."""
    story = at_first_prompt()
    story.tell(ModelsChosen("ours", ("ours",), 8192, map_follows_words=follows))
    told = []
    for turn in turns:
        cause: RereadCause | None = {"m": "map", "f": "file_edited"}.get(turn)  # type: ignore[assignment]
        if cause is not None:
            story.tell(replace(REREAD, cause=cause))
        story.tell(TurnFinished(1))
        notices = [shown.notice for shown in actions_of(story.steps, ShowNotice)]
        told.append([notice.lines for notice in notices if notice.name == "map_changes"])
    assert [len(lines) for lines in told] == [
        int(bool(told_at) and at >= told_at) for at in range(1, len(turns) + 1)
    ]
    if told_at:
        what, helps = told[-1][0]
        assert what.startswith("the repository map changed in 3 of the last ")
        assert "20 s each" in what
        assert helps.startswith("aider-guard -- --map-refresh files ")


def test_the_requests_of_one_turn_count_as_one() -> None:
    """An edit that failed is asked for again."""
    story = at_first_prompt()
    story.tell(ModelsChosen("ours", ("ours",), 8192, map_follows_words=True))
    story.tell(REREAD, REREAD, REREAD, TurnFinished(3), REREAD)
    notices = [shown.notice.name for shown in actions_of(story.steps, ShowNotice)]
    assert "map_changes" not in notices


def test_a_turn_sums_up_what_was_read_and_what_was_known() -> None:
    """Of the requests of which the server told it."""
    story = at_first_prompt()
    story.tell(finished(5_000, 100, cached_tokens=4_600), AiderLogged(1, UNKNOWN, UNKNOWN))
    assert story.state.last_turn is not None
    assert (story.state.last_turn.read_tokens, story.state.last_turn.cached_tokens) == (400, 4_600)
    story.tell(finished(5_500, 100), AiderLogged(1, UNKNOWN, UNKNOWN))
    assert isinstance(story.state.last_turn.cached_tokens, Unavailable)


def test_status_shows_what_is_read_now_and_what_the_last_turn_read() -> None:
    """A session of an older guard says neither."""
    story = at_first_prompt()
    story.tell(finished(5_000, 100, cached_tokens=4_600), AiderLogged(1, UNKNOWN, UNKNOWN))
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert "last turn 400 tokens read, 4,600 known already\n" in status.table([facts])
    assert "reading" not in status.table([facts]) + status.line([facts])
    story.tell(READING)
    facts = control.session_facts(story.state, session_id="id", pid=1)
    expected = "reading   700 of 2,800 tokens (1,600 more were known), about 40 s left\n"
    assert expected in status.table([facts])
    assert " reading 40 s " in status.line([facts])
    for key in ("reading", "last_turn"):
        del facts[key]
    assert "tokens read" not in status.table([facts])


@settings(max_examples=100)
@given(histories())
def test_a_title_is_there_only_while_a_prompt_is_read(steps: list[Step]) -> None:
    """In any history: what is shown last is of the reading that goes on, and "" where none does."""
    shown = ""
    for step in steps:
        for action in actions_of([step], ShowTitle):
            shown = action.text
        if step.after.phase not in (Phase.ENDING, Phase.ENDED):  # the session's end gives it back
            assert bool(shown) == (step.after.reading is not None)
