"""The life of Aider: planned restarts, its death, and the end. The transitions are those of docs/lifecycle.md."""

from __future__ import annotations

from dataclasses import replace

from aider_guard.core import messages
from aider_guard.core.actions import (
    Action,
    CancelDeadline,
    EndSession,
    Handoff,
    Notice,
    OfferRestart,
    RetireAider,
    RunHidden,
    SetDeadline,
    ShowNotice,
    SignalAider,
    SignalRetired,
    StartAider,
    StopAider,
    UnloadModels,
)
from aider_guard.core.chat_contents import last_known_handoff, session_models
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    ChatSaved,
    CommandNotTyped,
    DeadlinePassed,
    Event,
    LaunchForbidden,
    ModelsUnloaded,
    OfferAnswered,
    PromptShown,
    RestartRequested,
    SidecarLost,
    TerminationRequested,
    TurnFinished,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules import Step, memory, standby
from aider_guard.core.state import Phase, Restart, State
from aider_guard.errors import LaunchError

_NO_RESTARTS = "no restarts"
SIGINT = 2  # the third Ctrl-C during Aider's shutdown kills it: the user wanted to leave


def why_not_restarted(state: State) -> str:
    """Return why Aider cannot be restarted in this session, in words, "" when it can."""
    return messages.PLAIN_INPUT if state.plain_input else ""


def advance(state: State, event: Event, now: float) -> Step:
    """Move the life of Aider on, and begin a restart that is due where the prompt is untouched."""
    state, actions = _transition(state, event, now)
    step = _refuse_restart(state) if why_not_restarted(state) else _begin_restart(state, now)
    state, more = step
    return state, actions + more


def _transition(state: State, event: Event, now: float) -> Step:
    match state.phase, event:
        case ((Phase.ENDING | Phase.ENDED), _):
            return _ending(state, event)
        case _, TerminationRequested(signal_number):
            return _terminate(state, signal_number, now)
        case Phase.STARTING, LaunchForbidden(findings, leaks):
            notice = messages.refused(findings, leaks=leaks)
            return _end(state, LaunchError.exit_code, (), now, notice)
        case _, AiderExited(status):
            return _exited(state, status, now)
        case _, RestartRequested():
            return _due(state, "you asked for it"), ()
        case Phase.STARTING, PromptShown():
            return _started(state, now)
        case Phase.RUNNING, TurnFinished():
            return _count_turns(state), ()
        case Phase.SAVING, ChatSaved():
            return _saved(state, event, now)
        case ((Phase.SAVING | Phase.STOPPING), CommandNotTyped()):
            return _postponed(state)
        case Phase.STOPPING, AiderRetired():
            state, actions = _start(state, now)
            return state, (CancelDeadline("stop"), *actions)
        case Phase.STOPPING, DeadlinePassed("stop"):
            return state, (
                SignalAider("TERM"),
                SetDeadline("kill", now + state.limits.kill_wait_seconds),
            )
        case Phase.STOPPING, DeadlinePassed("kill"):
            return state, (SignalAider("KILL"),)
        case Phase.UNLOADING, (ModelsUnloaded() | DeadlinePassed("unload") | SidecarLost()):
            return _unloaded(state, event, now)
        case Phase.OFFERING, OfferAnswered(accepted):
            return _answered(state, accepted=accepted, now=now)
        case Phase.BACKOFF, DeadlinePassed("backoff"):
            return _start(state, now)
    return state, ()


def _due(state: State, reason: str) -> State:
    weaker = ("", memory.STAYED_SHORT)  # that one is dropped when memory is free again
    return replace(state, restart_due=reason if state.restart_due in weaker else state.restart_due)


def _count_turns(state: State) -> State:
    state = replace(state, start_failures=0)  # a turn was taken: this Aider works
    limit = state.limits.max_turns
    if limit and state.turns_in_launch >= limit:
        return _due(state, messages.count(state.turns_in_launch, "turn"))
    return state


