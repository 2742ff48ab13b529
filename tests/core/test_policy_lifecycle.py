"""Planned restarts, deaths, and the end, as single stories and as properties of any history."""

from __future__ import annotations

import pytest
from core.histories_of_events import (
    GIB,
    OTHERS,
    OURS,
    UNKNOWN,
    WINDOW,
    Story,
    Wait,
    actions_of,
    at_first_prompt,
    gpu_memory,
    models,
    pairs,
    table,
)

from aider_guard.core.actions import (
    Action,
    CancelDeadline,
    EndSession,
    Handoff,
    OfferRestart,
    RunHidden,
    SetDeadline,
    ShowNotice,
    SignalAider,
    StartAider,
    StopAider,
    UnloadModels,
    WakeCounter,
)
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    DeadlinePassed,
    KeyTyped,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    OfferAnswered,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    RestartRequested,
    SidecarLost,
    TerminationRequested,
)
from aider_guard.core.rules.lifecycle import exit_status
from aider_guard.core.state import Limits, Phase

SIGTERM = 15


def names(actions: list[Action]) -> list[str]:
    """The kinds of the actions, without deadlines and the start of the counter at each first key."""
    return [
        type(action).__name__
        for action in actions
        if not isinstance(action, SetDeadline | CancelDeadline | WakeCounter)
    ]


# Stories


def saving(limits: Limits | None = None, *, mode: str = "", multiline: bool = False) -> Story:
    """A restart was asked for, and the hidden /save runs."""
    story = at_first_prompt(limits)
    story.tell(RestartRequested())
    story.prompt("c.py", mode=mode, multiline=multiline)
    return story


def stopping(limits: Limits | None = None) -> Story:
    """The files are known, and /exit was typed."""
    story = saving(limits, mode="ask", multiline=True)
    story.tell(ChatSaved(("c.py", "a b.py"), ("notes.md",)))
    return story


def unloading() -> Story:
    """Aider is gone, its model is being unloaded."""
    story = stopping()
    story.tell(models(OURS, at=story.now), AiderExited(0))
    return story


def offering(status: int = -9) -> Story:
    """Aider died, the user is asked."""
    story = at_first_prompt()
    story.tell(ContextRead(table(900, files={"c.py": 10})), AiderExited(status))
    return story


def backing_off() -> Story:
    """The state after the user accepted the offer."""
    story = offering()
    story.tell(OfferAnswered(accepted=True))
    return story


def starting() -> Story:
    """The first Aider was started and shows nothing yet."""
    story = Story()
    story.tell(AiderStarted(1, 42))
    return story


def ending() -> Story:
    """The user left; the model is being unloaded."""
    story = at_first_prompt()
    story.tell(models(OURS, at=story.now), AiderExited(0))
    return story


def ended() -> Story:
    """All is over."""
    story = at_first_prompt()
    story.tell(AiderExited(0))
    return story


STORIES = {
    Phase.STARTING: starting,
    Phase.RUNNING: at_first_prompt,
    Phase.SAVING: saving,
    Phase.STOPPING: stopping,
    Phase.UNLOADING: unloading,
    Phase.OFFERING: offering,
    Phase.BACKOFF: backing_off,
    Phase.ENDING: ending,
    Phase.ENDED: ended,
}


@pytest.mark.parametrize("phase", Phase)
def test_each_phase_has_its_story(phase: Phase) -> None:
    """The stories that the tests below begin with reach the phase they are named for."""
    assert STORIES[phase]().state.phase is phase


def test_a_planned_restart_step_by_step() -> None:
    """Save, exit, unload, start with what was saved, and one notice above the new prompt."""
    story = at_first_prompt()
    assert story.tell(RestartRequested()) == []
    assert names(story.prompt("c.py", mode="ask", multiline=True)) == ["RunHidden"]
    stop = story.tell(ChatSaved(("c.py", "a b.py"), ("notes.md",)))
    assert stop == [StopAider(), SetDeadline("stop", story.now + 5.0)]
    story.tell(models(OURS, OTHERS, at=story.now))
    exited = story.tell(Wait(1.0), AiderExited(0))
    assert [a for a in exited if isinstance(a, UnloadModels)] == [UnloadModels((OURS,), 6.0)]
    handoff = Handoff(("c.py", "a b.py"), ("notes.md",), "ask", multiline=True)
    unloaded = story.tell(Wait(2.0), ModelsUnloaded((OURS,), GIB, 2.0))
    assert StartAider("you asked for it", handoff) in unloaded
    (shown,) = story.tell(AiderStarted(2, 43), Wait(3.0), PromptShown())[1:]
    assert isinstance(shown, ShowNotice)
    line = "Aider restarted in 6.0 s (you asked for it): 3 files kept, 1.0 GiB freed"
    assert shown.notice.lines[0] == line
    assert (story.state.restarts, story.state.restart_due) == (1, "")


