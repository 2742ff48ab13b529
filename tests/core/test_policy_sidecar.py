"""Keeping the sidecar alive: when it dies, falls silent, or never sends an event."""

from __future__ import annotations

import pytest
from core.histories_of_events import (
    UNKNOWN,
    Step,
    Story,
    Wait,
    actions_of,
    at_first_prompt,
    finished,
    gpu_memory,
    histories,
    pairs,
)
from hypothesis import given

from aider_guard.core.actions import SetDeadline, ShowNotice, StartSidecar
from aider_guard.core.chat.events import (
    DoorOpened,
    ModelWarmed,
    ReloadSeen,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.events import (
    AiderStarted,
    DeadlinePassed,
    Event,
    FilesCounted,
    ModelsRead,
    ModelsUnloaded,
    ServerRead,
    ServerSurveyed,
    SidecarLost,
    SidecarStarted,
    TextsCounted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.core.state import Phase

LOST = SidecarLost("it died")


def starts(story: Story, since: float) -> list[float]:
    """How long after *since* a sidecar was started."""
    return [step.now - since for step, action in pairs(story.steps) if action == StartSidecar()]


def test_a_lost_sidecar_is_started_again_with_a_growing_wait() -> None:
    """Half a second, doubled each time, 30 s at most."""
    story, waits = at_first_prompt(), []
    for _ in range(9):
        lost_at, count = story.now, len(starts(story, 0.0))
        story.tell(LOST)
        while len(starts(story, 0.0)) == count:
            story.tell(Wait(0.5))
        waits.append(story.now - lost_at)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_thousand_failures_are_no_overflow() -> None:
    """The wait stays at its maximum however long it goes on."""
    story = Story(sidecar_failures=5000)
    (again,) = (a for a in story.tell(LOST) if isinstance(a, SetDeadline))
    assert again.at - story.now == 30.0


def test_a_reading_makes_it_as_good_as_new() -> None:
    """After a reading of memory the count of failures begins again."""
    story = at_first_prompt()
    story.tell(LOST, LOST, LOST, gpu_memory(10, at=story.now))
    lost_at = story.now
    story.tell(LOST, Wait(0.5))
    assert starts(story, lost_at)[-1] == 0.5


def test_it_is_said_once_and_not_at_the_first_loss() -> None:
    """The second loss in a row is reported, the first and later ones are not."""
    story = at_first_prompt()
    said = [bool(actions_of([story.steps[-1]], ShowNotice)) for _ in range(4) if story.tell(LOST)]
    assert said == [False, True, False, False]
    (shown,) = actions_of(story.steps, ShowNotice)
    assert (shown.notice.name, "it died" in shown.notice.lines[0]) == ("sidecar_lost", True)


HEARD: list[Event] = [
    SidecarStarted(7, "1"),
    ServerRead("0.9.3"),
    ServerRead(UNKNOWN),
    ModelsRead(UNKNOWN),
    gpu_memory(10, at=0.0),
    ServerSurveyed(
        ServerReport("", True, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)  # no answer
    ),
    FilesCounted({}),
    TextsCounted(1, ()),
    ModelsUnloaded((), UNKNOWN, 1.0),
    DoorOpened(4711),
    RequestStarted(1, "main", "chat", "ours"),
    finished(100),
    RequestRefused(1, "main", "chat", "ours", "down"),
    ModelWarmed("ours", "load"),
    ReloadSeen("ours", 4.0, "why"),
]


@pytest.mark.parametrize("event", HEARD, ids=lambda event: type(event).__name__)
def test_whatever_it_says_is_a_sign_of_life(event: Event) -> None:
    """30 s after its last event it counts as silent, and is started again."""
    story = at_first_prompt()
    story.tell(Wait(20.0), event)
    heard_at = story.now
    story.tell(Wait(29.9))
    assert starts(story, heard_at) == []
    story.tell(Wait(0.2))
    assert starts(story, heard_at) == [30.0]


def test_one_that_never_says_a_word_is_started_again() -> None:
    """That holds for the first one and each later one; the second failure is reported."""
    story = Story()
    story.tell(AiderStarted(1, 42))
    begin = story.now
    story.tell(Wait(100.0))
    assert starts(story, begin) == [30.0, 60.0, 90.0]
    assert [a.notice.name for a in actions_of(story.steps, ShowNotice)] == ["sidecar_lost"]


def test_one_that_never_speaks_after_a_loss_is_started_again() -> None:
    """The one that replaces a lost one is watched from its start."""
    story = at_first_prompt()
    lost_at = story.now
    story.tell(LOST, Wait(50.0))
    assert starts(story, lost_at) == [0.5, 30.5]


def test_a_silent_sidecars_readings_count_no_more() -> None:
    """Its readings become unavailable."""
    story = at_first_prompt()
    story.tell(gpu_memory(95, at=story.now), Wait(31.0))
    assert isinstance(story.state.memory, Unavailable)
    assert isinstance(story.state.loaded, Unavailable)


def test_a_lost_one_is_not_waited_for_as_a_silent_one() -> None:
    """Between the loss and the next start no silence is noticed: it is started once."""
    story = Story(sidecar_failures=20)
    story.tell(AiderStarted(1, 42), Wait(29.0))
    lost_at = story.now
    story.tell(LOST, Wait(31.0))
    assert starts(story, lost_at) == [30.0]


@pytest.mark.parametrize("phase", [Phase.ENDING, Phase.ENDED])
@pytest.mark.parametrize(
    "event", [LOST, DeadlinePassed("sidecar_start"), DeadlinePassed("sidecar_silent")]
)
def test_none_is_started_at_the_end(phase: Phase, event: Event) -> None:
    """At the end of the session the sidecar is not needed."""
    assert Story(phase=phase).tell(event) == []


@given(histories())
def test_it_is_started_only_when_its_time_has_come(steps: list[Step]) -> None:
    """It is started only at a deadline."""
    for step in steps:
        if StartSidecar() in step.actions:
            assert isinstance(step.event, DeadlinePassed)
            assert step.event.name in ("sidecar_start", "sidecar_silent")