def _refuse_restart(state: State) -> Step:
    """Say once that there are no restarts, where nothing can be typed for the user."""
    if not state.restart_due:
        return state, ()
    state = replace(state, restart_due="")
    if _NO_RESTARTS in state.reported:
        return state, ()
    reported = state.reported | {_NO_RESTARTS}
    return replace(state, reported=reported), (ShowNotice(messages.no_restarts()),)


def _begin_restart(state: State, now: float) -> Step:
    at_prompt = state.phase is Phase.RUNNING and state.settled and not state.hidden
    if not state.restart_due or not at_prompt or state.prompt is None:
        return state, ()
    if state.restart_due == memory.STAYED_SHORT and not memory.is_short(state, now):
        # What was short a while ago is no reason any more, and nothing was tried.
        return replace(state, restart_due="", memory_restart_tried=False), ()
    if standby.is_awaited(state, now):
        return state, ()
    handoff = Handoff(mode=state.prompt.mode, multiline=state.prompt.multiline)
    restart = Restart(state.restart_due, now, handoff)
    state, asked = standby.ask(state)
    state = replace(state, phase=Phase.SAVING, hidden="save", restart=restart)
    return state, (RunHidden("save"), *asked)


def _saved(state: State, event: ChatSaved, now: float) -> Step:
    if event.problem or state.restart is None:
        return _give_up_saving(state, event.problem)
    if not state.settled:
        # The user typed meanwhile: the restart stays due, and waits for the next untouched prompt.
        return replace(state, phase=Phase.RUNNING, restart=None), ()
    handoff = replace(state.restart.handoff, editable=event.editable, read_only=event.read_only)
    state = replace(
        state,
        phase=Phase.STOPPING,
        restart_due="",
        restart=replace(state.restart, handoff=handoff),
        save_failures=0,
    )
    stop = RetireAider() if state.standby.stage == "asked" else StopAider()
    return state, (stop, SetDeadline("stop", now + state.limits.stop_wait_seconds))


def _postponed(state: State) -> Step:
    """Wait for the next untouched prompt, because there is text of the user's on this one's line."""
    if state.termination or state.restart is None:
        return state, ()
    reason = state.restart.reason
    state = replace(state, phase=Phase.RUNNING, restart=None, restart_due=reason)
    return state, (CancelDeadline("stop"), CancelDeadline("kill"))


def _give_up_saving(state: State, problem: str) -> Step:
    """Two failures end restarting by count: without the list of files a restart would lose something."""
    failures = state.save_failures + 1
    state = replace(state, phase=Phase.RUNNING, restart=None, save_failures=failures)
    if failures < 2:
        return state, ()
    limits = replace(state.limits, max_turns=0)
    return replace(state, restart_due="", limits=limits), (
        ShowNotice(messages.cannot_restart(problem)),
    )


def _exited(state: State, status: int, now: float) -> Step:
    cancelled: tuple[Action, ...] = (CancelDeadline("stop"), CancelDeadline("kill"))
    if state.termination:
        return _end(state, 128 + state.termination, cancelled, now)
    if state.phase is Phase.STOPPING:
        return _unload(state, now, cancelled)
    if status in (0, -SIGINT):
        return _end(state, exit_status(status), cancelled, now)
    if state.phase is Phase.STARTING:
        return _failed_start(state, status, now)
    return _died(state, status, now, cancelled)


def _unload(state: State, now: float, before: tuple[Action, ...]) -> Step:
    names = session_models(state, now)
    wait = state.limits.unload_wait_seconds
    state = replace(state, phase=Phase.UNLOADING)
    if not names:
        state, actions = _start(state, now)
        return state, before + actions
    return state, (*before, UnloadModels(names, wait), SetDeadline("unload", now + wait + 2.0))


def _unloaded(state: State, event: Event, now: float) -> Step:
    if isinstance(event, ModelsUnloaded) and state.restart:
        restart = replace(state.restart, freed_bytes=event.freed_bytes, unloaded=event.names)
        state = replace(state, restart=restart)
    state, actions = _start(state, now)
    return state, (CancelDeadline("unload"), *actions)