def test_a_restart_is_due_after_so_many_turns() -> None:
    """After max-turns turns since Aider started, at the next untouched prompt; 0 means never."""
    story = at_first_prompt(Limits(max_turns=2, probe="never"))
    story.turn()
    assert names(story.prompt()) == []
    story.turn()
    assert RunHidden("save") in story.prompt()
    assert story.state.restart is not None
    assert story.state.restart.reason == "2 turns"
    never = at_first_prompt(Limits(max_turns=0, probe="never"))
    for _ in range(50):
        never.turn()
    assert names(never.prompt()) == []


def test_turns_are_counted_anew_after_a_restart() -> None:
    """The count begins again with the new Aider."""
    story = at_first_prompt(Limits(max_turns=1, probe="never"))
    story.turn()
    story.prompt()
    story.tell(ChatSaved(), AiderExited(0), AiderStarted(2, 43), PromptShown())
    assert names(story.prompt()) == []
    story.turn()
    assert names(story.prompt()) == ["RunHidden"]


UNTOUCHED = [
    ("a key came", (KeyTyped(),)),
    ("the prompt was answered", (PromptClosed(),)),
    ("Aider asks", (ConfirmShown(),)),
    ("another program asks", (ContinuationShown(),)),
    ("there is text in the line", (PromptShown(empty=False), PromptSettled())),
    ("text came into the line", (PromptShown(), PromptSettled(), PromptRedrawn(empty=False))),
    ("it is not settled", (PromptShown(),)),
]


@pytest.mark.parametrize(("why", "events"), UNTOUCHED, ids=[why for why, _ in UNTOUCHED])
def test_a_restart_waits_for_an_untouched_prompt(why: str, events: tuple[PromptShown, ...]) -> None:
    """Nothing begins while the prompt is not the user's to ignore; it does at the next that is."""
    story = at_first_prompt()
    assert names(story.tell(*events, RestartRequested())) == [], why
    assert names(story.prompt()) == ["RunHidden"]


def test_a_restart_that_is_asked_for_begins_at_once_at_an_untouched_prompt() -> None:
    """A restart requested in another pane does not wait for the next prompt."""
    story = at_first_prompt(Limits(probe="never"))
    story.prompt()
    assert names(story.tell(RestartRequested())) == ["RunHidden"]


def test_without_prompt_toolkit_there_are_no_restarts() -> None:
    """A notice says so when the first one is due, and nothing is ever typed; turns are counted as always."""
    story = Story(Limits(max_turns=1, probe="always"))
    story.tell(AiderStarted(1, 42), ModelsChosen("ours", (), WINDOW, plain_input=True))
    assert story.prompt() == []
    told = []
    for _ in range(3):
        story.turn()
        told += story.prompt()
    told += story.tell(RestartRequested())
    assert (story.state.phase, story.state.turns) == (Phase.RUNNING, 3)
    assert (story.state.restart_due, names(told)) == ("", [])
    shown = actions_of(story.steps, ShowNotice)
    assert [action.notice.name for action in shown] == ["no_restarts"]
    assert actions_of(story.steps, RunHidden) == []


def test_typing_during_the_hidden_save_puts_the_restart_off() -> None:
    """Aider is not stopped under the user's hands; the restart stays due."""
    story = saving()
    assert names(story.tell(KeyTyped(), ChatSaved(("c.py",)))) == []
    assert story.state.phase is Phase.RUNNING
    assert names(story.prompt()) == ["RunHidden"]


