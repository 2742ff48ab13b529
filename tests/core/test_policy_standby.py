"""The Aider that is started ahead of a restart, its taking over, and what is done behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.histories_of_events import (
    GIB,
    OURS,
    WINDOW,
    Story,
    actions_of,
    at_first_prompt,
    gpu_memory,
    models,
)

from aider_guard.core.actions import (
    Action,
    AskStandby,
    RetireAider,
    RunHidden,
    ShowNotice,
    SignalRetired,
    StartAider,
    StartStandby,
    StopAider,
    StopStandby,
    UnloadModels,
    WarmModel,
)
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    AiderStarted,
    ChatSaved,
    CommandNotTyped,
    DeadlinePassed,
    Event,
    KeyTyped,
    MemoryRead,
    ModelsChosen,
    ModelsUnloaded,
    OfferAnswered,
    PromptClosed,
    PromptShown,
    RestartRequested,
    RetiredExited,
    ServerRead,
    SidecarLost,
    StandbyLost,
    StandbyReady,
    TerminationRequested,
)
from aider_guard.core.readings import MemoryReading, RamReading, Unavailable
from aider_guard.core.rules.memory import STAYED_SHORT
from aider_guard.core.state import Limits, Phase

NO_GPU = Unavailable("no driver")
KINDS = (
    *(
        StartStandby,
        AskStandby,
        StopStandby,
        RetireAider,
        SignalRetired,
        RunHidden,
        StopAider,
        StartAider,
    ),
    *(UnloadModels, WarmModel),
)


def kinds(actions: list[Action]) -> list[str]:
    """The kinds of the actions that start, stop and load something."""
    return [type(action).__name__ for action in actions if isinstance(action, KINDS)]


def memory(story: Story, available: float = 4.0) -> MemoryRead:
    """So many GiB of main memory are available now."""
    return MemoryRead(
        MemoryReading(NO_GPU, RamReading(32 * GIB, int(available * GIB), 0), story.now)
    )


def at_prompt(max_turns: int = 3, available: float = 4.0) -> Story:
    """Aider waits at its prompt; this much memory is there."""
    story = at_first_prompt(Limits(max_turns=max_turns, probe="never"))
    story.prompt()
    story.tell(ServerRead("0.9.3"), memory(story, available), KeyTyped())
    return story


def ready(max_turns: int = 3) -> Story:
    """A restart was requested, and the next Aider is ready."""
    story = at_prompt(max_turns)
    story.tell(RestartRequested(), KeyTyped(), StandbyReady(43, GIB))
    return story


def retired() -> Story:
    """The next Aider has taken over, and shows nothing yet; the model is loaded."""
    story = ready()
    story.prompt("c.py")
    story.tell(models(OURS, at=story.now), ChatSaved(("c.py",)), AiderRetired())
    return story


def taken_over() -> Story:
    """The next Aider is at its prompt, while the old one still ends."""
    story = retired()
    story.tell(AiderStarted(2, 43), ModelsChosen("ours", ("ours",), WINDOW), PromptShown())
    return story


# When it is started


def test_it_is_started_one_turn_before_the_restart() -> None:
    story = at_prompt(max_turns=3)
    story.turn()
    assert not actions_of(story.steps, StartStandby)
    story.turn()
    assert kinds(list(story.steps[-2].actions)) == ["StartStandby"]


def test_it_is_started_when_a_restart_is_requested() -> None:
    assert kinds(at_prompt().tell(RestartRequested())) == ["StartStandby"]


def test_without_a_limit_of_turns_none_is_started() -> None:
    story = at_prompt(max_turns=0)
    for _ in range(30):
        story.turn()
    assert story.state.standby.stage == "none"


@pytest.mark.parametrize("seconds", [0.0, 11.0])
def test_where_memory_is_short_or_not_known_none_is_started(seconds: float) -> None:
    """The restart is as it would be without."""
    story = at_prompt(available=0.9 if not seconds else 4.0)
    story.now += seconds  # the reading is old then
    story.tell(RestartRequested())
    assert kinds(story.prompt()) == ["RunHidden"]
    assert kinds(story.tell(ChatSaved())) == ["StopAider"]


def test_one_that_waits_ends_where_memory_runs_short() -> None:
    """What it holds itself is no reason."""
    story = ready()
    assert kinds(story.tell(memory(story, 0.75))) == []
    assert kinds(story.tell(memory(story, 0.4))) == ["StopStandby"]
    assert kinds(story.prompt()) == ["RunHidden"]


# How a restart waits for it


def test_a_restart_that_is_due_begins_when_it_is_ready() -> None:
    story = at_prompt()
    story.tell(RestartRequested())
    assert kinds(story.prompt()) == []
    assert kinds(story.tell(StandbyReady(43, GIB))) == ["RunHidden", "AskStandby"]


@pytest.mark.parametrize("event", [StandbyLost("it ended"), DeadlinePassed("standby")])
def test_two_that_fail_are_not_waited_for(event: Event) -> None:
    """After the first another is started; then the restart is as it was without."""
    story = at_prompt()
    story.tell(RestartRequested())
    story.prompt()
    assert kinds(story.tell(event))[-1] == "StartStandby"
    assert "RunHidden" in kinds(story.tell(event))
    assert kinds(story.tell(ChatSaved())) == ["StopAider"]


def test_it_takes_over_while_the_old_one_ends() -> None:
    story = ready()
    story.prompt("c.py")
    assert kinds(story.tell(ChatSaved(("c.py",)))) == ["RetireAider"]
    (start,) = [a for a in story.tell(AiderRetired()) if isinstance(a, StartAider)]
    assert start.standby
    assert start.handoff.editable == ("c.py",)
    assert story.state.phase is Phase.STARTING


@pytest.mark.parametrize(
    "events",
    [
        (KeyTyped(), ChatSaved()),
        (CommandNotTyped("save"),),
        (ChatSaved(), CommandNotTyped("exit")),
        (ChatSaved(problem="it took too long"),),
    ],
)
def test_a_restart_that_is_postponed_begins_with_another_one(events: tuple[Event, ...]) -> None:
    """The one that was asked has read the settings, which may be others by then."""
    story = ready()
    story.prompt()
    assert kinds(story.tell(*events))[-1] == "StopStandby"
    assert story.state.phase is Phase.RUNNING
    assert kinds(story.tell(KeyTyped())) == ["StartStandby"]
    story.tell(StandbyReady(44, GIB))
    assert kinds(story.prompt()) == ["RunHidden", "AskStandby"]


def test_one_against_short_memory_is_not_asked_before_that_is_freed() -> None:
    """It is started after it: the old Aider ends, its models are unloaded."""
    story = at_prompt(max_turns=1)
    story.tell(StandbyReady(43, GIB), models(OURS, at=story.now))
    story.state = replace(
        story.state, restart_due=STAYED_SHORT, memory=gpu_memory(99, at=story.now).reading
    )
    assert kinds(story.prompt()) == ["RunHidden"]
    assert kinds(story.tell(ChatSaved())) == ["StopAider"]
    story.tell(models(OURS, at=story.now))
    assert kinds(story.tell(AiderExited(0))) == ["UnloadModels"]
    (start,) = [
        a for a in story.tell(ModelsUnloaded((OURS,), GIB, 1.0)) if isinstance(a, StartAider)
    ]
    assert start.standby


def test_an_aider_that_dies_is_replaced_by_the_one_that_waits() -> None:
    story = ready()
    story.tell(AiderExited(-9), OfferAnswered(accepted=True))
    (start,) = [a for a in story.tell(DeadlinePassed("backoff")) if isinstance(a, StartAider)]
    assert start.standby


def test_one_that_fails_at_its_turn_is_followed_by_a_usual_start() -> None:
    story = retired()
    story.tell(AiderStarted(2, 43), AiderExited(1))
    (start,) = [a for a in story.tell(DeadlinePassed("backoff")) if isinstance(a, StartAider)]
    assert not start.standby


# What is done behind it


def test_models_are_unloaded_behind_it_and_then_loaded_again() -> None:
    story = taken_over()
    assert kinds(story.tell(RetiredExited(0))) == ["UnloadModels"]
    assert kinds(story.tell(models(OURS, at=story.now))) == []
    done = story.tell(ModelsUnloaded((OURS,), GIB, 1.0))
    assert kinds(done) == ["WarmModel"]
    notices = [action.notice for action in done if isinstance(action, ShowNotice)]
    assert [notice.name for notice in notices] == ["restart_freed"]


def test_the_model_is_not_loaded_ahead_before_that() -> None:
    story = retired()
    story.tell(AiderStarted(2, 43))
    assert kinds(story.tell(ModelsChosen("ours", ("ours",), WINDOW), PromptShown())) == []


def test_a_message_on_its_way_keeps_its_model() -> None:
    story = taken_over()
    story.tell(KeyTyped(), PromptClosed())
    assert kinds(story.tell(RetiredExited(0))) == []
    assert story.state.retired == "none"


@pytest.mark.parametrize("event", [SidecarLost("it died"), DeadlinePassed("retired_unload")])
def test_an_unloading_that_is_not_answered_is_over(event: Event) -> None:
    story = taken_over()
    story.tell(RetiredExited(0), event)
    assert story.state.retired == "none"


def test_an_old_one_that_does_not_end_is_killed() -> None:
    story = taken_over()
    assert kinds(story.tell(DeadlinePassed("retired_stop"))) == ["SignalRetired"]
    assert SignalRetired("KILL") in story.tell(DeadlinePassed("retired_kill"))


def test_the_end_of_the_session_does_not_wait_for_it() -> None:
    story = taken_over()
    story.tell(TerminationRequested(15))
    assert SignalRetired("KILL") in story.tell(AiderExited(-15))


def test_no_other_restart_begins_before_the_old_one_is_gone() -> None:
    story = taken_over()
    story.tell(memory(story), RestartRequested())
    assert kinds(story.prompt()) == []
    assert kinds(story.tell(RetiredExited(0))) == ["UnloadModels"]
    done = story.tell(ModelsUnloaded((OURS,), NO_GPU, 1.0))
    assert "StartStandby" in kinds(done)
