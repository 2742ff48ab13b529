"""When a turn ends and what it took, by what Aider wrote beside the screen and what the door reports."""

from __future__ import annotations

from typing import Any

import pytest

from aider_guard.core.actions import Announce
from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chat.types import Verdict
from aider_guard.core.events import (
    AiderLogged,
    AiderStarted,
    DeadlinePassed,
    Event,
    PromptClosed,
    SidecarLost,
    SidecarStarted,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.turns import finish_turn, has_begun, note_reports
from aider_guard.core.state import Phase, State

LOGGED = AiderLogged(1, 100, 10, ("a.py",))
NOTHING = AiderLogged(0, Unavailable("none"), Unavailable("none"))


def starts(number: int = 1, purpose: Any = "chat") -> RequestStarted:
    """A request goes to the model."""
    return RequestStarted(number, "main", purpose, "m")


def ends(number: int = 1, purpose: Any = "chat", **more: Any) -> RequestFinished:
    """A request is over."""
    outcome = more.pop("outcome", "answered")
    return RequestFinished(number, "main", purpose, "m", outcome, Verdict("whole", ""), **more)


def refused(number: int = 1, purpose: Any = "chat") -> RequestRefused:
    """The door answers a request itself."""
    return RequestRefused(number, "main", purpose, "m", "overflow")


def told(*events: Event, phase: Phase = Phase.RUNNING) -> tuple[State, list[TurnFinished]]:
    """The state after these events, and the turns that were announced."""
    state, turns = State(phase=phase), list[TurnFinished]()
    for event in events:
        state, nothing = note_reports(state, event, 0.0)
        assert nothing == ()
        state, actions = finish_turn(state, event, 0.0)
        for action in actions:
            assert isinstance(action, Announce)
            turns.append(action.event)
    return state, turns


@pytest.mark.parametrize(
    ("events", "turns"),
    [
        pytest.param([LOGGED], 1, id="Aider's log alone"),
        pytest.param([NOTHING], 0, id="nothing went out"),
        pytest.param([starts(), ends(), NOTHING], 1, id="the door alone"),
        pytest.param([starts(), ends(purpose="edit"), NOTHING], 1, id="an edit"),
        pytest.param([starts(), LOGGED], 0, id="its report is still to come"),
        pytest.param([starts(), LOGGED, ends()], 1, id="the report comes after the prompt"),
        pytest.param([starts(), LOGGED, ends(), NOTHING, NOTHING], 1, id="once"),
        pytest.param([starts(), ends(outcome="broken"), NOTHING], 0, id="no answer, no message"),
        pytest.param(
            [starts(), ends(), starts(2), ends(2, outcome="broken"), NOTHING],
            1,
            id="one answer of two",
        ),
        pytest.param(
            [starts(purpose="commit"), ends(purpose="commit"), NOTHING], 0, id="a commit message"
        ),
        pytest.param(
            [starts(purpose="summary"), ends(purpose="summary"), NOTHING], 0, id="a summary"
        ),
        pytest.param([refused(), LOGGED], 0, id="refused"),
        pytest.param([refused(), LOGGED, LOGGED], 1, id="refused, and then a message"),
        pytest.param([refused(0), LOGGED], 1, id="a program's question was refused"),
        pytest.param([refused(purpose="commit"), LOGGED], 1, id="its commit message was refused"),
        pytest.param([refused(), starts(2), ends(2), LOGGED], 1, id="refused, and sent shorter"),
        pytest.param(
            [refused(), starts(2, "commit"), ends(2, "commit"), LOGGED],
            0,
            id="refused, and a commit",
        ),
        pytest.param([starts(), refused(2), SidecarLost("gone"), LOGGED], 1, id="a report is lost"),
        pytest.param([starts(), LOGGED, SidecarStarted(1, "1")], 1, id="the sidecar is a new one"),
        pytest.param(
            [starts(), LOGGED, DeadlinePassed("sidecar_silent")], 1, id="the sidecar is silent"
        ),
        pytest.param([starts(), LOGGED, DeadlinePassed("another")], 0, id="another deadline"),
        pytest.param([starts(), LOGGED, PromptClosed()], 1, id="waited for until the next message"),
        pytest.param([starts(), LOGGED, AiderStarted(2, 7), NOTHING], 0, id="another Aider"),
        pytest.param(
            [starts(purpose="other"), LOGGED], 1, id="a request of another kind is not waited for"
        ),
    ],
)
def test_turns_that_are_announced(events: list[Event], turns: int) -> None:
    """One for each message that reached a model, when its reports are complete or given up."""
    assert len(told(*events)[1]) == turns


def test_no_turn_ends_after_the_session() -> None:
    """What comes then is read past."""
    assert told(LOGGED, phase=Phase.ENDED)[1] == []


def test_the_numbers_of_a_turn() -> None:
    """Sums over its requests of what was reported; what Aider logged of the last one; its files."""
    first = ends(
        prompt_tokens=100,
        answer_tokens=5,
        load_seconds=0.25,
        prefill_seconds=1.5,
        generation_seconds=2.0,
    )
    second = ends(2, "commit", prompt_tokens=50, answer_tokens=Unavailable("cut"), load_seconds=0.5)
    _, (turn,) = told(starts(), first, starts(2, "commit"), second, LOGGED)
    assert turn == TurnFinished(2, 100, 10, ("a.py",), 150, 5, 0.75, 1.5, 2.0)
    assert told(LOGGED)[1] == [TurnFinished(1, 100, 10, ("a.py",))]
    assert told(AiderLogged(3, 100, 10))[1][0].requests == 3


def test_sums_of_seconds_are_rounded_to_microseconds() -> None:
    """Half a microsecond more is not written down."""
    reports = [ends(number, load_seconds=0.1000002) for number in (1, 2)]
    _, (turn,) = told(starts(1), starts(2), *reports, LOGGED)
    assert turn.load_seconds == 0.2


def test_what_came_before_a_message_belongs_to_no_turn() -> None:
    """A prompt without a message forgets what was reported; one that waits for its reports does not."""
    _, (turn,) = told(
        starts(purpose="commit"), ends(purpose="commit", prompt_tokens=7), NOTHING, LOGGED
    )
    assert isinstance(turn.prompt_tokens, Unavailable)
    _, (turn,) = told(starts(), LOGGED, NOTHING, ends(prompt_tokens=7))
    assert turn.prompt_tokens == 7


@pytest.mark.parametrize(
    ("events", "requests", "begun"),
    [
        ((), 0, False),
        ((), 1, True),
        ((starts(),), 0, True),
        ((TurnStarted(),), 1, False),
        ((TurnStarted(), NOTHING), 1, True),
        ((TurnStarted(), LOGGED), 1, True),
        ((starts(), TurnStarted()), 0, False),
    ],
)
def test_a_turn_begins_once(events: tuple[Event, ...], requests: int, *, begun: bool) -> None:
    """By Aider's log or by the door's report, until the main prompt is back."""
    assert has_begun(told(*events)[0], logged_requests=requests) == begun
