"""How full the window is as measured at the door, and when Aider's own estimate counts again."""

from __future__ import annotations

from typing import Any

import pytest
from core.histories_of_events import (
    OTHERS,
    UNKNOWN,
    Story,
    actions_of,
    at_first_prompt,
    finished,
    table,
)

from aider_guard.core.actions import CountFiles, Handoff, RunHidden, ShowNotice
from aider_guard.core.chat.events import RequestRefused, RequestStarted
from aider_guard.core.chat.types import Verdict
from aider_guard.core.chat_contents import file_names, last_known_handoff, newest_rows
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ContextRead,
    DeadlinePassed,
    Event,
    FilesCounted,
    KeyTyped,
    ModelsChosen,
    ModelsUnloaded,
    PromptClosed,
    PromptSettled,
    PromptShown,
    RestartRequested,
    SidecarLost,
    SidecarStarted,
    TurnFinished,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.context import probe_due
from aider_guard.core.state import (
    Limits,
    State,
    fill_percent,
    is_measured,
    used_tokens,
    window_tokens,
)

ASKS = RunHidden("tokens")
FILES = {"a.py": 3_000, "b.py": 2_000}


def after(prompt: int, answer: int = 0, limits: Limits | None = None, **more: Any) -> Story:
    """A session in which one message was answered."""
    story = at_first_prompt(limits)
    story.measured_turn(prompt, answer, **more)
    return story


def known(story: Story) -> tuple[int | Unavailable, bool]:
    return used_tokens(story.state), is_measured(story.state)


def was_probed(story: Story) -> bool:
    """Whether a hidden /tokens was run at any time."""
    return ASKS in actions_of(story.steps, RunHidden)


def notices(story: Story) -> list[str]:
    return [shown.notice.name for shown in actions_of(story.steps, ShowNotice)]


def test_what_the_server_counted_is_what_is_in_use() -> None:
    """The request and its answer count, in the pinned window; Aider's own estimate does not."""
    story = after(5_000, 300, estimate=3_600)
    assert known(story) == (5_300, True)
    assert fill_percent(story.state) == 53.0


def test_a_window_smaller_than_the_pin_is_what_counts() -> None:
    """The model was trained for less: Ollama says the pin, or nothing, and loads less all the same."""
    story = after(3_000, 1_000, window_tokens=8_000)
    assert (window_tokens(story.state), fill_percent(story.state)) == (8_000, 50.0)


def test_before_the_first_request_and_without_the_door_aiders_estimate_counts() -> None:
    """Only a measured fill is called measured."""
    story = at_first_prompt()
    assert known(story) == (Unavailable("no /tokens was run yet"), False)
    story.turn(tokens=3_600)
    assert known(story) == (3_600, False)


OTHER_REQUESTS: list[dict[str, Any]] = [
    {"purpose": "commit", "role": "weak"},
    {"purpose": "summary", "role": "weak"},
    {"purpose": "other"},
    {"purpose": "edit", "role": "editor", "model": OTHERS},
    {"outcome": "cancelled"},
    {"outcome": "broken"},
    {"prompt_tokens": UNKNOWN},
]


@pytest.mark.parametrize("more", OTHER_REQUESTS, ids=lambda more: " ".join(map(str, more.values())))
def test_only_an_answered_message_of_the_main_model_is_measured(more: dict[str, Any]) -> None:
    """Commit messages, summaries, cancelled requests and those of another model do not change the chat's size."""
    story = at_first_prompt()
    story.tell(finished(5_000, 300, **more))
    assert isinstance(story.state.last_request, Unavailable)


def test_a_weak_or_editors_request_of_the_main_model_itself_counts() -> None:
    """The editor's role may be the main model's: its prompt is in the same window."""
    story = at_first_prompt()
    story.tell(finished(5_000, purpose="edit", role="editor", model="ours:latest"))
    assert used_tokens(story.state) == 5_000


def test_in_architect_mode_the_larger_of_the_two_counts() -> None:
    """The next prompt holds the architect's prompt, not the editor's, unless the editor's was larger."""
    for editor, used in ((2_000, 5_100), (7_000, 7_100)):
        story = at_first_prompt()
        story.tell(finished(5_000, 100), finished(editor, 100, purpose="edit", role="editor"))
        assert used_tokens(story.state) == used
        story.tell(PromptShown(), TurnFinished(2, UNKNOWN, 0))
        story.measured_turn(1_000)
        assert used_tokens(story.state) == 1_000


