"""When the bell rings: after a turn, or at a question in it, that the user had to wait for."""

from __future__ import annotations

import pytest
from core.histories_of_events import UNKNOWN, Story, Wait, actions_of, at_first_prompt, finished

from aider_guard.core.actions import RingBell
from aider_guard.core.chat.events import RequestStarted
from aider_guard.core.events import (
    AiderLogged,
    AiderStarted,
    ConfirmShown,
    Event,
    JobContinued,
    KeyTyped,
    PromptClosed,
    PromptShown,
    TurnStarted,
)
from aider_guard.core.state import Limits

LOGGED = AiderLogged(1, UNKNOWN, UNKNOWN)
NOTHING = AiderLogged(0, UNKNOWN, UNKNOWN)
SENT = (KeyTyped(), PromptClosed(), RequestStarted(1, "main", "chat", "ours"))
ANSWERED = (finished(5_000), PromptShown(), LOGGED)


def rings(*events: Event | Wait, limit: int = 30) -> list[RingBell]:
    """How a session rings in which this happens after its first prompt."""
    story = at_first_prompt(Limits(notify_after_seconds=limit))
    story.tell(*events)
    return actions_of(story.steps, RingBell)


@pytest.mark.parametrize(("seconds", "limit", "rung"), [(30, 30, 1), (29, 30, 0), (900, 0, 0)])
def test_it_rings_once_a_turn_took_so_long(seconds: float, limit: int, rung: int) -> None:
    """0 is never."""
    assert len(rings(*SENT, Wait(seconds), *ANSWERED, limit=limit)) == rung


def test_it_says_what_is_known_of_the_turn() -> None:
    (ring,) = rings(*SENT, Wait(42.04), *ANSWERED)
    assert ring == RingBell("turn_finished", 42.0, "ours", 50.0)


def test_a_question_rings_and_what_follows_is_counted_from_its_answer() -> None:
    """As the user is there to answer it."""
    asked = (*SENT, Wait(40), finished(5_000), ConfirmShown())
    (ring,) = rings(*asked)
    assert (ring.reason, ring.seconds) == ("question", 40.0)
    answered = (*asked, Wait(500), PromptClosed())
    assert len(rings(*answered, Wait(10), PromptShown(), LOGGED)) == 1
    assert [ring.reason for ring in rings(*answered, Wait(30), PromptShown(), LOGGED)] == [
        "question",
        "turn_finished",
    ]


def test_what_is_no_turn_does_not_ring() -> None:
    """A command of Aider's may be an editor, in which the user was for an hour."""
    command = (KeyTyped(), PromptClosed(), Wait(3600))
    assert not rings(*command, PromptShown(), NOTHING)
    assert not rings(*command, ConfirmShown())
    assert rings(*command, TurnStarted(), ConfirmShown())


def test_the_time_of_a_stopped_job_does_not_count() -> None:
    stopped = (*SENT, Wait(3600), JobContinued(3_580.0))
    assert not rings(*stopped, *ANSWERED)
    (ring,) = rings(*stopped, Wait(20), *ANSWERED)
    assert ring.seconds == 40.0


def test_another_aider_starts_anew() -> None:
    """Its first prompt ends no turn of the one before."""
    assert not rings(*SENT, Wait(60), AiderStarted(2, 43), PromptShown(), LOGGED)


def test_nothing_is_known_before_the_first_message() -> None:
    story = Story(Limits(notify_after_seconds=1))
    story.tell(AiderStarted(1, 42), Wait(60), PromptShown(), NOTHING)
    assert not actions_of(story.steps, RingBell)
