"""One session: everything that happens becomes an event, the policy decides, the performer acts.

What must be undone is opened in run.py; here is only how the parts hear of each other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from aider_guard.core.actions import CancelDeadline, Notice, SetDeadline
from aider_guard.core.chat_contents import file_names
from aider_guard.core.events import (
    AiderExited,
    ConfirmShown,
    DeadlinePassed,
    Event,
    PromptClosed,
    PromptSettled,
    PromptShown,
)
from aider_guard.core.policy import decide
from aider_guard.core.screen import ScreenEvent
from aider_guard.core.state import Phase, State
from aider_guard.journal import Journal
from aider_guard.launch.learned import remember
from aider_guard.loop import READ, Loop
from aider_guard.session import executor, hidden, startup
from aider_guard.session.console import Console
from aider_guard.session.hidden import HiddenCommands
from aider_guard.session.input import Input
from aider_guard.session.launches import Launches
from aider_guard.session.planning import Planner
from aider_guard.session.relay import Relay
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.startup import AiderProcess, Startup
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.session.turns import Turns
from aider_guard.signals import Wakeups

# What the session does when an instant has come: look whether the prompt is at rest, whether a turn began, draw on.

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
        front: Console,
        running: AiderProcess,
        hidden_commands: HiddenCommands,
        beginnings: Startup,
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
        self._loop.cancel(executor.SHOW_START)
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
            case executor.TICK:
                self._tick()
            case executor.SHOW_START:
                self._front.abandon_restart()
            case hidden.TIMEOUT | hidden.SETTLED:
                self._hidden.deadline(name)
            case startup.DEADLINE:
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
        self._loop.at(executor.TICK, self._clock() + _TICK_SECONDS)


class Session:
    """Takes every event there is (``post``) and carries the policy's actions out."""

    def __init__(
        self,
        state: State,
        *,
        terminal: Terminal,
        relay: Relay,
        loop: Loop,
        launches: Launches,
        running: AiderProcess,
        watcher: SidecarSupervisor,
        planner: Planner,
        journal: Journal,
        colour: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self._terminal = terminal
        self.relay = relay
        self._loop = loop
        self._launches = launches
        self._running = running
        self._journal = journal
        self._clock = clock
        self._events: deque[Event] = deque()
        self._deciding = False
        self._last_status = -1  # until it ended, it may be us who fail
        self.watcher = watcher
        watcher.post = self.post
        running.readable = self.child_readable
        self.front = Console(
            relay,
            post=self.post,
            held=self._held,
            line_modes=running.line_modes,
            columns=self._columns,
            colour=colour,
            clock=clock,
        )
        self._hidden = hidden.HiddenCommands(self.front, loop, post=self.post, clock=clock)
        self._beginning = startup.Startup(
            launches,
            running,
            self.watcher,
            loop,
            planner=planner,
            post=self.post,
            warn=self.warn,
            clock=clock,
        )
        self.performer = executor.ActionExecutor(
            front=self.front,
            relay=relay,
            loop=loop,
            launches=launches,
            running=running,
            watcher=self.watcher,
            hidden=self._hidden,
            beginning=self._beginning,
            columns=self._columns,
            colour=colour,
            post=self.post,
            remember=lambda name, error: remember(planner.state_dir, name, error),
            clock=clock,
        )
        self._input = Input(
            terminal=terminal,
            relay=relay,
            front=self.front,
            running=running,
            offer=self.performer.offer,
            state=lambda: self.state,
            post=self.post,
        )
        self._clockwork = Clockwork(
            loop=loop,
            front=self.front,
            running=running,
            hidden_commands=self._hidden,
            beginnings=self._beginning,
            state=lambda: self.state,
            post=self.post,
            clock=clock,
        )
        loop.on_deadline = self._clockwork.passed

    def _columns(self) -> int:
        return self._terminal.size().columns

    def watch(self, fds: TerminalFds, wakeups: Wakeups) -> None:
        """Listen to the terminal and to the signals from now on."""
        self._loop.watch(fds.in_fd, READ, lambda _events: self._input.readable())
        self._loop.watch(fds.out_fd, 0, lambda _events: None)
        self._loop.watch(
            wakeups.fileno(), READ, lambda _events: self._input.signals(wakeups.read())
        )

    def merge_histories(self) -> tuple[str, ...]:
        """Bring what was said and typed into the user's own files; what went wrong, in words."""
        histories = self._launches.histories
        return histories.merge() if histories is not None else ()

    @property
    def exit_status(self) -> int:
        """The status to end with."""
        return self.performer.exit_status

    def begin(self) -> None:
        """Take the Aider that was started already, and start the sidecar beside it."""
        self.performer.begun()
        self.watcher.start()

    def warn(self, name: str, text: str) -> None:
        """Say something that the policy does not know of."""
        self.front.show(Notice(name, (text,)))

    def leftover_notices(self) -> list[Notice]:
        """What was to be said and found no prompt."""
        parting = self.performer.parting
        return [*self.front.unshown(), *([parting] if parting else [])]

    def leave(self) -> None:
        """Leave the screen as Aider left it, or tidied up when it could not do that itself."""
        self.front.leave(killed=self._last_status < 0)

    def run(self) -> None:
        """Go on until the session is over."""
        while self.state.phase is not Phase.ENDED:
            self.relay.flush()
            for fd, events in self.relay.wants().items():
                self._loop.change(fd, events)
            self._loop.run_once()
            self._reap()

    # Events

    def post(self, event: Event) -> None:
        """Decide about an event and carry the actions out. Events that come meanwhile wait for their turn."""
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._events:
                self._decide(self._events.popleft())
        finally:
            self._deciding = False

    def _decide(self, event: Event) -> None:
        self._journal.write(event)
        self._beginning.heard(event)
        self.performer.heard(event)
        self.state, actions = decide(self.state, event, self._clock())
        for action in actions:
            if not isinstance(action, SetDeadline | CancelDeadline):
                self._journal.write(action)
            self.performer.perform(action)
        match event:
            case PromptShown():
                self._prompt_shown()
            case PromptClosed():
                self._clockwork.prompt_closed()
        if self._running.turns is not None:
            self._follow(self._running.turns, event)

    def _prompt_shown(self) -> None:
        self._launches.note_first_announcement()
        self._clockwork.prompt_shown()

    def _follow(self, turns: Turns, event: Event) -> None:
        """Notice the end of a turn. Its last numbers may come a moment after the prompt."""
        finished = turns.heard(event, lambda: file_names(self.state))
        if isinstance(event, PromptShown):
            self._launches.forget_cleared_chat(turns.said)
        if finished is not None:
            self.post(finished)

    def _held(self, event: ScreenEvent) -> None:
        """What is recognised while everything is held back."""
        hold = self.front.hold
        if hold is None or hold.purpose != "restart":
            self._hidden.heard(event)
        elif self.state.phase is Phase.STARTING and isinstance(event, PromptShown):
            self.post(event)
            self.front.finish_restart()
        elif self.state.phase is Phase.STARTING and isinstance(event, ConfirmShown):
            self.front.abandon_restart()
            self.post(event)

    # Descriptors

    def child_readable(self) -> None:
        """Take what Aider wrote."""
        data = self.relay.read_child()
        if data:
            self.front.child_wrote(data)

    def _reap(self) -> None:
        """Notice that Aider ended, once all it wrote is on its way."""
        status = self._running.reap(self.front.child_wrote)
        if status is not None:
            self._last_status = status
            self._beginning.forget()
            self._hidden.abort()
            self.post(AiderExited(status))
