"""When the main model is loaded ahead, and which models are unloaded at the end."""

from __future__ import annotations

import pytest
from core.histories_of_events import (
    OTHERS,
    OURS,
    UNKNOWN,
    WINDOW,
    Step,
    Story,
    Wait,
    actions_of,
    at_first_prompt,
    finished,
    histories,
    models,
    pairs,
)
from hypothesis import given, settings

from aider_guard.core.actions import EndSession, UnloadModels, WarmModel
from aider_guard.core.chat.events import ModelWarmed, RequestStarted
from aider_guard.core.chat_contents import session_models
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    Event,
    KeyTyped,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    PromptClosed,
    PromptShown,
    RestartRequested,
    ServerRead,
    ServerSurveyed,
    TerminationRequested,
)
from aider_guard.core.server_report import ServerReport
from aider_guard.core.state import Phase

CHOSEN = ModelsChosen("ours", ("ours", "weak"), WINDOW)
ANSWERS = ServerRead("0.9.3")
STARTED = RequestStarted(1, "main", "chat", "ours")


def surveyed(version: str = "") -> ServerSurveyed:
    known = version or UNKNOWN
    return ServerSurveyed(ServerReport("", True, known, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN))


def launched(*before: Event, launch: int = 1) -> Story:
    story = Story()
    story.tell(AiderStarted(launch, 42), *before)
    return story


FIRST: list[tuple[tuple[Event, ...], bool]] = [
    ((), False),
    ((ANSWERS,), True),
    ((surveyed("0.9.3"),), True),
    ((ServerRead(UNKNOWN),), False),
    ((ANSWERS, surveyed()), False),
    ((ANSWERS, ServerRead(UNKNOWN)), False),
]


@pytest.mark.parametrize(("before", "warms"), FIRST)
def test_at_the_first_launch_only_an_ollama_that_answers_is_asked(
    before: tuple[Event, ...], warms: bool
) -> None:
    """Aider's start does not wait for an Ollama that is not there."""
    assert (WarmModel() in launched(*before).tell(CHOSEN)) is warms


def test_without_a_main_model_of_ollamas_nothing_is_loaded() -> None:
    """The model runs elsewhere, or Aider's settings could not be read."""
    assert WarmModel() not in launched(ANSWERS).tell(ModelsChosen("", ("weak",), WINDOW))


def test_after_a_restart_the_model_is_loaded_again() -> None:
    """With the next launch, once its models are known, and not while the old ones are unloaded."""
    story = at_first_prompt()
    story.tell(STARTED, RestartRequested())
    story.prompt()
    story.tell(ChatSaved(), models(OURS, at=story.now), AiderExited(0))
    assert story.state.phase is Phase.UNLOADING
    assert WarmModel() not in story.tell(CHOSEN, ModelsUnloaded((OURS,), UNKNOWN, 1.0))
    assert WarmModel() in story.tell(AiderStarted(2, 43), CHOSEN)


def test_a_session_that_ends_loads_nothing() -> None:
    """The end was asked for while Aider started."""
    story = launched(ANSWERS, TerminationRequested(15))
    assert WarmModel() not in story.tell(CHOSEN)


@settings(max_examples=200)
@given(histories())
def test_a_model_is_loaded_ahead_for_a_launch_or_at_a_prompt(steps: list[Step]) -> None:
    """In any history: with the choice of models, or while the user may type."""
    for step, action in pairs(steps):
        if isinstance(action, WarmModel):
            launched = isinstance(step.event, ModelsChosen) and step.after.phase is Phase.STARTING
            at_prompt = step.before.phase is Phase.RUNNING and step.after.prompt is not None
            assert launched or at_prompt


# When it left, or Ollama came late


def used(*asked_for: str) -> Story:
    """A session whose main model answered and is listed; a prompt is shown."""
    story = at_first_prompt()
    story.tell(ANSWERS)
    for name in asked_for:
        story.tell(RequestStarted(9, "editor", "edit", name))
    story.measured_turn(100)
    story.tell(models(OURS, *asked_for, at=story.now))
    return story


