"""Planned restarts, deaths, and the end, as properties of any history."""

from __future__ import annotations

import pytest
from core.histories_of_events import (
    Step,
    Story,
    Wait,
    histories,
    pairs,
)
from hypothesis import given, settings

from aider_guard.core.actions import (
    OfferRestart,
    RunHidden,
    SetDeadline,
    SignalAider,
    StartAider,
    StopAider,
    UnloadModels,
    WarmModel,
)
from aider_guard.core.chat.events import ModelWarmed, RequestStarted
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    AiderStarted,
    ChatSaved,
    CommandNotTyped,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    DeadlinePassed,
    KeyTyped,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    RestartRequested,
    SidecarLost,
    TerminationRequested,
    TurnFinished,
)
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.state import Phase

MANY = settings(max_examples=200)


@MANY
@given(histories())
def test_something_is_typed_only_at_an_untouched_prompt(steps: list[Step]) -> None:
    """The newest prompt is an empty main prompt that settled after the last key, and no hidden command runs."""
    is_open = empty = settled = runs = False
    for step in steps:
        match step.event:
            case PromptShown():
                is_open, empty, settled = True, step.event.empty, False
            case PromptRedrawn() if is_open:
                empty = step.event.empty
            case ConfirmShown() | ContinuationShown() | PromptClosed() | AiderExited():
                is_open = False
            case AiderStarted():
                is_open = runs = False
            case KeyTyped():
                settled = False
            case PromptSettled():
                settled = True
            case ContextRead() | ChatSaved():
                runs = False
            case CommandNotTyped():
                runs = settled = False
        for action in step.actions:
            if isinstance(action, RunHidden | StopAider):
                assert (is_open, empty, settled, runs) == (True, True, True, False)
            runs = runs or isinstance(action, RunHidden)


@MANY
@given(histories())
def test_between_two_starts_lies_an_end(steps: list[Step]) -> None:
    """Aider is never started while one may still be on the terminal."""
    gone = False
    for step in steps:
        gone = gone or isinstance(step.event, AiderExited | AiderRetired)
        for action in step.actions:
            if isinstance(action, StartAider):
                assert gone
                gone = False


@MANY
@given(histories())
def test_starts_after_deaths_are_few_and_apart(steps: list[Step]) -> None:
    """At most three without a turn between them, each a second later than the one before."""
    failures, since = 0, 0.0
    for step in steps:
        if isinstance(step.event, TurnFinished) and step.before.phase is Phase.RUNNING:
            failures = 0
        for action in step.actions:
            if isinstance(action, SetDeadline) and action.name == "backoff":
                failures += 1
                since = step.now
                assert failures <= 3
                assert action.at - step.now == pytest.approx(failures)
            honest = step.event != DeadlinePassed("backoff") or step.now - since >= failures
            if isinstance(action, StartAider) and step.before.phase is Phase.BACKOFF and honest:
                assert 1 <= failures <= 3


@MANY
@given(histories(without=(RestartRequested, AiderExited, TerminationRequested)))
def test_without_a_reason_nothing_is_restarted(steps: list[Step]) -> None:
    """Each hidden save follows from turns, or from memory that is short by a fresh reading."""
    for step, action in pairs(steps):
        if action == RunHidden("save"):
            restart = step.after.restart
            assert restart is not None
            limit, turns = step.before.limits.max_turns, restart.reason.partition(" turn")[0]
            counted = turns.isdigit() and int(turns) >= limit > 0
            assert counted or restart.reason == "memory stayed short"


@MANY
@given(histories())
def test_only_fresh_readings_unload_and_only_our_models(steps: list[Step]) -> None:
    """The newest list is at most 10 s old; each model unloaded is on it, or was asked for and never seen on it since;
    it is the session's, and no other's.
    """
    ours: tuple[str, ...] = ()
    asked, unlisted = set[str](), set[str]()
    others: set[str] | None = None
    listed: ModelsReading | Unavailable | None = None
    settled, turns = False, 0
    for step in steps:
        match step.event:
            case ModelsChosen(models=chosen):
                ours = chosen
            case TurnFinished():
                turns += 1
            case RequestStarted(model=name) | ModelWarmed(model=name, problem=""):
                asked.add(name)
                unlisted.add(name)
            case ModelWarmed(model=name) if name not in asked:
                unlisted = {one for one in unlisted if not same_model(one, name)}
            case ModelsUnloaded(names=gone):
                unlisted = {one for one in unlisted if not is_among(one, {*gone})}
            case ModelsRead(ModelsReading() as listed):
                seen = {model.name for model in listed.models}
                unlisted = {one for one in unlisted if not is_among(one, seen)}
                begins = step.before.phase is Phase.STARTING and step.before.launch <= 1
                settled = settled or bool(turns or asked) or (others is not None and not begins)
                if not settled:
                    others, settled = seen, bool(unlisted)
            case ModelsRead() | SidecarLost() | DeadlinePassed("sidecar_silent"):
                listed = None
        for action in step.actions:
            if isinstance(action, UnloadModels):
                assert isinstance(listed, ModelsReading)
                assert step.now - listed.taken_at <= 10.0
                seen = {model.name for model in listed.models}
                assert set(action.names) <= seen | unlisted
                assert not any(is_among(name, others or set()) for name in action.names)
                assert all(is_among(name, {*ours, *asked}) for name in action.names)
            elif isinstance(action, WarmModel):
                unlisted.add(step.after.main_model)


def is_among(name: str, names: set[str]) -> bool:
    return any(same_model(name, one) for one in names)


@MANY
@given(histories())
def test_leaving_is_final_in_any_history(steps: list[Step]) -> None:
    """After Aider ended with 0 outside a restart, it is never started again."""
    left = False
    for step in steps:
        assert not (left and any(isinstance(a, StartAider | OfferRestart) for a in step.actions))
        stopped = step.before.phase is Phase.STOPPING
        left = left or (
            isinstance(step.event, AiderExited) and step.event.status in (0, -2) and not stopped
        )


@MANY
@given(histories())
def test_after_a_restored_start_no_table_is_read_before_a_turn(steps: list[Step]) -> None:
    """Aider's table counts the chat that it will summarise, so a warning would be a false alarm."""
    restored = False
    for step in steps:
        if isinstance(step.event, TurnFinished):
            restored = False
        for action in step.actions:
            assert not (restored and action == RunHidden("tokens"))
            restored = restored or isinstance(action, StartAider)


@MANY
@given(histories())
def test_a_stop_always_ends(steps: list[Step]) -> None:
    """Continued with an Aider that ends by nothing but SIGKILL, no stop is left hanging."""
    if not steps or steps[-1].after.phase is not Phase.STOPPING:
        return
    story = Story()
    story.state, story.now = steps[-1].after, steps[-1].now
    for step in steps:
        for action in step.actions:
            if isinstance(action, SetDeadline) and action.at > story.now:
                story.deadlines[action.name] = action.at
    killed = any(
        SignalAider("KILL") in step.actions for step in steps if step.before.phase is Phase.STOPPING
    )
    assert killed or SignalAider("KILL") in story.tell(Wait(7.0))