def _start(state: State, now: float) -> Step:
    restart = state.restart or Restart("Aider died", now)
    state, is_ready, ended = standby.take(state)
    state = replace(
        state,
        phase=Phase.STARTING,
        restart=restart,
        restored=True,
        handoff=restart.handoff,
        context=Unavailable("no /tokens was run yet"),
        turn_tokens=Unavailable("no turn was taken yet"),
    )
    return state, (*ended, StartAider(restart.reason, restart.handoff, is_ready))


def _started(state: State, now: float) -> Step:
    state = replace(state, phase=Phase.RUNNING)
    if state.restart is None:
        return state, ()
    notice = messages.restarted(state.restart, now - state.restart.started_at)
    state = replace(state, restart=None, restarts=state.restarts + 1, restart_due="")
    return state, (ShowNotice(notice),)


def _died(state: State, status: int, now: float, before: tuple[Action, ...]) -> Step:
    handoff = last_known_handoff(state)
    restart = Restart("Aider died", now, handoff)
    if state.start_failures >= state.limits.start_attempts:
        return _end(
            state, exit_status(status), before, now, messages.gave_up(status, state.start_failures)
        )
    state = replace(state, phase=Phase.OFFERING, restart=restart, restart_due="", died_with=status)
    return state, (*before, OfferRestart(messages.offer(status, handoff, talked=state.turns > 0)))


def _failed_start(state: State, status: int, now: float) -> Step:
    """The first start that fails is Aider's own affair; a later one is tried again, 1, 2 and 3 s apart."""
    if state.restart is None:
        return _end(state, exit_status(status), (), now)
    if state.start_failures >= state.limits.start_attempts:
        return _end(
            state, exit_status(status), (), now, messages.gave_up(status, state.start_failures)
        )
    return _back_off(state, now)


def _answered(state: State, *, accepted: bool, now: float) -> Step:
    if not accepted:
        return _end(state, exit_status(state.died_with), (), now)
    return _back_off(
        replace(state, restart=replace(state.restart, started_at=now) if state.restart else None),
        now,
    )


def _back_off(state: State, now: float) -> Step:
    failures = state.start_failures + 1
    state = replace(state, phase=Phase.BACKOFF, start_failures=failures)
    return state, (SetDeadline("backoff", now + failures),)


def _terminate(state: State, signal_number: int, now: float) -> Step:
    state = replace(state, termination=signal_number)
    if state.phase in (Phase.OFFERING, Phase.BACKOFF, Phase.UNLOADING):
        return _end(state, 128 + signal_number, (), now)
    wait = state.limits.kill_wait_seconds
    return replace(state, phase=Phase.STOPPING), (
        SignalAider("TERM"),
        SetDeadline("kill", now + wait),
    )


def _end(
    state: State, status: int, before: tuple[Action, ...], now: float, notice: Notice | None = None
) -> Step:
    """End, and have the models of this session unloaded, without waiting for their memory.

    After a signal the wait for Ollama's answer is shorter, as SIGKILL may follow.
    """
    if state.retired == "ending":  # a summary of its own would load a model again
        before += (SignalRetired("KILL"),)
    names = session_models(state, now)
    end = EndSession(status, notice)
    if not names:
        return replace(state, phase=Phase.ENDED), (*before, end)
    limits = state.limits
    wait = limits.kill_wait_seconds if state.termination else limits.end_wait_seconds
    unload = (UnloadModels(names, 0.0), SetDeadline("end", now + wait))
    return replace(state, phase=Phase.ENDING), (*before, *unload, end)


def _ending(state: State, event: Event) -> Step:
    if isinstance(event, ModelsUnloaded | SidecarLost) or event == DeadlinePassed("end"):
        return replace(state, phase=Phase.ENDED), ()
    return state, ()


def exit_status(status: int) -> int:
    """The status the shell sees: Aider's own, or 128 + the signal that killed it."""
    return status if status >= 0 else 128 - status
