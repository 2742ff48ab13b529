"""Has the main model loaded while the user types, and keeps track of the models that this session loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from aider_guard.core.actions import WakeCounter, WarmModel
from aider_guard.core.chat.events import ModelWarmed, RequestStarted
from aider_guard.core.chat_contents import is_among
from aider_guard.core.events import (
    DeadlinePassed,
    Event,
    KeyTyped,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    PromptShown,
    RetiredExited,
    ServerRead,
    ServerSurveyed,
    SidecarLost,
)
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State

AWAY_SECONDS: Final = 4 * 3600.0
"""After so long without a message the user may be gone for the day: the model is loaded at the next key."""


def warm(state: State, event: Event, now: float) -> Step:
    """Have the main model loaded at each launch and when it left; track the models that the session must unload."""
    match event:
        case ModelsChosen(main=main) if main:
            if state.phase is not Phase.STARTING:
                return state, ()
            # Before the first launch only if Ollama has answered, and after a restart only once the models are
            # unloaded, else at a later prompt.
            if (state.launch <= 1 and not state.server_answered) or state.retired != "none":
                return _with_presence(state, due=True), ()
            return _warm(state, main)
        case PromptShown():
            return _if_due(state, now)
        case KeyTyped():
            return _if_due(state, now, is_here=True)
        case ModelsRead(ModelsReading(models=models)):
            names = tuple(model.name for model in models)
            before, there = state.presence, is_among(state.main_model, names)
            left = before.listed and not there and state.phase is Phase.RUNNING
            due = not there and (before.due or (left and not before.loaded_again))
            due = due or (before.due and state.retired != "none")
            state = _with_presence(state, listed=there, due=due)
            return _if_due(_without_unlisted(state, names), now)
        case ServerRead(version):
            return replace(state, server_answered=not isinstance(version, Unavailable)), ()
        case ModelsUnloaded() | SidecarLost() | RetiredExited() | DeadlinePassed("retired_unload"):
            return _if_due(_after_event(state, event), now)
    return _after_event(state, event), ()


def _after_event(state: State, event: Event) -> State:
    match event:
        case ServerSurveyed(report):
            return replace(state, server_answered=not isinstance(report.version, Unavailable))
        case RequestStarted(server="ollama"):
            return _with_request(state, event)
        case ModelWarmed(model=model, problem=""):
            return _may_be_loaded(state, model)
        case ModelWarmed(model=model) if not is_among(model, state.requested):
            return _without_unlisted(state, (model,))
        case ModelsUnloaded(names=names):
            listed = state.presence.listed and not is_among(state.main_model, names)
            return _without_unlisted(_with_presence(state, listed=listed), names)
    return state


# When it is loaded


def _if_due(state: State, now: float, *, is_here: bool = False) -> Step:
    """Load the model if it is due while a prompt is shown (else a request comes), unless the user changed models."""
    main, presence = state.main_model, state.presence
    if not presence.due or not main or not state.server_answered or state.retired != "none":
        return state, ()
    if state.phase is not Phase.RUNNING or state.prompt is None:
        return state, ()
    talks_to_it = not presence.newest_model or same_model(presence.newest_model, main)
    if not talks_to_it or is_among(main, state.foreign_models or ()):
        return state, ()
    if now - state.turn_ended_at > AWAY_SECONDS and not is_here:
        return state, ()
    return _warm(_with_presence(state, loaded_again=True), main)


def _warm(state: State, main: str) -> Step:
    # It may be loaded from now on, listed or not, and must be unloaded when the session ends.
    state = replace(_with_presence(state, due=False), unlisted=state.unlisted | {main})
    foreign = state.foreign_models or frozenset()
    ours = (name for name in sorted(state.requested) if not is_among(name, {main, *foreign}))
    return state, (WarmModel(tuple(ours)),)


def _with_presence(state: State, **changes: Any) -> State:
    return replace(state, presence=replace(state.presence, **changes))


# Which models belong to this session


def _with_request(state: State, event: RequestStarted) -> State:
    """Keep the model of a request. If it is loaded at the session's first request for it, another program loaded it.

    For the main model that is decided earlier, as it may be loaded ahead.
    """
    model = event.model
    is_new = not is_among(model, {state.main_model, *state.requested})
    loaded = state.loaded.models if isinstance(state.loaded, ModelsReading) else ()
    if is_new and is_among(model, (entry.name for entry in loaded)):
        state = replace(state, foreign_models=(state.foreign_models or frozenset()) | {model})
    if event.purpose == "chat":
        state = _with_presence(state, newest_model=model)
    if same_model(model, state.main_model):
        state = _with_presence(state, due=False, loaded_again=False)
    return _may_be_loaded(state, model)


def _may_be_loaded(state: State, model: str) -> State:
    """Note that a model may be in memory from now on, even if no list names it yet."""
    return replace(state, requested=state.requested | {model}, unlisted=state.unlisted | {model})


def _without_unlisted(state: State, names: tuple[str, ...]) -> State:
    """Note that these models are in Ollama's list, or known not to be in memory."""
    rest = (name for name in state.unlisted if not is_among(name, names))
    return replace(state, unlisted=frozenset(rest))


# The counting process: it ends when idle for a while, and takes a second to start.


def wake_counter(state: State, event: Event, _now: float) -> Step:
    """Have it started at the first key of a prompt, if there is a model of Ollama's to count for."""
    if isinstance(event, KeyTyped) and state.prompt is not None and state.main_model:
        return state, (WakeCounter(),)
    return state, ()
