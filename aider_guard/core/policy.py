"""Decides what to do about each event: the only place of the guard that decides."""

from __future__ import annotations

from aider_guard.core.actions import Action
from aider_guard.core.events import Event
from aider_guard.core.rules import (
    Rule,
    context,
    lifecycle,
    memory,
    models,
    reports,
    sidecar,
    standby,
    turns,
)
from aider_guard.core.state import Phase, State

# The order matters: bookkeeping comes first, and the lifecycle before the context, so that a restart that is due at a
# prompt wins over a probe there. The models are loaded again once those behind a restart are unloaded.
RULES: tuple[Rule, ...] = (
    context.note_prompt,
    turns.note_reports,
    context.note_requests,
    turns.ring,
    standby.note,
    models.warm,
    models.wake_counter,
    sidecar.watch,
    memory.watch_pressure,
    reports.report_finding,
    reports.report_egress,
    reports.greet,
    memory.compare_with_need,
    lifecycle.advance,
    reports.follow_reading,
    standby.start,
    reports.report_traffic,
    context.watch_fill,
    turns.finish_turn,
)
# Aider and the user are no longer served.
RULES_AT_THE_END: tuple[Rule, ...] = (
    context.note_prompt,
    turns.note_reports,
    reports.note_egress,
    lifecycle.advance,
    turns.finish_turn,
)


def decide(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the state after *event*, and the actions to perform.

    Deterministic and total: every event is allowed in every state. *now* is in monotonic seconds.
    """
    actions: list[Action] = []
    ends = state.phase in (Phase.ENDING, Phase.ENDED)
    for rule in RULES_AT_THE_END if ends else RULES:
        state, more = rule(state, event, now)
        actions.extend(more)
    return state, tuple(actions)
