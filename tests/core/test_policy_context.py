"""When Aider is asked for its table, and when the user is warned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.histories_of_events import (
    UNKNOWN,
    WINDOW,
    Step,
    Story,
    actions_of,
    at_first_prompt,
    histories,
    models,
    pairs,
    table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aider_guard.core.actions import Action, CountFiles, RunHidden, ShowNotice
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ConfirmShown,
    ContextRead,
    Event,
    FilesCounted,
    KeyTyped,
    ModelsChosen,
    PromptSettled,
    PromptShown,
    RestartRequested,
    TurnFinished,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.context import probe_due
from aider_guard.core.state import Limits, Phase, fill_percent

ASKS = RunHidden("tokens")
AUTO, ALWAYS, NEVER = Limits(), Limits(probe="always"), Limits(probe="never")


def read(total: int, limits: Limits = AUTO, **files: int) -> Story:
    """A session that has just read this table, its files as names without the .py."""
    story = at_first_prompt(limits)
    story.tell(ContextRead(table(total, files={f"{name}.py": n for name, n in files.items()})))
    return story


def after_turn(story: Story, tokens: int | Unavailable = UNKNOWN) -> list[Action]:
    """The actions at the settled prompt after one more turn."""
    story.turn(tokens=tokens)
    return story.prompt()


def test_the_first_table_is_asked_for_when_something_could_be_in_it() -> None:
    """It is read at the first prompt with files, or after the first turn."""
    assert ASKS not in at_first_prompt().prompt()
    assert ASKS in at_first_prompt().prompt("c.py")
    assert ASKS in after_turn(at_first_prompt())


def test_a_table_needs_the_files_that_the_last_one_had() -> None:
    """Aider takes one that is missing out of the chat. Without a root no path is known."""
    story = read(100, c=10)
    assert ASKS in story.prompt("c.py", "d.py")
    story = read(100, c=10)
    story.state = replace(story.state, root="/repo")
    assert RunHidden("tokens", ("/repo/c.py",)) in story.prompt("c.py", "d.py")


def test_the_setting_never_asks_never_and_always_asks_each_turn() -> None:
    """The setting decides."""
    assert ASKS not in after_turn(at_first_prompt(NEVER))
    assert ASKS not in at_first_prompt(NEVER).prompt("c.py")
    assert ASKS in after_turn(read(100, ALWAYS))
    assert ASKS not in at_first_prompt(ALWAYS).prompt()
    nothing_new = read(100, ALWAYS)
    nothing_new.prompt()
    nothing_new.tell(ContextRead(table(100)))
    assert not probe_due(nothing_new.state)


FILLS = [
    (1_000, False),
    (5_900, False),
    (5_999, False),
    (6_000, True),
    (6_100, True),
    (7_900, True),
    (12_000, True),
]


@pytest.mark.parametrize(("total", "asks"), FILLS)
def test_it_is_asked_when_the_warning_could_be_near(total: int, asks: bool) -> None:
    """From 20 points below the warning on, as Aider's estimate is too low."""
    assert (ASKS in after_turn(read(total))) is asks


def test_a_large_turn_counts_for_nearness() -> None:
    """The size of the last turn counts before the next table."""
    assert ASKS in after_turn(read(1_000), tokens=6_500)
    assert ASKS not in after_turn(read(1_000), tokens=2_000)


def test_five_turns_without_a_table_are_enough() -> None:
    """Far from the warning Aider is probed at every fifth turn."""
    story = read(500)
    assert [ASKS in after_turn(story) for _ in range(6)] == [False] * 4 + [True, False]


def test_another_list_of_files_is_a_reason() -> None:
    """An /add or /drop changes the lines above the prompt."""
    story = read(500)
    assert ASKS in story.prompt("new.py")


def test_files_that_grew_are_a_reason_once_they_are_counted() -> None:
    """After a turn the files of the table are counted anew; the growth may bring the warning near."""
    story = read(1_000, calc=800)
    (count,) = (a for a in story.tell(TurnFinished(1)) if isinstance(a, CountFiles))
    assert count.paths == ("calc.py",)
    assert ASKS not in story.tell(PromptShown(), PromptSettled())
    grown: dict[str, int | Unavailable] = {"calc.py": 6_000, "other.py": 99_999, "gone.py": UNKNOWN}
    assert ASKS in story.tell(FilesCounted(grown))
    assert story.state.file_growth_tokens == 5_200


def test_without_a_table_no_files_are_counted() -> None:
    """Without a table there are no sizes to compare with."""
    assert not [a for a in at_first_prompt().tell(TurnFinished(1)) if isinstance(a, CountFiles)]


def test_a_table_that_could_not_be_read_is_tried_once_more_and_then_never() -> None:
    """Two failures in a row end the probing, with one notice; a success in between resets the count."""
    story = at_first_prompt(ALWAYS)
    after_turn(story)
    assert story.tell(ContextRead(Unavailable("no answer"))) == []
    assert ASKS in after_turn(story)
    story.tell(ContextRead(table(100)))
    for _ in range(2):
        assert ASKS in after_turn(story)
        story.tell(ContextRead(Unavailable("no answer")))
    (shown,) = actions_of(story.steps, ShowNotice)
    assert (shown.notice.name, "no answer" in shown.notice.lines[0]) == ("probing_off", True)
    assert ASKS not in after_turn(story)


ELSEWHERE = [Phase.STARTING, Phase.SAVING, Phase.STOPPING, Phase.UNLOADING, Phase.OFFERING]


@pytest.mark.parametrize("phase", ELSEWHERE)
def test_it_is_asked_only_while_aider_runs(phase: Phase) -> None:
    """During a start, a stop or an offer nothing is typed."""
    story = Story(ALWAYS, phase=phase, prompt=PromptShown(), settled=True, context_changed=True)
    assert ASKS not in story.tell(FilesCounted({}))