def test_a_restart_without_the_list_of_files_is_given_up_after_two_tries() -> None:
    """A failed save stops nothing; the second one in a row is a notice, and restarts by count end."""
    story = saving(Limits(max_turns=1, probe="never"))
    assert names(story.tell(ChatSaved(problem="no list"))) == ["RunHidden"]
    said = story.tell(ChatSaved(problem="no list"))
    assert [action.notice.name for action in said if isinstance(action, ShowNotice)] == [
        "restart_given_up"
    ]
    story.turn()
    assert names(story.prompt()) == []


def test_only_failures_in_a_row_give_a_restart_up() -> None:
    """A list of files that was saved in between makes the next failure the first again."""
    story = saving(Limits(probe="never"))
    story.tell(ChatSaved(problem="no list"), ChatSaved(("c.py",)))
    story.tell(AiderExited(0), AiderStarted(2, 43), PromptShown(), RestartRequested())
    story.prompt()
    assert names(story.tell(ChatSaved(problem="no list"))) == ["RunHidden"]


def test_aider_that_does_not_stop_is_terminated_and_then_killed() -> None:
    """5 s after /exit comes SIGTERM, 1 s later SIGKILL, and whatever it exits with the restart goes on."""
    story = stopping()
    begin = story.now
    story.tell(Wait(60.0))
    signals = [(s.now - begin, a) for s, a in pairs(story.steps) if isinstance(a, SignalAider)]
    assert signals == [(5.0, SignalAider("TERM")), (6.0, SignalAider("KILL"))]
    assert names(story.tell(AiderExited(-9))) == ["StartAider"]


def test_deadlines_of_the_stop_are_forgotten_when_aider_is_gone() -> None:
    """No signal is left over for the next Aider."""
    story = stopping()
    story.tell(AiderExited(0))
    assert not {"stop", "kill"} & set(story.deadlines)
    assert not actions_of(story.steps, SignalAider)


@pytest.mark.parametrize("event", [ModelsUnloaded((), UNKNOWN, 6.0), SidecarLost("it died")])
def test_the_start_does_not_depend_on_the_sidecar(event: ModelsUnloaded | SidecarLost) -> None:
    """Aider starts when the models are unloaded, when the sidecar is lost, and after 8 s in any case."""
    story = unloading()
    assert "StartAider" in names(story.tell(event))
    late = unloading()
    begin = late.now
    late.tell(Wait(60.0))
    assert [s.now - begin for s, a in pairs(late.steps) if isinstance(a, StartAider)] == [8.0]


def test_without_a_fresh_reading_nothing_is_unloaded() -> None:
    """An absent reading, an old one and a lost sidecar: Aider starts at once, and no model is touched."""
    for spoil in (
        (),
        (models(OURS, at=0.0),),
        (models(OURS, at=100.0), SidecarLost("it died")),
        (models(OURS, at=100.0), ModelsRead(UNKNOWN)),
    ):
        story = stopping()
        actions = story.tell(*spoil, Wait(4.0), AiderExited(0))
        assert not [a for a in actions if isinstance(a, UnloadModels)], spoil
        assert StartAider in {type(a) for a in actions}


def test_models_of_others_stay_loaded() -> None:
    """A model that was loaded before this session's first turn stays loaded, even with our model's name."""
    story = Story()
    story.tell(AiderStarted(1, 42), ModelsChosen("ours", ("ours", "weak"), WINDOW))
    story.tell(models(OURS, OTHERS, at=story.now), PromptShown())
    story.turn()
    story.tell(models(OURS, OTHERS, "weak:latest", at=story.now))
    assert UnloadModels(("weak:latest",), 0.0) in story.tell(AiderExited(0))


EXITS = [(0, 0), (-2, 130)]


@pytest.mark.parametrize(("status", "shown"), EXITS)
@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.SAVING])
def test_leaving_is_final(phase: Phase, status: int, shown: int) -> None:
    """Status 0, and death by the third Ctrl-C: the session ends with it, nothing is offered or started."""
    story = STORIES[phase]()
    assert EndSession(shown) in story.tell(AiderExited(status))
    assert story.state.phase in (Phase.ENDING, Phase.ENDED)
    assert not actions_of(story.steps, StartAider, OfferRestart)


def test_the_first_start_that_fails_is_aiders_own_affair() -> None:
    """A wrong argument ends the session with Aider's status, without a notice."""
    assert starting().tell(AiderExited(2)) == [EndSession(2)]