def left(story: Story, *others: str) -> list[WarmModel]:
    """The loads ahead when the main model is no longer in Ollama's list."""
    told = story.tell(models(*others, at=story.now))
    return [action for action in told if isinstance(action, WarmModel)]


def test_a_model_that_left_is_loaded_again_while_the_user_types() -> None:
    """It is loaded once until the next message: if it is unloaded again, the memory is needed elsewhere."""
    story = used()
    assert left(story) == [WarmModel()]
    assert left(story) == []
    story.tell(ModelWarmed("ours", "load", 2.0), models(OURS, at=story.now))
    assert left(story) == []
    assert WarmModel() not in story.tell(KeyTyped())
    story.measured_turn(100)
    story.tell(models(OURS, at=story.now))
    assert left(story) == [WarmModel()]


def test_a_model_that_could_not_be_loaded_ahead_is_not_tried_again() -> None:
    """It was never in the list, so it did not leave."""
    story = launched(ANSWERS, CHOSEN, ModelWarmed("ours", "load", problem="busy"), PromptShown())
    assert left(story) == []


def test_a_model_that_the_session_unloaded_itself_did_not_leave() -> None:
    """After a restart it was to be loaded ahead, which failed. What else was unloaded makes no difference."""
    story = used()
    story.tell(RestartRequested())
    story.prompt()
    story.tell(ChatSaved(), AiderExited(0), ModelsUnloaded((OURS,), UNKNOWN, 1.0))
    story.tell(AiderStarted(2, 43), CHOSEN, ModelWarmed("ours", "load", problem="busy"))
    story.tell(PromptShown())
    assert left(story) == []
    other = used()
    other.tell(ModelsUnloaded(("weak",), UNKNOWN, 1.0))
    assert left(other) == [WarmModel()]


def test_a_server_that_was_started_again_has_lost_the_model() -> None:
    """The server does not answer in between."""
    story = used()
    story.tell(ServerRead(UNKNOWN), ModelsRead(UNKNOWN), ANSWERS)
    assert left(story) == [WarmModel()]


def test_it_is_no_obstacle_what_the_session_has_loaded_besides() -> None:
    """The action names the session's other models, as a new sidecar does not know them."""
    assert left(used("editor"), "editor:latest") == [WarmModel(("editor",))]


def test_a_model_of_another_program_is_not_among_the_sessions_other_models() -> None:
    """It was in memory before the session's first request for it."""
    story = at_first_prompt()
    story.tell(ANSWERS, models("theirs:latest", at=story.now))
    story.tell(RequestStarted(9, "editor", "edit", "theirs"))
    story.measured_turn(100)
    story.tell(models(OURS, "theirs:latest", at=story.now))
    assert left(story, "theirs:latest") == [WarmModel()]


def test_a_model_that_leaves_while_nobody_can_type_is_loaded_at_the_prompt() -> None:
    """The running request may load it itself."""
    story = used()
    story.tell(PromptClosed())
    assert left(story) == []
    assert WarmModel() in story.tell(PromptShown())
    again = used()
    again.tell(PromptClosed())
    assert left(again) == []
    again.tell(STARTED)
    assert WarmModel() not in again.tell(PromptShown())


def test_nothing_is_loaded_over_the_model_that_the_user_turned_to() -> None:
    """The model chosen by /model pushed the main model out."""
    story = used()
    story.tell(PromptClosed(), RequestStarted(2, "main", "chat", "other"), PromptShown())
    assert left(story, "other:latest") == []


def test_somebody_else_s_model_is_not_brought_back() -> None:
    """A model that was loaded before this session is not loaded again, even with the same name."""
    story = launched(ANSWERS, CHOSEN, models(OURS, at=100.0), PromptShown())
    story.measured_turn(100)
    story.tell(models(OURS, at=story.now))
    assert left(story) == []


def test_who_is_gone_for_the_day_finds_it_loaded_with_the_first_key() -> None:
    """Over night the memory stays free for other programs."""
    story = used()
    story.tell(Wait(5 * 3600.0))
    assert left(story) == []
    assert WarmModel() in story.tell(KeyTyped())


