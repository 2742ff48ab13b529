"""The bookkeeping of the prompt, of turns, of models and of the window."""

from __future__ import annotations

import pytest
from core.histories_of_events import (
    UNKNOWN,
    WINDOW,
    Step,
    Story,
    at_first_prompt,
    histories,
    models,
    table,
)
from hypothesis import given

from aider_guard.core.actions import Handoff
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    Event,
    ExchangesCarried,
    KeyTyped,
    ModelsChosen,
    NoticeShown,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    TurnFinished,
)
from aider_guard.core.readings import ContextReading, Unavailable
from aider_guard.core.state import (
    Restart,
    State,
    fill_percent,
    loaded_window_tokens,
    used_tokens,
    window_tokens,
)

SETTLED = (PromptShown("ask", files=("c.py",)), PromptSettled())

# Whether a prompt is open, and whether it is settled, after these events.
PROMPTS: list[tuple[tuple[Event, ...], bool, bool]] = [
    ((), False, False),
    ((PromptShown(),), True, False),
    (SETTLED, True, True),
    ((PromptShown(empty=False), PromptSettled()), True, False),
    ((*SETTLED, KeyTyped()), True, False),
    ((*SETTLED, PromptRedrawn()), True, True),
    ((*SETTLED, PromptRedrawn(empty=False)), True, False),
    ((*SETTLED, PromptShown()), True, False),
    ((*SETTLED, PromptClosed()), False, False),
    ((*SETTLED, ConfirmShown()), False, False),
    ((*SETTLED, ContinuationShown()), False, False),
    ((*SETTLED, AiderExited(0)), False, False),
    ((*SETTLED, AiderStarted(2, 1)), False, False),
    ((PromptRedrawn(), PromptSettled()), False, False),
    ((PromptClosed(), PromptSettled()), False, False),
]


@pytest.mark.parametrize(("events", "is_open", "settled"), PROMPTS)
def test_it_is_known_whether_the_prompt_is_untouched(
    events: tuple[Event, ...], is_open: bool, settled: bool
) -> None:
    """A prompt is open from its showing to its end, and settled until the first key or text in its line."""
    story = Story()
    story.tell(*events)
    assert (story.state.prompt is not None, story.state.settled) == (is_open, settled)


@given(histories())
def test_settled_means_open_and_empty(steps: list[Step]) -> None:
    """In no history a prompt counts as settled that is closed or holds text."""
    for step in steps:
        if step.after.settled:
            assert step.after.prompt is not None
            assert step.after.prompt.empty


def test_the_newest_mode_is_remembered_over_the_prompt() -> None:
    """After a death the mode of the last prompt is handed over."""
    story = Story()
    story.tell(PromptShown("architect", multiline=True), PromptClosed())
    assert (story.state.last_mode, story.state.last_multiline) == ("architect", True)


def test_other_files_above_the_prompt_mean_that_the_chat_changed() -> None:
    """The lines that name the files are compared with those of the prompt before, until a table is read."""
    story, same, changed = Story(), PromptShown(files=("c.py",)), []
    for event in (PromptShown(files=()), same, same, ContextRead(table(900)), same):
        story.tell(event)
        changed.append(story.state.files_changed)
    assert changed == [False, True, True, False, False]


def test_turns_are_counted_and_files_remembered() -> None:
    """Turns of the session and of this Aider, and in which turn a file was named last."""
    story = Story()
    story.tell(TurnFinished(2, 100, 20, ("a", "b")), TurnFinished(1, 200, UNKNOWN, ("b",)))
    assert (story.state.turns, story.state.turns_in_launch) == (2, 2)
    assert story.state.last_seen == {"a": 1, "b": 2}
    assert story.state.turn_tokens == 200
    story.tell(AiderStarted(2, 43), TurnFinished(1))
    assert (story.state.turns, story.state.turns_in_launch) == (3, 1)
    assert isinstance(story.state.turn_tokens, Unavailable)


