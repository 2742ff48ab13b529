"""When the counting process is started."""

from __future__ import annotations

from core.histories_of_events import Step, Story, at_first_prompt, histories, pairs
from hypothesis import given, settings

from aider_guard.core.actions import WakeCounter
from aider_guard.core.events import ConfirmShown, KeyTyped, PromptShown


def test_the_first_key_at_a_prompt_wakes_the_counter() -> None:
    """A key at the main prompt starts it; a key at a question does not."""
    story = at_first_prompt()
    assert WakeCounter() not in story.tell(PromptShown())
    assert WakeCounter() in story.tell(KeyTyped())
    assert WakeCounter() not in story.tell(ConfirmShown(), KeyTyped())


def test_without_a_model_of_ollamas_there_is_nothing_to_wake() -> None:
    """Without a model of Ollama's the counter is not needed."""
    assert WakeCounter() not in Story().tell(PromptShown(), KeyTyped())


@settings(max_examples=100)
@given(histories())
def test_nothing_else_wakes_it(steps: list[Step]) -> None:
    """In any history only the first key at a prompt starts it."""
    for step, action in pairs(steps):
        if action == WakeCounter():
            assert isinstance(step.event, KeyTyped)