@pytest.mark.parametrize(("more_seconds", "is_loaded"), [(0.0, True), (0.1, False)])
def test_the_user_is_away_after_four_hours_without_a_turn(
    more_seconds: float, is_loaded: bool
) -> None:
    """Up to then the model is loaded again as soon as it left."""
    story = used()
    until = story.state.turn_ended_at + 4 * 3600.0 + more_seconds
    story.tell(Wait(until - story.now))
    assert bool(left(story)) is is_loaded


def test_an_ollama_that_comes_after_aider_is_asked_then() -> None:
    """The model is then loaded at the prompt."""
    story = launched(ServerRead(UNKNOWN), CHOSEN, PromptShown())
    assert left(story) == []
    story.tell(ANSWERS)
    assert left(story) == [WarmModel()]
    assert unloads(story) == ["ours"]
    there = launched(ServerRead(UNKNOWN), CHOSEN, PromptShown(), ANSWERS)
    assert left(there, OURS) == []


# Whose it is


def unloads(story: Story) -> list[str]:
    """The models that are unloaded when the user leaves now."""
    story.tell(AiderExited(0))
    return [name for action in actions_of(story.steps, UnloadModels) for name in action.names]


def test_a_model_loaded_ahead_is_let_go_of_without_a_turn() -> None:
    """It was not in Ollama's list before."""
    story = launched(ANSWERS, models(OTHERS, at=100.0), CHOSEN)
    story.tell(ModelWarmed("ours", "load", 2.0), models(OTHERS, OURS, at=story.now))
    assert unloads(story) == [OURS]


def test_who_leaves_while_it_is_loaded_leaves_nothing_behind() -> None:
    """It is unloaded even if Ollama's list does not have it yet."""
    for more in ((), (ModelWarmed("ours", "load", 2.0),)):
        story = launched(ANSWERS, models(at=100.0), CHOSEN, *more)
        assert unloads(story) == ["ours"]
        assert UnloadModels(("ours",), 0.0) in story.steps[-1].actions


def test_a_request_may_have_loaded_what_is_not_listed_yet() -> None:
    """It may be a model of the session or one that the user switched to, but not one of another server."""
    story = at_first_prompt()
    story.tell(STARTED, finished(100))
    assert unloads(story) == ["ours"]
    for listed in ((), ("other:latest",)):
        switched = at_first_prompt()
        switched.tell(RequestStarted(1, "main", "chat", "other"))
        switched.tell(*(models(*listed, at=switched.now),) * len(listed))
        assert unloads(switched) == list(listed or ("other",))
    elsewhere = at_first_prompt()
    elsewhere.tell(RequestStarted(1, "main", "chat", "a model of another server", "openai"))
    assert unloads(elsewhere) == []


@pytest.mark.parametrize("name", ["other", "weak"])
def test_a_model_that_others_had_loaded_before_the_first_request_for_it_is_theirs(
    name: str,
) -> None:
    """It stays loaded, whatever the request was for."""
    story = at_first_prompt()
    story.tell(STARTED, models(OURS, f"{name}:latest", at=story.now))
    story.tell(RequestStarted(2, "main", "chat", name), models(OURS, name, at=story.now))
    assert unloads(story) == [OURS]


def test_models_of_others_stay_theirs_when_another_one_is_seen() -> None:
    """One was loaded before the session, one before the first request for it."""
    story = launched(models(OURS, at=100.0), CHOSEN, PromptShown(), STARTED)
    story.tell(models(OURS, "other:latest", at=story.now))
    story.tell(RequestStarted(2, "main", "chat", "other"))
    assert unloads(story) == []


@pytest.mark.parametrize(
    "name",
    ["library/small", "registry.ollama.ai/library/small:latest", "Small:Latest", "small:local"],
)
def test_a_model_named_in_another_way_than_ollama_lists_it_is_unloaded(name: str) -> None:
    """At the session's end, and only it: names are compared as Ollama reads them."""
    story = launched(ANSWERS, models(OTHERS, at=100.0), ModelsChosen(name, (name,), WINDOW))
    story.tell(PromptShown(), RequestStarted(1, "main", "chat", name))
    story.tell(models(OTHERS, "small:latest", at=story.now))
    assert unloads(story) == ["small:latest"]


