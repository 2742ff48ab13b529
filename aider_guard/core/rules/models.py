"""Having the main model in memory while the user types, and which models this session has asked Ollama for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from aider_guard.core.actions import WakeCounter, WarmModel
from aider_guard.core.chat.events import ModelWarmed, RequestStarted
from aider_guard.core.chat_contents import is_among
from aider_guard.core.events import (
    Event,
    KeyTyped,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    PromptShown,
    ServerRead,
    ServerSurveyed,
)
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.state import Phase, State

AWAY_SECONDS: Final = 4 * 3600.0
"""Who has not asked for anything for so long may be gone for the day: the model is loaded when a key comes."""


def warm(state: State, event: Event, now: float) -> Step:
    """Have the main model loaded at each launch and when it left; know which models the session has to let go of."""
    match event:
        case ModelsChosen(main=main) if main:
            return _launched(state, main)
        case PromptShown():
            return _if_due(state, now)
        case KeyTyped():
            return _if_due(state, now, is_here=True)
        case ModelsRead(ModelsReading(models=models)):
            return _if_due(_listed(state, tuple(model.name for model in models)), now)
        case ServerRead(version):
            return replace(state, server_answered=not isinstance(version, Unavailable)), ()
    return _noted(state, event), ()


def _noted(state: State, event: Event) -> State:
    match event:
        case ServerSurveyed(report):
            known = not isinstance(report.version, Unavailable)
            return replace(state, server_answered=known)
        case RequestStarted(server="ollama"):
            return _requested(state, event)
        case ModelWarmed(model=model, problem=""):
            return _asked(state, model)
        case ModelWarmed(model=model) if not is_among(model, state.asked_for):
            return _seen(state, (model,))
        case ModelsUnloaded(names=names):
            listed = state.presence.listed and not is_among(state.main_model, names)
            return _seen(_present(state, listed=listed), names)
    return state


# When it is loaded


def _launched(state: State, main: str) -> Step:
    """After a restart Ollama was there a moment ago; before the first launch there may be none to wait for."""
    if state.phase is not Phase.STARTING:
        return state, ()
    if state.launch <= 1 and not state.server_answered:
        return _present(state, due=True), ()
    return _warm(state, main)


def _if_due(state: State, now: float, *, is_here: bool = False) -> Step:
    """Only while a prompt is shown: otherwise a request is on its way. Never over a model that the user turned to."""
    main, presence = state.main_model, state.presence
    if not presence.due or not main or not state.server_answered:
        return state, ()
    if state.phase is not Phase.RUNNING or state.prompt is None:
        return state, ()
    talks_to_it = not presence.talked_to or same_model(presence.talked_to, main)
    if not talks_to_it or is_among(main, state.foreign_models or ()):
        return state, ()
    if state.turns and now - state.turn_ended_at > AWAY_SECONDS and not is_here:
        return state, ()
    return _warm(_present(state, brought_back=True), main)


def _warm(state: State, main: str) -> Step:
    # It may be loaded from now on, listed or not: whoever leaves in this moment leaves it behind.
    state = replace(_present(state, due=False), unlisted=state.unlisted | {main})
    foreign = state.foreign_models or frozenset()
    ours = (one for one in sorted(state.asked_for) if not is_among(one, {main, *foreign}))
    return state, (WarmModel(tuple(ours)),)


def _listed(state: State, names: tuple[str, ...]) -> State:
    """Ollama's newest list."""
    before, there = state.presence, is_among(state.main_model, names)
    left = before.listed and not there and state.phase is Phase.RUNNING
    due = not there and (before.due or (left and not before.brought_back))
    return _seen(_present(state, listed=there, due=due), names)


def _present(state: State, **changes: Any) -> State:
    return replace(state, presence=replace(state.presence, **changes))


# Whose it is


def _requested(state: State, event: RequestStarted) -> State:
    """A request for text is the session's first for a model: whoever loaded it before was somebody else.

    Whose the main model is was settled before, as it may be loaded ahead.
    """
    model = event.model
    is_new = not is_among(model, {state.main_model, *state.asked_for})
    if is_new and _is_loaded(state, model):
        state = replace(state, foreign_models=(state.foreign_models or frozenset()) | {model})
    if event.purpose == "chat":
        state = _present(state, talked_to=model)
    if same_model(model, state.main_model):
        state = _present(state, due=False, brought_back=False)
    return _asked(state, model)


def _is_loaded(state: State, model: str) -> bool:
    loaded = state.loaded
    return isinstance(loaded, ModelsReading) and is_among(
        model, (one.name for one in loaded.models)
    )


def _asked(state: State, model: str) -> State:
    """It may be in memory from now on, also where no list has told of it yet."""
    return replace(state, asked_for=state.asked_for | {model}, unlisted=state.unlisted | {model})


def _seen(state: State, names: tuple[str, ...]) -> State:
    """These are in Ollama's list, or known not to be in memory."""
    rest = (one for one in state.unlisted if not is_among(one, names))
    return replace(state, unlisted=frozenset(rest))


# Having the counter ready when a prompt comes: it ends when it was idle for a while, and takes a second to start.


def wake_counter(state: State, event: Event, now: float) -> Step:
    """Wake it with the first key at a prompt, where the door counts for a model of Ollama's."""
    del now
    if isinstance(event, KeyTyped) and state.prompt is not None and state.main_model:
        return state, (WakeCounter(),)
    return state, ()