def test_of_two_equal_requests_the_architects_counts() -> None:
    """Its parts are those of the next prompt."""
    story = at_first_prompt()
    story.tell(finished(5_000, files_of_prompt=FILES))
    story.tell(finished(5_000, purpose="edit", role="editor"))
    assert file_names(story.state) == ("a.py", "b.py")


def test_an_answer_that_was_not_counted_adds_nothing() -> None:
    """The prompt alone is known."""
    story = at_first_prompt()
    story.tell(finished(5_000, answer_tokens=UNKNOWN))
    assert used_tokens(story.state) == 5_000


def test_a_server_without_an_account_of_tokens_leaves_the_estimate() -> None:
    """Without token counts the estimate counts, and the table is read after the turn."""
    story = at_first_prompt()
    story.tell(PromptClosed(), finished(UNKNOWN), PromptShown(), TurnFinished(1, 3_600, 0))
    assert known(story) == (3_600, False)
    assert ASKS in story.prompt()


CUT = Verdict("cut", "evidence", "messages", 4_000)
LOST: list[tuple[str, dict[str, Any], tuple[int, bool]]] = [
    ("cut", {"verdict": CUT}, (9_000, False)),
    ("cut, counted", {"verdict": CUT, "counted_tokens": 9_100, "counted_exactly": True}, (9_100, True)),
    (
        "cut by an unknown amount",
        {"verdict": Verdict("cut", "e", "tokens", UNKNOWN), "counted_tokens": 8_000, "error_percent": 50.0},
        (8_000, False),
    ),
    ("cut, nothing else known", {"verdict": Verdict("cut", "e", "tokens", UNKNOWN)}, (5_000, False)),
    ("pushed out later", {"verdict": Verdict("cut", "e", "generation", 4_000)}, (5_000, True)),
    ("cached tokens left out", {"counted_tokens": 9_000, "counted_exactly": True}, (9_000, True)),
    ("the same, estimated", {"counted_tokens": 9_000, "error_percent": 10.0}, (9_000, False)),
    ("within the error", {"counted_tokens": 5_500, "error_percent": 10.0}, (5_000, True)),
    ("counted too high", {"counted_tokens": 4_000, "error_percent": 10.0}, (5_000, True)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "more", "found"), LOST, ids=[what for what, *_ in LOST])
def test_what_was_sent_counts_and_not_what_was_left(
    what: str, more: dict[str, Any], found: tuple[int, bool]
) -> None:
    """The server reports 5,000 tokens, but the cut part is still in the chat."""
    story = at_first_prompt()
    story.tell(finished(5_000, **more))
    assert known(story) == found, what


def test_the_window_may_be_known_from_the_request_alone() -> None:
    """A server that is not Ollama: nothing is pinned, nothing listed."""
    story = Story()
    story.tell(ModelsChosen("", (), UNKNOWN), finished(500, window_tokens=2_000))
    assert (window_tokens(story.state), fill_percent(story.state)) == (2_000, 25.0)
    story.tell(finished(500, window_tokens=UNKNOWN))
    assert isinstance(fill_percent(story.state), Unavailable)


# The warning


def test_the_warning_comes_from_the_turns_own_numbers() -> None:
    """Without a hidden /tokens, with the rows of the request, its answer among them, and without "about"."""
    story = after(8_000, 100, files_of_prompt=FILES)
    (shown,) = actions_of(story.steps, ShowNotice)
    assert shown.notice.lines == (
        "context 81 % full: 8,100 of 10,000 tokens (files 5,000, instructions 3,000, history 100)",
        "/drop a.py   (frees about 3,000 tokens, then 51 %)",
    )
    assert not was_probed(story)


def test_rows_sum_up_to_what_was_measured() -> None:
    """Where the parts were estimated, they are in the proportions of the estimate."""
    story = after(8_000, 100, files_of_prompt=FILES)
    assert sum(row.tokens for row in newest_rows(story.state)) == 8_100
    half = after(8_000, 100, parts=table(4_000, files={"a.py": 1_000}).rows)
    assert [row.tokens for row in newest_rows(half.state)] == [6_000, 2_000, 100]


def test_a_prompt_that_was_not_understood_is_warned_of_all_the_same() -> None:
    """The fill is known even if the parts of the prompt are not."""
    story = after(8_500, parts=())
    (shown,) = actions_of(story.steps, ShowNotice)
    assert shown.notice.lines == (
        "context 85 % full: 8,500 of 10,000 tokens",
        "/tokens   (shows what takes the room)",
    )