def test_death_is_told_and_offered_back() -> None:
    """The offer says what happened and names the files of the newest table; only yes starts Aider, after a second."""
    story = offering(-9)
    (offer,) = actions_of(story.steps, OfferRestart)
    assert offer.notice.lines[0] == "Aider was killed by SIGKILL."
    assert "1 file" in offer.notice.lines[1]
    accepted = story.tell(OfferAnswered(accepted=True))
    assert accepted == [SetDeadline("backoff", story.now + 1)]
    (start,) = (a for a in story.tell(Wait(1.0)) if isinstance(a, StartAider))
    assert (start.reason, start.handoff.editable) == ("Aider died", ("c.py",))


def test_a_refused_offer_ends_with_aiders_status() -> None:
    """The shell gets the status that Aider died with."""
    for status, shown in ((1, 1), (-9, 137)):
        assert EndSession(shown) in offering(status).tell(OfferAnswered(accepted=False))


def test_a_restart_asked_for_elsewhere_is_no_consent() -> None:
    """A restart requested in another pane does not answer the question at the terminal."""
    story = offering()
    assert names(story.tell(RestartRequested(), Wait(60.0))).count("StartAider") == 0
    assert story.state.phase is Phase.OFFERING


def test_three_starts_that_fail_are_enough() -> None:
    """1, 2 and 3 s apart, then it is given up with the last status."""
    story = backing_off()
    died = story.now
    for _ in range(3):
        story.tell(Wait(4.0), AiderStarted(2, 43), AiderExited(1))
    starts = [s.now - died for s, a in pairs(story.steps) if isinstance(a, StartAider)]
    assert starts == [1.0, 4.0 + 2.0, 8.0 + 3.0]
    (end,) = actions_of(story.steps, EndSession)
    assert (end.exit_status, end.notice.name) == (1, "gave_up")


def test_deaths_right_after_the_prompt_count_as_well() -> None:
    """An Aider that shows its prompt and dies before a turn was taken is not started for ever; a turn resets it."""
    story = at_first_prompt()
    for _ in range(3):
        story.tell(AiderExited(1), OfferAnswered(accepted=True), Wait(5.0))
        story.tell(AiderStarted(2, 43), PromptShown())
    assert "EndSession" in names(story.tell(AiderExited(1)))
    works = at_first_prompt()
    for _ in range(6):
        works.tell(AiderExited(1), OfferAnswered(accepted=True), Wait(5.0))
        works.tell(AiderStarted(2, 43), PromptShown())
        works.turn()
    assert works.state.phase is Phase.RUNNING


def test_after_a_turn_the_waits_before_a_start_begin_anew() -> None:
    """The first new start comes after a second."""
    story = backing_off()
    story.tell(Wait(1.0), AiderStarted(2, 43), PromptShown())
    story.turn()
    story.tell(AiderExited(1))
    assert story.tell(OfferAnswered(accepted=True)) == [SetDeadline("backoff", story.now + 1)]


@pytest.mark.parametrize(
    ("turns", "line"),
    [
        (0, "Start it again with the files of the command line?"),
        (1, "Start it again with the files of the command line and the last exchanges?"),
    ],
)
def test_the_last_exchanges_are_offered_once_there_are_some(turns: int, line: str) -> None:
    """Without a turn there was no exchange."""
    story = at_first_prompt()
    for _ in range(turns):
        story.turn()
    (offer,) = (a for a in story.tell(AiderExited(1)) if isinstance(a, OfferRestart))
    assert offer.notice.lines[1] == line


def test_aider_that_dies_before_its_first_table_keeps_what_it_was_given() -> None:
    """After a restart no table is read before the first turn, so the last handoff is handed over again."""
    story = stopping()
    story.tell(AiderExited(0), AiderStarted(2, 43), PromptShown("architect"))
    story.tell(AiderExited(-11), OfferAnswered(accepted=True))
    (start,) = (a for a in story.tell(Wait(1.0)) if isinstance(a, StartAider))
    assert start.handoff == Handoff(("c.py", "a b.py"), ("notes.md",), "architect")


