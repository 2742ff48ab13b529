"""Loading the main model while Aider starts, and which models this session has asked Ollama for."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core.actions import WarmModel
from aider_guard.core.events import Event, ModelsChosen
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.rules import Step
from aider_guard.core.sidecar_events import ModelsRead, ModelsUnloaded, ServerRead, ServerSurveyed
from aider_guard.core.state import Phase, State, same_model
from aider_guard.core.traffic.events import (
    ModelWarmed,
    RequestStarted,
)


def watch(state: State, event: Event, now: float) -> Step:
    """Have the main model loaded at each launch, and know which models the session has to let go of."""
    del now
    match event:
        case ModelsChosen(main=main) if main:
            return _warm(state, main)
        case ServerRead(version):
            return replace(state, server_answered=not isinstance(version, Unavailable)), ()
        case ServerSurveyed(report):
            known = not isinstance(report.version, Unavailable)
            return replace(state, server_answered=known), ()
        case ModelsRead(ModelsReading(models=models)):
            return _seen(state, tuple(model.name for model in models)), ()
        case RequestStarted(model=model) | ModelWarmed(model=model, problem=""):
            return _asked(state, model), ()
        case ModelWarmed(model=model) if model not in state.asked_for:
            return _seen(state, (model,)), ()
        case ModelsUnloaded(names=names):
            return _seen(state, names), ()
    return state, ()


def _warm(state: State, main: str) -> Step:
    """After a restart Ollama was there a moment ago; before the first launch there may be none to wait for."""
    is_first = state.launch <= 1
    if state.phase is not Phase.STARTING or (is_first and not state.server_answered):
        return state, ()
    # It may be loaded from now on, listed or not: whoever leaves in this moment leaves it behind.
    return replace(state, unlisted=state.unlisted | {main}), (WarmModel(),)


def _asked(state: State, model: str) -> State:
    state = replace(state, asked_for=state.asked_for | {model})
    if not any(same_model(model, ours) for ours in state.models):
        return state  # unloaded if Ollama lists it; a model of another server has no business there
    return replace(state, unlisted=state.unlisted | {model})


def _seen(state: State, names: tuple[str, ...]) -> State:
    """These are in Ollama's list, or known not to be in memory."""
    rest = (one for one in state.unlisted if not any(same_model(one, name) for name in names))
    return replace(state, unlisted=frozenset(rest))