def test_one_notice_a_crossing_of_measured_turns() -> None:
    """At 80 per cent once, and again only after a turn below 75."""
    for fills, count in (([7_900], 0), ([8_000, 9_000], 1), ([8_000, 7_500, 8_000], 1)):
        story = at_first_prompt()
        for fill in fills:
            story.measured_turn(fill)
        assert notices(story) == ["context_filling"] * count
    again = at_first_prompt()
    for fill in (8_000, 7_400, 8_000):
        again.measured_turn(fill)
    assert notices(again) == ["context_filling"] * 2


def test_a_report_that_comes_after_the_prompt_is_of_that_turn() -> None:
    """The turn ends with the report: no probe before it, and the warning at the turn's end."""
    story = at_first_prompt()
    story.tell(PromptClosed(), RequestStarted(1, "main", "chat", "ours"))
    assert ASKS not in story.prompt()
    assert ASKS not in story.tell(finished(8_000), TurnFinished(1, 6_400, 0))
    assert (notices(story), known(story)) == (["context_filling"], (8_000, True))
    # What is shown next belongs to a command, not to that request.
    story.tell(KeyTyped(), PromptClosed())
    assert ASKS in story.prompt()


# What changed since


def test_a_measured_turn_needs_no_table() -> None:
    """Near the warning or not, after one turn or after ten."""
    story = at_first_prompt()
    for _ in range(10):
        story.measured_turn(7_800, estimate=6_000, files_of_prompt=FILES)
    assert not was_probed(story)


def test_a_command_near_the_warning_is_a_reason_and_far_from_it_none() -> None:
    """A /clear may have changed anything; Aider is probed from 20 points below the warning on."""
    for prompt, asks in ((6_100, True), (5_900, False)):
        story = after(prompt)
        for _ in range(10):
            story.measured_turn(prompt)
        assert (ASKS in story.prompt()) is asks
        assert known(story) == (prompt, False)


def test_other_files_above_the_prompt_are_a_reason() -> None:
    """After an /add or /drop Aider is probed, unless a request with the new files was measured."""
    story = after(500)
    assert ASKS in story.prompt("b.py")
    at_once = after(500)
    at_once.tell(PromptShown(files=("b.py",)), KeyTyped())
    at_once.measured_turn(600, files=("b.py",))
    assert not was_probed(at_once)


def test_a_file_that_aider_added_in_the_turn_is_a_reason() -> None:
    """Aider added it after the request: the next prompt names it, whenever the report comes."""
    assert was_probed(after(500, files=("new.py",)))
    late = at_first_prompt()
    late.tell(PromptClosed(), RequestStarted(1, "main", "chat", "ours"))
    late.tell(PromptShown(files=("new.py",)), finished(500), TurnFinished(1), PromptSettled())
    assert ASKS in late.steps[-1].actions


def test_a_table_after_a_change_is_taken_in_tokens_of_the_model() -> None:
    """Aider counted 4,000 of a request that had 5,000: a table of 6,800 after an /add stands for 8,500."""
    story = after(5_000, estimate=4_000)
    story.prompt("a.py")
    said = story.tell(ContextRead(table(6_800, files={"a.py": 2_800})))
    assert known(story) == (8_500, False)
    (shown,) = (action for action in said if isinstance(action, ShowNotice))
    assert shown.notice.lines == (
        "context about 85 % full: 8,500 of 10,000 tokens (instructions 5,000, files 3,500)",
        "/drop a.py   (frees about 3,500 tokens, then 50 %)",
    )


def test_a_table_without_a_change_says_less_than_the_request() -> None:
    """With the setting always Aider is probed each turn, but the measurement stays."""
    story = after(5_000, limits=Limits(probe="always"))
    assert was_probed(story)
    story.tell(ContextRead(table(3_000)))
    assert known(story) == (5_000, True)


RATIOS: list[tuple[int, int | Unavailable, float]] = [
    (5_000, 4_000, 1.25),
    (5_000, 5_000, 1.0),
    (5_000, UNKNOWN, 1.0),
    (5_000, 0, 1.0),
    (5_000, 1, 3.0),
    (9_000, 1_000, 3.0),
    (1_000, 9_000, 0.5),
]


@pytest.mark.parametrize(("counted", "estimated", "ratio"), RATIOS)
def test_what_aiders_estimate_is_worth(
    counted: int, estimated: int | Unavailable, ratio: float
) -> None:
    """Both numbers are of one request. Where Aider took over the server's number nothing is learned, and a ratio that
    no tokeniser has is bounded.
    """
    assert after(counted, estimate=estimated).state.tokens_per_estimate == ratio


