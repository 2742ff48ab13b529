"""The line at the first prompt: when it comes, and that it claims only what holds."""

from __future__ import annotations

from typing import Any

import pytest
from core.histories_of_events import UNKNOWN, Story, actions_of, models

from aider_guard.core.actions import Notice, ShowNotice
from aider_guard.core.egress import Layer
from aider_guard.core.events import AiderStarted, AirGapChosen, Event, ModelsChosen, PromptShown
from aider_guard.core.findings import Finding
from aider_guard.core.state import Limits


def session(*events: Event, layer: Layer = "netns", **limits: Any) -> Story:
    """A session that greets, before its first prompt."""
    story = Story(Limits(**{"greets": True, **limits}))
    story.tell(AirGapChosen(layer), AiderStarted(1, 42), *events)
    return story


def chosen(
    window: Any = 8_192, model: str = "qwen3:8b", *, plain_input: bool = False
) -> ModelsChosen:
    return ModelsChosen(model, (model,) if model else (), window, plain_input=plain_input)


def greetings(story: Story) -> list[Notice]:
    shown = actions_of(story.steps, ShowNotice)
    return [each.notice for each in shown if each.notice.name == "greeting"]


def line(story: Story) -> str:
    story.tell(PromptShown())
    (notice,) = greetings(story)
    assert notice.is_short
    (text,) = notice.lines
    return text


def test_it_comes_once_a_session_at_the_first_prompt() -> None:
    """Not at the next one, nor at that of an Aider that was started again; and only where it is wanted."""
    story = session(chosen())
    assert not greetings(story)
    story.tell(PromptShown())
    assert len(greetings(story)) == 1
    story.tell(PromptShown(), AiderStarted(2, 43), PromptShown())
    assert len(greetings(story)) == 1
    silent = session(chosen(), greets=False)
    silent.tell(PromptShown())
    assert not greetings(silent)


def test_it_says_what_holds() -> None:
    """The air gap, the window, the model, and the restarts."""
    said = "guarded: offline (kernel) · window 8,192 · qwen3:8b · restart after 20 turns"
    assert line(session(chosen())) == said


LAYERS: list[tuple[Layer, str]] = [
    ("netns", "offline (kernel)"),
    ("seccomp", "offline (kernel)"),
    ("asked", "offline (asked, not blocked)"),
    ("open", "network open"),
]
ELSEWHERE = Finding("remote-ollama", "info", "all code goes to Ollama on gpu:11434")


@pytest.mark.parametrize(("layer", "words"), LAYERS)
def test_only_what_the_kernel_enforces_is_offline_without_more(layer: Layer, words: str) -> None:
    assert line(session(chosen(), layer=layer)).startswith(f"guarded: {words} · ")


def test_what_may_leave_all_the_same_is_said() -> None:
    """The places of ``allow``, and a model's server on another machine."""
    story = session(chosen(), allowed_places=2)
    assert line(story).startswith("guarded: offline but for 2 places (kernel) · ")
    story = session(ELSEWHERE, chosen(), allowed_places=1)
    assert "offline but for 1 place and the model's server (kernel)" in line(story)
    assert "offline but for the model's server (kernel)" in line(session(ELSEWHERE, chosen()))
    elsewhere = Finding("remote-ollama", "stop", "it is Ollama's cloud")
    assert "offline (kernel)" in line(session(elsewhere, chosen()))


def test_a_window_that_is_not_known_is_not_told() -> None:
    """It is the server's, or that of what the server has loaded; without a known model nothing is said of it."""
    assert "window decided by the server" in line(session(chosen(UNKNOWN)))
    loaded = session(chosen(UNKNOWN, "ours"), models("ours:latest", at=100.0))
    assert "window 10,000" in line(loaded)
    unknown = line(session(ModelsChosen("", (), UNKNOWN)))
    assert unknown == "guarded: offline (kernel) · restart after 20 turns"


@pytest.mark.parametrize(
    ("turns", "plain_input", "words"),
    [
        (1, False, "restart after 1 turn"),
        (0, False, "no restart by count"),
        (20, True, "no restarts"),
    ],
)
def test_when_aider_is_restarted(turns: int, plain_input: bool, words: str) -> None:
    """Where nothing can be typed for the user, never."""
    story = session(chosen(plain_input=plain_input), max_turns=turns)
    assert line(story).endswith(f" · {words}")


def test_the_name_of_a_model_cannot_move_the_cursor_or_add_a_part() -> None:
    assert "\x1b" not in line(session(chosen(model="a\x1b[2J")))
