"""Having the counter ready when a prompt comes: it ends when it was idle for a while, and takes a second to start."""

from __future__ import annotations

from aider_guard.core.actions import WakeCounter
from aider_guard.core.events import Event, KeyTyped
from aider_guard.core.rules import Step
from aider_guard.core.state import State


def watch(state: State, event: Event, now: float) -> Step:
    """Wake it with the first key at a prompt, where the door counts for a model of Ollama's."""
    del now
    if isinstance(event, KeyTyped) and state.prompt is not None and state.main_model:
        return state, (WakeCounter(),)
    return state, ()
