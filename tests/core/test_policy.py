"""The policy as a whole: total, deterministic, silent at the end, and no transition that is not in the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import pytest
from core.histories_of_events import (
    GIB,
    KINDS,
    OURS,
    UNKNOWN,
    WINDOW,
    Step,
    actions_of,
    finished,
    gpu_memory,
    histories,
    models,
    table,
)
from hypothesis import given

from aider_guard.core.actions import EndSession, ShowNotice, StopAider
from aider_guard.core.chat.events import (
    DoorOpened,
    ModelWarmed,
    NextPromptCompared,
    NextPromptUnknown,
    PromptReadAhead,
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    ReloadSeen,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.events import (
    AiderExited,
    AiderLogged,
    AiderRetired,
    AiderStarted,
    AirGapChosen,
    ChatSaved,
    CommandNotTyped,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    DeadlinePassed,
    EgressAllowed,
    EgressBlocked,
    Event,
    ExchangesCarried,
    FilesCounted,
    JobContinued,
    KeyTyped,
    LaunchForbidden,
    ModelsChosen,
    ModelsUnloaded,
    NoticeShown,
    OfferAnswered,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    RestartRequested,
    RetiredExited,
    ServerRead,
    ServerSurveyed,
    SidecarLost,
    SidecarStarted,
    StandbyLost,
    StandbyReady,
    TerminationRequested,
    TextsCounted,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.findings import SEVERITIES, Finding
from aider_guard.core.policy import decide
from aider_guard.core.server_report import ServerReport
from aider_guard.core.state import Phase, Restart, State

NOW = 100.0
SURVEYED = ServerReport("http://127.0.0.1:1", True, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
SAMPLES: tuple[Event, ...] = (
    AiderStarted(2, 42),
    ModelsChosen("ours", ("ours",), WINDOW),
    LaunchForbidden((Finding("a", "stop", "what"),)),
    ServerSurveyed(SURVEYED),
    *(Finding(severity, severity, "what", fix="fix") for severity in SEVERITIES),
    *(PromptShown(empty=empty) for empty in (True, False)),
    ConfirmShown(),
    ContinuationShown(),
    PromptRedrawn(),
    PromptClosed(),
    KeyTyped(),
    PromptSettled(),
    TurnStarted(),
    AiderLogged(1, 5_000, 10),
    TurnFinished(1),
    *(AiderExited(status) for status in (0, 1, -2, -9)),
    *(ContextRead(reading) for reading in (table(9_000), UNKNOWN)),
    *(ChatSaved(problem=problem) for problem in ("", "it failed")),
    CommandNotTyped("exit"),
    StandbyReady(43, GIB),
    StandbyLost("it ended before its turn"),
    AiderRetired(),
    RetiredExited(0),
    ExchangesCarried(2),
    NoticeShown("n"),
    *(OfferAnswered(accepted=accepted) for accepted in (True, False)),
    SidecarStarted(7, "1"),
    SidecarLost("it died"),
    ServerRead("0.9.3"),
    *(models(*names, at=NOW) for names in ((), (OURS,))),
    gpu_memory(95, at=NOW),
    FilesCounted({}),
    TextsCounted(1, ()),
    ModelsUnloaded((OURS,), GIB, 1.0),
    DoorOpened(4711),
    RequestStarted(1, "main", "chat", "ours"),
    *(finished(prompt) for prompt in (9_000, UNKNOWN)),
    RequestRefused(1, "main", "chat", "ours", "overflow", 12_000, 3_000, WINDOW),
    RequestRefused(2, "weak", "commit", "weak", "down"),
    ModelWarmed("ours", "load"),
    ReloadSeen("ours", 4.0, "another program took its place"),
    ReadingEstimated(1, "ours", 9_000, 100, 500, 20.0, "slots"),
    ReadingFinished(1, "ours", 21.0, 20.0),
    PromptReadAhead("ours", 400, 2.0),
    NextPromptCompared("ours", 400, 90, "map"),
    NextPromptUnknown("this Aider is another one"),
    PromptReread(1, "ours", "map", 9_000, 8_000, 1_000, is_exact=True),
    *(AirGapChosen(layer) for layer in ("netns", "open")),
    EgressBlocked("example.org", 443, "tcp", "curl", count=2),
    EgressAllowed("github.com", 22),
    RestartRequested(),
    JobContinued(60.0),
    TerminationRequested(15),
    *(
        DeadlinePassed(name)
        for name in (
            *("stop", "kill", "unload", "backoff", "end", "standby"),
            *("retired_stop", "retired_kill", "retired_unload"),
            "sidecar_start",
            "sidecar_silent",
            "egress_gathered",
        )
    ),
)
P = Phase
OVER = {P.ENDING, P.ENDED}

# A new transition belongs in this table and in docs/lifecycle.md. Where a restart that is due begins at whatever
# event finds the prompt untouched, that is left out here and tested by itself.
TRANSITIONS: dict[tuple[Phase, type], set[Phase]] = {
    (P.STARTING, PromptShown): {P.RUNNING},
    (P.STARTING, AiderExited): {P.BACKOFF} | OVER,
    (P.STARTING, TerminationRequested): {P.STOPPING},
    (P.RUNNING, AiderExited): {P.OFFERING} | OVER,
    (P.STARTING, LaunchForbidden): OVER,
    (P.RUNNING, TerminationRequested): {P.STOPPING},
    (P.SAVING, ChatSaved): {P.STOPPING, P.RUNNING},
    (P.SAVING, CommandNotTyped): {P.RUNNING},
    (P.STOPPING, CommandNotTyped): {P.RUNNING},
    (P.STOPPING, AiderRetired): {P.STARTING},
    (P.SAVING, AiderExited): {P.OFFERING} | OVER,
    (P.SAVING, TerminationRequested): {P.STOPPING},
    (P.STOPPING, AiderExited): {P.UNLOADING, P.STARTING} | OVER,
    (P.UNLOADING, ModelsUnloaded): {P.STARTING},
    (P.UNLOADING, DeadlinePassed): {P.STARTING},
    (P.UNLOADING, SidecarLost): {P.STARTING},
    (P.UNLOADING, TerminationRequested): OVER,
    (P.OFFERING, OfferAnswered): {P.BACKOFF} | OVER,
    (P.OFFERING, TerminationRequested): OVER,
    (P.BACKOFF, DeadlinePassed): {P.STARTING},
    (P.BACKOFF, TerminationRequested): OVER,
    (P.ENDING, ModelsUnloaded): {P.ENDED},
    (P.ENDING, DeadlinePassed): {P.ENDED},
    (P.ENDING, SidecarLost): {P.ENDED},
}


def states() -> Iterator[State]:
    """Every phase, with and without each thing that a transition may ask for."""
    either = (False, True)
    ours = models(OURS, at=NOW).reading
    for phase, flags in product(Phase, product(either, repeat=6)):
        due, settled, restart, loaded, ending, failed = flags
        yield State(
            phase=phase,
            prompt=PromptShown(),
            settled=settled,
            restart_due="asked" if due else "",
            restart=Restart("asked", 0.0) if restart else None,
            loaded=ours if loaded else UNKNOWN,
            main_model="ours",
            models=("ours",),
            foreign_models=frozenset(),
            termination=15 if ending else 0,
            start_failures=3 if failed else 0,
        )


def test_the_samples_are_of_every_kind() -> None:
    """No kind of event is left out of the enumeration below."""
    assert {type(event) for event in SAMPLES} == KINDS


def test_the_phase_changes_only_as_the_table_says() -> None:
    """Every phase and event that change the phase, and to what: an addition to the policy fails here."""
    found: dict[tuple[Phase, type], set[Phase]] = defaultdict(set)
    for state, event in product(states(), SAMPLES):
        to = decide(state, event, NOW)[0].phase
        no_aider = state.phase in (P.UNLOADING, P.OFFERING, P.BACKOFF) and isinstance(
            event, AiderExited
        )
        begins = (state.phase, to) == (P.RUNNING, P.SAVING)
        if to is not state.phase and not no_aider and not begins:
            found[state.phase, type(event)].add(to)
    assert found == TRANSITIONS


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_ended_session_does_nothing_more(event: Event) -> None:
    """Once ended, no event changes the phase or asks for anything."""
    for state in states():
        if state.phase is P.ENDED:
            after, actions = decide(state, event, NOW)
            assert (after.phase, actions) == (P.ENDED, ())


@given(histories())
def test_every_event_is_allowed_in_every_state(steps: list[Step]) -> None:
    """Any history of any events is decided without an error, and twice the same."""
    for step in steps:
        assert decide(step.before, step.event, step.now) == (step.after, step.actions)


@given(histories())
def test_it_ends_once_and_says_nothing_afterwards(steps: list[Step]) -> None:
    """One status at most; while it ends, nothing is shown or started any more."""
    assert len(actions_of(steps, EndSession)) <= 1
    for step in steps:
        if step.before.phase in OVER:
            assert step.actions == ()


@given(histories())
def test_a_notice_never_comes_in_the_middle_of_a_stop(steps: list[Step]) -> None:
    """The step that types /exit shows no notice: it is shown when the new prompt is there."""
    for step in steps:
        if any(isinstance(action, StopAider) for action in step.actions):
            assert not any(isinstance(action, ShowNotice) for action in step.actions)