def test_the_end_of_a_hidden_command_is_noted_whatever_its_outcome() -> None:
    """After a table, a failure, or a saved list another hidden command may run."""
    for outcome in (
        ContextRead(table(1)),
        ContextRead(UNKNOWN),
        ChatSaved(),
        ChatSaved(problem="x"),
    ):
        story = Story(hidden="tokens")
        story.tell(outcome)
        assert story.state.hidden == ""


def test_what_aider_chose_and_what_was_said_is_noted() -> None:
    """Models, the pinned window, the root, the last notice, and how much talk was carried over."""
    story = Story(restart=Restart("asked", 0.0, Handoff()))
    story.tell(
        ModelsChosen("m", ("m", "w"), 8192, "/repo"), NoticeShown("restarted"), ExchangesCarried(2)
    )
    state = story.state
    assert (state.main_model, state.models, state.pinned_tokens) == ("m", ("m", "w"), 8192)
    assert (state.root, state.last_notice) == ("/repo", "restarted")
    assert state.restart is not None
    assert state.restart.exchanges == 2


def state_with(pinned: int | Unavailable, loaded: int | Unavailable | None) -> State:
    story = at_first_prompt()
    if loaded is not None:
        story.tell(models("ours:latest", at=story.now))
    reading = story.state.loaded
    assert not isinstance(reading, Unavailable)
    changed = tuple(
        type(model)(model.name, "", 1, 1, UNKNOWN if loaded is None else loaded)
        for model in reading.models
    )
    return State(main_model="ours", pinned_tokens=pinned, loaded=type(reading)(changed, 0.0))


WINDOWS = [
    (8192, None, 8192),
    (8192, 8192, 8192),
    (8192, 4096, 4096),
    (8192, 32768, 8192),
    (8192, UNKNOWN, 8192),
    (UNKNOWN, 4096, 4096),
    (UNKNOWN, UNKNOWN, None),
    (UNKNOWN, None, None),
]


@pytest.mark.parametrize(("pinned", "loaded", "window"), WINDOWS)
def test_the_window_is_the_loaded_one_and_at_most_the_pin(
    pinned: int | Unavailable, loaded: int | Unavailable | None, window: int | None
) -> None:
    """Ollama's list counts, but never above the pin; without a list the pin counts."""
    found = window_tokens(state_with(pinned, loaded))
    assert (found == window) if window else isinstance(found, Unavailable)


def test_the_loaded_window_is_the_main_models() -> None:
    """Another model's window does not count, and a missing reading says why."""
    story = at_first_prompt()
    story.tell(models("weak:latest", at=story.now))
    assert loaded_window_tokens(story.state) == Unavailable("the model is not loaded")
    assert loaded_window_tokens(State()) == Unavailable("Ollama was not read yet")


def used(**known: object) -> int | Unavailable:
    return used_tokens(State(**known))  # type: ignore[arg-type]  # fields by name


def test_the_tokens_in_use_are_the_newest_that_is_known() -> None:
    """The table and what files grew by; after a turn at least what that turn took; without a table the turn alone."""
    context: ContextReading = table(1000)
    assert used() == Unavailable("no /tokens was run yet")
    assert used(turn_tokens=700) == 700
    assert used(context=context) == 1000
    assert used(context=context, file_growth_tokens=50) == 1050
    assert used(context=context, turn_tokens=3000) == 1000
    assert used(context=context, turn_tokens=3000, context_changed=True) == 3000
    assert used(context=context, turn_tokens=200, context_changed=True) == 1000


def test_the_fill_needs_both_numbers() -> None:
    """Per cent of the window, or the reason why it is not known; a window of nothing is never full."""
    assert fill_percent(State(context=table(2500), pinned_tokens=WINDOW)) == 25.0
    assert fill_percent(State(context=table(1), pinned_tokens=1)) == 100.0
    assert fill_percent(State(pinned_tokens=WINDOW)) == Unavailable("no /tokens was run yet")
    assert isinstance(fill_percent(State(context=table(1))), Unavailable)
    assert isinstance(fill_percent(State(context=table(1), pinned_tokens=0)), Unavailable)
