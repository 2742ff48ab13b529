"""What the session does when an instant has come: look whether the prompt is at rest, whether a turn began, draw on."""

from __future__ import annotations

from collections.abc import Callable

from aider_guard.core.events import DeadlinePassed, Event, PromptSettled
from aider_guard.core.state import Phase, State
from aider_guard.loop import Loop
from aider_guard.session import beginning, hidden, performer
from aider_guard.session.beginning import Beginning
from aider_guard.session.front import Front
from aider_guard.session.hidden import HiddenCommands
from aider_guard.session.running import Running

QUIET_SECONDS = 0.3
_TICK_SECONDS = 0.5
_TURN_CHECK_SECONDS = 1.0
_PROGRESS = {
    Phase.STOPPING: "stopping it",
    Phase.UNLOADING: "unloading the model",
    Phase.STARTING: "starting it",
}


class Clockwork:
    """Handles the deadlines that are the session's own; all others are the policy's."""

    def __init__(
        self,
        *,
        loop: Loop,
        front: Front,
        running: Running,
        hidden_commands: HiddenCommands,
        beginnings: Beginning,
        state: Callable[[], State],
        post: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._front = front
        self._running = running
        self._hidden = hidden_commands
        self._beginning = beginnings
        self._state = state
        self._post = post
        self._clock = clock

    def prompt_shown(self) -> None:
        """Look from now on whether the prompt comes to rest."""
        self._loop.cancel(performer.SHOW_START)
        self._loop.at("settled", self._clock() + QUIET_SECONDS)

    def prompt_closed(self) -> None:
        """Look from now on whether a message goes to the model."""
        self._loop.at("turn", self._clock() + QUIET_SECONDS)

    def passed(self, name: str) -> None:
        """The instant of this name has come."""
        match name:
            case "settled":
                self._settled()
            case "turn":
                self._look_for_turn()
            case performer.TICK:
                self._tick()
            case performer.SHOW_START:
                self._front.abandon_restart()
            case hidden.TIMEOUT | hidden.SETTLED:
                self._hidden.deadline(name)
            case beginning.DEADLINE:
                self._beginning.answer()
            case _:
                self._post(DeadlinePassed(name))

    def _settled(self) -> None:
        if self._front.untouched(QUIET_SECONDS):
            self._post(PromptSettled())
        elif self._front.prompt is not None and not self._front.key_typed:
            self._loop.at("settled", self._clock() + QUIET_SECONDS)

    def _look_for_turn(self) -> None:
        started = self._running.turns.started() if self._running.turns else None
        if started is not None:
            self._post(started)
        elif self._front.prompt is None and self._state().phase is Phase.RUNNING:
            self._loop.at("turn", self._clock() + _TURN_CHECK_SECONDS)

    def _tick(self) -> None:
        state, hold = self._state(), self._front.hold
        if state.restart is None or hold is None or hold.purpose != "restart":
            return
        doing = _PROGRESS.get(state.phase, "waiting")
        seconds = self._clock() - state.restart.started_at
        self._front.progress(f"restarting Aider ({state.restart.reason}): {doing}, {seconds:.0f} s")
        self._loop.at(performer.TICK, self._clock() + _TICK_SECONDS)
