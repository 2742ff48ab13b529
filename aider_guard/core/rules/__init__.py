"""The rules of the policy, a module for each concern. A rule maps a state and an event to a new state and actions."""

from __future__ import annotations

from collections.abc import Callable

from aider_guard.core.actions import Action
from aider_guard.core.events import Event
from aider_guard.core.state import State

Step = tuple[State, tuple[Action, ...]]
Rule = Callable[[State, Event, float], Step]