NOT_THERE: list[Event] = [
    ModelWarmed("ours", "load", problem="others use the memory"),
    ModelsUnloaded(("ours:latest",), UNKNOWN, 1.0),
]


@pytest.mark.parametrize("event", NOT_THERE, ids=["not loaded", "unloaded"])
def test_what_was_not_loaded_or_is_gone_is_not_unloaded(event: Event) -> None:
    """The session ends at once, without unloading."""
    story = launched(ANSWERS, models(at=100.0), CHOSEN, event)
    assert EndSession(0) in story.tell(AiderExited(0))
    assert story.state.phase is Phase.ENDED


def test_a_warm_up_that_gave_way_to_a_request_leaves_the_requests_model() -> None:
    """A failed warm-up does not take the model of a request off the list."""
    story = launched(ANSWERS, models(at=100.0), CHOSEN, STARTED)
    story.tell(ModelWarmed("ours", "head", problem="a request came"))
    assert unloads(story) == ["ours"]


def test_what_was_seen_in_the_list_and_left_it_is_gone() -> None:
    """A model that was stopped elsewhere needs no unloading."""
    story = launched(ANSWERS, models(at=100.0), CHOSEN, ModelWarmed("ours", "load"))
    story.tell(models(OURS, at=story.now), models(at=story.now))
    assert unloads(story) == []


def test_what_was_loaded_before_stays_loaded() -> None:
    """It has the name of our model but is of another program: the sidecar reads the list before it loads one."""
    story = launched(ANSWERS, CHOSEN, models(OURS, at=100.0))
    story.tell(ModelWarmed("ours", "load"), STARTED, models(OURS, at=story.now))
    assert (unloads(story), story.state.foreign_models) == ([], frozenset({OURS}))


def test_what_others_loaded_until_we_asked_for_something_is_theirs() -> None:
    """Other programs may load models after our start; a model that they unloaded before is not theirs any more."""
    story = launched(models(OTHERS, "weak:latest", at=100.0), models(OURS, OTHERS, at=100.0))
    story.tell(CHOSEN, STARTED, RequestStarted(2, "weak", "commit", "weak"))
    story.tell(models(OURS, OTHERS, "weak:latest", at=story.now))
    assert unloads(story) == ["weak:latest"]


def test_the_list_that_the_sidecar_reads_before_it_loads_is_the_last_of_others() -> None:
    """Later lists may be read while the model is being loaded."""
    story = launched(ANSWERS, models(at=100.0), CHOSEN)
    story.tell(models(OTHERS, at=story.now), models(OTHERS, OURS, at=story.now))
    assert story.state.foreign_models == frozenset({OTHERS})
    assert unloads(story) == [OURS]


@pytest.mark.parametrize("launch", [1, 2])
def test_a_list_read_during_a_restart_says_nothing_of_others(launch: int) -> None:
    """One that was read before shows what others had loaded, even if no message was sent since."""
    story = at_first_prompt()
    if launch == 1:
        story.tell(models(at=story.now))
    story.tell(RestartRequested())
    story.prompt()
    story.tell(ChatSaved(), AiderExited(0), *[AiderStarted(2, 43)] * (launch - 1))
    assert (story.state.phase, story.state.launch) == (Phase.STARTING, launch)
    story.tell(models(OURS, at=story.now))
    assert unloads(story) == [OURS]


@pytest.mark.parametrize("event", [STARTED, ModelWarmed("ours", "load")])
def test_a_list_read_after_our_first_request_says_nothing_of_others(event: Event) -> None:
    """If Ollama did not answer before, the models in its list may be ours."""
    story = launched(ANSWERS, ModelsRead(UNKNOWN), CHOSEN, event)
    story.tell(models(OURS, at=story.now))
    assert unloads(story) == [OURS]


def test_without_a_reading_nothing_is_unloaded() -> None:
    """Without a reading it is unknown whether the model was there before."""
    story = launched(ANSWERS, CHOSEN, ModelWarmed("ours", "load"))
    assert session_models(story.state, story.now) == ()