@pytest.mark.parametrize(
    "phase", [phase for phase in Phase if phase not in (Phase.ENDING, Phase.ENDED)]
)
def test_a_termination_ends_every_phase(phase: Phase) -> None:
    """SIGTERM at any moment: within 2 s the session ends with 128 + 15, also when Aider must be killed."""
    story = STORIES[phase]()
    begin, alive = story.now, phase not in (Phase.UNLOADING, Phase.OFFERING, Phase.BACKOFF)
    asked = story.tell(TerminationRequested(SIGTERM))
    if alive:
        assert asked == [SignalAider("TERM"), SetDeadline("kill", begin + 1.0)]
        assert SignalAider("KILL") in story.tell(Wait(1.0))
        story.tell(AiderExited(-9))
    assert [a.exit_status for a in actions_of(story.steps, EndSession)] == [143]
    story.tell(Wait(1.0))
    assert story.state.phase is Phase.ENDED
    assert story.now - begin <= 2.0


def test_a_termination_while_ending_changes_nothing() -> None:
    """The status is Aider's by then, and the end comes within two seconds."""
    story = ending()
    assert story.tell(TerminationRequested(SIGTERM)) == []
    story.tell(Wait(2.0))
    assert story.state.phase is Phase.ENDED
    assert [a.exit_status for a in actions_of(story.steps, EndSession)] == [0]


@pytest.mark.parametrize(("status", "shown"), [(0, 0), (1, 1), (255, 255), (-1, 129), (-15, 143)])
def test_exit_statuses_are_those_of_a_shell(status: int, shown: int) -> None:
    """The status is Aider's own, or 128 and the signal."""
    assert exit_status(status) == shown


def test_a_restart_for_memory_is_tried_against_what_is_short_now() -> None:
    """Memory that is free again is no reason any more; a restart that the user requested stays due."""
    limits = Limits(readings_for_restart=3, probe="never", max_turns=0, standby_needs_bytes=1 << 60)
    story = at_first_prompt(limits)
    story.tell(models(OURS, at=story.now))
    story.turn()
    story.tell(*(gpu_memory(95, at=story.now) for _ in range(3)))
    assert story.state.restart_due == "memory stayed short"
    assert names(story.tell(Wait(11.0)) + story.prompt()) == []
    story.tell(KeyTyped(), *(gpu_memory(95, at=story.now) for _ in range(3)), RestartRequested())
    assert names(story.tell(Wait(11.0)) + story.prompt()) == ["RunHidden"]


def test_the_end_waits_for_the_models_and_not_for_long() -> None:
    """Two seconds where the user left; one where a signal came, as a SIGKILL may follow it."""
    story = at_first_prompt()
    story.tell(models(OURS, at=story.now))
    begin = story.now
    assert SetDeadline("end", begin + 2.0) in story.tell(AiderExited(0))
    story = unloading()
    assert SetDeadline("end", story.now + 1.0) in story.tell(TerminationRequested(SIGTERM))


@pytest.mark.parametrize("event", [ModelsUnloaded((OURS,), GIB, 1.0), SidecarLost("it died")])
def test_the_end_comes_when_the_models_are_unloaded(event: ModelsUnloaded | SidecarLost) -> None:
    """Or nothing can tell; another deadline is no end."""
    story = ending()
    story.tell(DeadlinePassed("stop"), event)
    assert [step.after.phase for step in story.steps[-2:]] == [Phase.ENDING, Phase.ENDED]


def test_models_are_given_six_seconds_and_the_sidecar_two_more() -> None:
    story = stopping()
    asked = story.tell(models(OURS, at=story.now), AiderExited(0))
    assert UnloadModels((OURS,), 6.0) in asked
    assert SetDeadline("unload", story.now + 8.0) in asked


def test_starts_after_a_death_are_one_two_and_three_seconds_apart() -> None:
    story = backing_off()
    waits = []
    for _ in range(3):
        waits.append(story.deadlines["backoff"] - story.now)
        story.tell(Wait(waits[-1]), AiderStarted(2, 43), AiderExited(1))
    assert waits == [1.0, 2.0, 3.0]
    assert actions_of(story.steps, EndSession)


@pytest.mark.parametrize(("turns", "is_due"), [(19, False), (20, True)])
def test_the_limit_of_turns_is_reached_with_its_last(turns: int, is_due: bool) -> None:
    story = at_first_prompt(Limits(probe="never"))
    for _ in range(turns):
        story.turn()
    assert bool(story.state.restart_due) is is_due