def test_what_the_estimate_is_worth_is_kept() -> None:
    """A turn without both numbers keeps the last ratio."""
    story = after(5_000, estimate=4_000)
    story.measured_turn(6_000, estimate=6_000)
    assert story.state.tokens_per_estimate == 1.25


def test_the_estimate_of_another_models_request_is_worth_nothing() -> None:
    """Aider reports its last request, which was the editor's."""
    story = at_first_prompt()
    editors = finished(2_000, purpose="edit", role="editor", model=OTHERS)
    story.tell(finished(5_000), editors, PromptShown(), TurnFinished(2, 1_000, 0))
    assert story.state.tokens_per_estimate == 1.0


def test_a_turn_past_the_door_falls_back_to_the_estimate() -> None:
    """The estimate is scaled by the last ratio, until the next measured turn."""
    story = after(5_000, estimate=4_000)
    story.turn(tokens=6_000)
    assert known(story) == (7_500, False)
    story.measured_turn(6_100)
    assert known(story) == (6_100, True)


def test_a_turn_that_nobody_counted_leaves_the_last_measurement() -> None:
    """After Ctrl-C a part of the turn stays in the chat, so the number is "about" right."""
    story = after(5_000, estimate=4_000)
    story.tell(PromptClosed(), finished(UNKNOWN, outcome="cancelled"), PromptShown())
    story.tell(TurnFinished(1, UNKNOWN, UNKNOWN))
    assert known(story) == (5_000, False)


def test_a_reflection_that_was_given_up_makes_the_turn_an_estimate() -> None:
    """The first request of the turn was measured, but the chat grew since."""
    story = at_first_prompt()
    story.tell(PromptClosed(), finished(5_000), finished(UNKNOWN, outcome="cancelled"))
    story.tell(PromptShown(), TurnFinished(2, UNKNOWN, UNKNOWN))
    assert known(story) == (5_000, False)


def test_a_reflection_that_was_given_up_counts_when_its_report_is_late_as_well() -> None:
    """The prompt is shown before the door reports that the second request was cancelled."""
    story = at_first_prompt()
    story.tell(PromptClosed(), finished(5_000), RequestStarted(2, "main", "chat", "ours"))
    story.tell(PromptShown(), finished(UNKNOWN, number=2, outcome="cancelled"))
    story.tell(TurnFinished(2, UNKNOWN, UNKNOWN))
    assert known(story) == (5_000, False)


def test_a_table_replaces_the_measurement_whatever_changed() -> None:
    """It does so after a command with the same files, and after a turn that ended with another one in the chat."""
    cleared = after(7_000)
    cleared.prompt()
    cleared.tell(ContextRead(table(300)))
    assert known(cleared) == (300, False)
    added = after(500, files=("new.py",))
    added.tell(ContextRead(table(900)))
    assert known(added) == (900, False)


# Files


def counts(story: Story) -> list[tuple[str, ...]]:
    return [action.paths for action in actions_of(story.steps, CountFiles)]


def test_files_that_grew_after_the_request_count_from_the_second_time_on() -> None:
    """Their size in the request is unknown in Aider's tokens; the growth between two counts is known, and scaled."""
    story = after(5_000, estimate=4_000, files_of_prompt=FILES)
    assert counts(story) == [("a.py", "b.py")]
    story.tell(FilesCounted({"a.py": 2_400, "b.py": 1_600}))
    assert known(story) == (5_000, True)
    story.measured_turn(5_100, estimate=4_080, files_of_prompt=FILES)
    story.tell(FilesCounted({"a.py": 2_800, "b.py": 1_600}))
    assert known(story) == (5_600, False)
    story.measured_turn(5_650, estimate=4_520, files_of_prompt=FILES)
    assert known(story) == (5_650, True)


def test_growth_can_warn_without_a_table() -> None:
    """It is "about", as the growth is an estimate."""
    story = after(7_800, files_of_prompt=FILES)
    story.tell(FilesCounted({"a.py": 3_000}))
    story.measured_turn(7_800, files_of_prompt=FILES)
    (shown,) = (a for a in story.tell(FilesCounted({"a.py": 3_500})) if isinstance(a, ShowNotice))
    assert shown.notice.lines[0].startswith("context about 83 % full: 8,300 of 10,000 tokens")