@pytest.mark.parametrize("event", [KeyTyped(), ConfirmShown(), PromptShown(empty=False)])
def test_it_is_asked_only_at_an_untouched_prompt(event: Event) -> None:
    """Once a key came, or something else is shown, the answer of the counter does not start it."""
    asked = read(7_000, calc=100)
    asked.turn()
    asked.tell(PromptShown(), event)
    assert ASKS not in asked.tell(FilesCounted({"calc.py": 5_000}))


def test_before_any_request_a_prompt_may_show_a_chat_that_changed() -> None:
    """A table was read, and then a command may have done anything; a turn, too."""
    story = Story(main_model="ours", pinned_tokens=WINDOW)
    story.tell(ContextRead(table(7_000)))
    assert ASKS in story.prompt()
    story = Story(phase=Phase.RUNNING)
    story.tell(TurnFinished(1))
    assert probe_due(story.state)


def test_after_a_restored_start_it_is_asked_from_the_first_turn_on() -> None:
    """Before that the table counts the chat that will be summarised."""
    story = at_first_prompt(ALWAYS)
    story.tell(RestartRequested())
    story.prompt("c.py")
    story.tell(ChatSaved(("c.py",)), AiderExited(0), AiderStarted(2, 43), PromptShown())
    assert ASKS not in story.prompt("c.py", "new.py")
    assert ASKS in after_turn(story)


# The warning

CROSSINGS: list[tuple[list[int], int]] = [
    ([7_900], 0),
    ([8_000], 1),
    ([8_000, 9_000, 9_900, 12_000], 1),
    ([8_000, 7_600, 8_100], 1),
    ([8_000, 7_500, 8_100], 1),
    ([8_000, 7_400, 8_100], 2),
    ([8_000, 7_400, 7_900, 8_000, 100, 9_000], 3),
]


@pytest.mark.parametrize(("totals", "notices"), CROSSINGS)
def test_one_notice_a_crossing(totals: list[int], notices: int) -> None:
    """At 80 per cent once, and again only after the fill was below 75."""
    story = at_first_prompt()
    story.tell(*(ContextRead(table(total, files={"c.py": 50})) for total in totals))
    assert [a.notice.name for a in actions_of(story.steps, ShowNotice)] == [
        "context_filling"
    ] * notices


def test_the_notice_names_the_drop_that_helps() -> None:
    """The largest file that was not mentioned lately, with what it frees."""
    story = at_first_prompt()
    story.tell(TurnFinished(1, mentioned=("b.py",)))
    story.tell(ContextRead(table(8_400, files={"a.py": 3_000, "b.py": 4_000, "c.py": 20})))
    (shown,) = actions_of(story.steps, ShowNotice)
    assert shown.notice.lines[1].startswith("/drop a.py ")


def test_the_fill_is_of_the_window_and_not_of_the_tables_maximum() -> None:
    """A table that believes in 10,000 tokens warns at 80 per cent of the 4,000 that are loaded."""
    story = at_first_prompt()
    story.tell(ModelsChosen("ours", ("ours",), 4_000), ContextRead(table(3_300)))
    assert len(actions_of(story.steps, ShowNotice)) == 1


def test_nothing_is_warned_of_without_a_window() -> None:
    """When the window is not known, no fill is claimed."""
    story = at_first_prompt()
    story.tell(ModelsChosen("ours", ("ours",), UNKNOWN), ContextRead(table(9_000)))
    assert not actions_of(story.steps, ShowNotice)
    story.tell(models("ours", at=story.now), ContextRead(table(9_000)))
    assert len(actions_of(story.steps, ShowNotice)) == 1


TOTALS = st.lists(
    st.sampled_from([0, 7_400, 7_499, 7_500, 7_999, 8_000, 9_000]) | st.integers(0, 15_000)
)


@given(TOTALS, st.sampled_from([50, 80, 99]))
def test_between_two_notices_the_fill_was_low(totals: list[int], limit: int) -> None:
    """For any tables: exactly one notice a crossing, five points of hysteresis."""
    story = at_first_prompt(Limits(warn_at_percent=limit))
    armed, expected = True, 0
    for total in totals:
        percent = 100 * total / WINDOW
        if armed and percent >= limit:
            armed, expected = False, expected + 1
        armed = armed or percent < limit - 5
        story.tell(ContextRead(table(total)))
        assert len(actions_of(story.steps, ShowNotice)) == expected


TELL_THE_FILL = (ContextRead, TurnFinished, FilesCounted)


@settings(max_examples=200)
@given(histories())
def test_between_two_notices_of_any_history_the_fill_was_low(steps: list[Step]) -> None:
    """Whatever else happens, a second warning needs a fill below 75 in between, by a table or by a turn's numbers."""
    warned = False
    for step in steps:
        fill = fill_percent(step.after)
        if isinstance(step.event, TELL_THE_FILL) and isinstance(fill, float) and fill < 75:
            warned = False
        for action in step.actions:
            if isinstance(action, ShowNotice) and action.notice.name == "context_filling":
                assert isinstance(step.event, TELL_THE_FILL)
                assert not warned
                warned = True


@settings(max_examples=200)
@given(histories())
def test_it_is_never_asked_against_the_users_will(steps: list[Step]) -> None:
    """With the setting never, no history asks; and after two failures in a row none does until a table was read."""
    failures = 0
    for step, action in pairs(steps):
        if isinstance(step.event, ContextRead):
            failures = failures + 1 if isinstance(step.event.reading, Unavailable) else 0
        if action == ASKS:
            assert step.before.limits.probe != "never"
            assert failures < 2