def test_what_a_death_hands_over_are_the_newest_requests_files() -> None:
    """An older table does not count; without a request or table it is what this Aider took over."""
    story = at_first_prompt()
    story.tell(ContextRead(table(900, files={"old.py": 10})))
    assert last_known_handoff(State()) == Handoff(known=False)
    assert last_known_handoff(story.state).editable == ("old.py",)
    story.measured_turn(5_000, files_of_prompt=FILES)
    assert last_known_handoff(story.state).editable == ("a.py", "b.py")
    assert file_names(story.state) == ("a.py", "b.py")
    assert file_names(State()) == ()


# A refusal


def refused(story: Story, tokens: int | Unavailable = 12_000, **more: Any) -> None:
    facts: dict[str, Any] = {
        "role": "main",
        "purpose": "chat",
        "model": "ours",
        "reason": "overflow",
    }
    story.tell(PromptClosed(), RequestRefused(1, **{**facts, **more}, counted_tokens=tokens))


def test_a_refused_prompt_is_what_the_chat_holds() -> None:
    """The refused prompt is the fill; the door's answer is on the screen, so that no notice repeats it."""
    story = after(5_000, estimate=4_000, files_of_prompt=FILES)
    refused(story)
    assert ASKS not in story.prompt()
    story.tell(FilesCounted({"a.py": 3_000}))
    assert (known(story), notices(story)) == ((12_000, False), [])
    assert file_names(story.state) == ("a.py", "b.py")
    story.tell(KeyTyped(), PromptClosed())
    assert ASKS in story.prompt("fewer.py")
    story.tell(ContextRead(table(4_000)))
    assert known(story) == (5_000, False)
    story.measured_turn(8_200)
    assert notices(story) == ["context_filling"]


@pytest.mark.parametrize(
    "more",
    [
        {"reason": "down"},
        {"purpose": "commit", "role": "weak"},
        {"role": "editor", "purpose": "edit", "model": OTHERS},
        {"tokens": UNKNOWN},
    ],
    ids=["Ollama is down", "a commit message", "another model's", "not counted"],
)
def test_another_refusal_says_nothing_of_the_chat(more: dict[str, Any]) -> None:
    """The earlier measurement stays."""
    story = after(5_000)
    refused(story, **more)
    assert used_tokens(story.state) == 5_000


# Reports that do not come


@pytest.mark.parametrize(
    "event",
    [
        SidecarLost("it died"),
        SidecarStarted(7, "1"),
        DeadlinePassed("sidecar_silent"),
        PromptClosed(),
        AiderStarted(2, 43),
        RequestRefused(1, "main", "chat", "ours", "down"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_nothing_is_waited_for_that_will_not_come(event: Event) -> None:
    """A request whose report cannot come any more does not hold up the probe."""
    story = at_first_prompt(Limits(probe="always"))
    story.tell(RequestStarted(1, "main", "chat", "ours"), TurnFinished(1))
    assert not probe_due(story.state)
    story.tell(event, PromptShown())
    assert probe_due(story.state)


def test_a_request_of_aiders_own_is_not_waited_for() -> None:
    """A summary is written in the background while the prompt is shown."""
    story = at_first_prompt(Limits(probe="always"))
    story.tell(RequestStarted(1, "weak", "summary", "ours"), TurnFinished(1))
    assert probe_due(story.state)


# A restart


def test_after_a_restart_all_is_learned_anew() -> None:
    """The old chat's size does not count for the new one; the first turn measures it."""
    story = after(7_000, estimate=5_600, files_of_prompt=FILES)
    story.tell(FilesCounted({"a.py": 3_000}), RestartRequested())
    story.prompt()
    story.tell(ChatSaved(("a.py",)), AiderExited(0), ModelsUnloaded(("ours",), UNKNOWN, 1.0))
    story.tell(AiderStarted(2, 43))
    assert isinstance(used_tokens(story.state), Unavailable)
    assert isinstance(story.state.last_request, Unavailable)
    assert ASKS not in story.prompt("a.py")
    story.measured_turn(1_000, files=("a.py",))
    assert (known(story), was_probed(story)) == ((1_000, True), False)


def test_a_turn_that_a_death_cut_short_is_not_taken_for_the_next_aiders_first() -> None:
    """Its request was measured, but the first turn of the new Aider was not: there Aider is asked."""
    story = at_first_prompt()
    story.tell(PromptClosed(), finished(5_000), AiderStarted(2, 43), PromptShown())
    story.turn()
    assert ASKS in story.prompt()
