"""One session: its parts, how they hear of each other, and what is done when an event or a deadline comes.

What must be undone is opened in run.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from aider_guard.airgap.served import Sandbox
from aider_guard.config import Config, command_words
from aider_guard.core.actions import Action, Notice
from aider_guard.core.chat_contents import file_names
from aider_guard.core.chatlog import files_mentioned
from aider_guard.core.events import (
    AiderExited,
    AiderLogged,
    ConfirmShown,
    EgressBlocked,
    Event,
    ModelsChosen,
    PromptClosed,
    PromptSettled,
    PromptShown,
    RetiredExited,
    TurnStarted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.lifecycle import why_not_restarted
from aider_guard.core.rules.turns import has_begun
from aider_guard.core.screen import ScreenEvent
from aider_guard.core.state import Limits, Phase, State
from aider_guard.journal import Journal, open_journal
from aider_guard.launch.environment import LocalEnvironment
from aider_guard.launch.server_runtime import remember
from aider_guard.loop import READ, Loop
from aider_guard.process_starter import ProcessStarter
from aider_guard.session import notices, registry
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.bell import Bell, NotifyCommand
from aider_guard.session.console import Console
from aider_guard.session.control import Control, control_socket, session_facts
from aider_guard.session.engine import Engine
from aider_guard.session.executor import SHOW_START, ActionExecutor
from aider_guard.session.hidden import HiddenCommands
from aider_guard.session.histories import merge_leftovers
from aider_guard.session.input import Input
from aider_guard.session.kept_sessions import SessionKeeper
from aider_guard.session.launches import Launches, Resumed
from aider_guard.session.planning import Planner
from aider_guard.session.relay import Relay
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.standby import RetiredAider, StandbyAider
from aider_guard.session.start_aider import DoorListener, NextPromptPipe, Started
from aider_guard.session.startup import Startup
from aider_guard.session.terminal import Terminal, TerminalFds
from aider_guard.signals import Wakeups

_QUIET_SECONDS = 0.3
_PLAIN_PROMPT = "plain_prompt"
_TURN_CHECK_SECONDS = 1.0


class Session:
    """Runs one session: events go to the engine (``post``), and its actions to the executor."""

    def __init__(
        self,
        state: State,
        *,
        terminal: Terminal,
        relay: Relay,
        loop: Loop,
        launches: Launches,
        aider: AiderProcess,
        standby: StandbyAider,
        retired: RetiredAider,
        sidecar: SidecarSupervisor,
        planner: Planner,
        starter: ProcessStarter | None,
        journal: Journal,
        command: NotifyCommand | Unavailable,
        colour: bool,
        titles: bool = False,
        ascii_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.relay = relay
        self._loop = loop
        self._launches = launches
        self._aider = aider
        self._retired = retired
        self._sidecar = sidecar
        self._last_status = -1  # until it ended, it may be us who fail
        self._keeper: SessionKeeper | None = None
        self._engine = Engine(
            state,
            loop,
            write=journal.write,
            perform=self._perform,
            on_event=self._on_event,
            clock=clock,
        )
        self.post = self._engine.post
        sidecar.post = standby.post = self.post
        self.console = Console(
            relay,
            post=self.post,
            held=self._on_held_event,
            line_modes=aider.line_modes,
            columns=lambda: terminal.size().columns,
            colour=colour,
            titles=titles,
            ascii_only=ascii_only,
            clock=clock,
        )
        aider.on_output = self._on_output
        self._hidden = HiddenCommands(self.console, relay, loop, post=self.post, clock=clock)
        self._bell = Bell(
            command=command,
            environment=planner.environment,
            folder=os.getcwd(),
            write=self.console.ring,
            warn=lambda text: self.warn("notify_failed", text),
        )
        self._startup = Startup(
            launches,
            aider,
            sidecar,
            loop,
            planner=planner,
            starter=starter,
            post=self.post,
            warn=self.warn,
        )
        self._executor = ActionExecutor(
            terminal=terminal,
            console=self.console,
            bell=self._bell,
            loop=loop,
            launches=launches,
            aider=aider,
            standby=standby,
            retired=retired,
            sidecar=sidecar,
            hidden=self._hidden,
            await_question=self._startup.await_question,
            state=lambda: self.state,
            colour=colour,
            post=self.post,
            remember=lambda name, error: remember(planner.state_dir, name, error),
            clock=clock,
        )
        self._input = Input(
            terminal=terminal,
            relay=relay,
            console=self.console,
            aider=aider,
            offer=self._executor.offer,
            loop=loop,
            state=lambda: self.state,
            post=self.post,
            clock=clock,
        )

    @property
    def state(self) -> State:
        """What the policy knows now."""
        return self._engine.state

    @property
    def exit_status(self) -> int:
        """The status to end with."""
        return self._executor.exit_status

    def watch(self, fds: TerminalFds, wakeups: Wakeups) -> None:
        """Listen to the terminal and to the signals from now on."""
        self._loop.watch(fds.in_fd, READ, lambda _events: self._on_keys())
        self._loop.watch(fds.out_fd, 0, lambda _events: None)
        self._loop.watch(
            wakeups.fileno(), READ, lambda _events: self._input.signals(wakeups.read())
        )

    def begin(self) -> None:
        """Take the Aider that was started already, and start the sidecar beside it."""
        self._executor.announce_launch()
        self._sidecar.start()

    def run(self) -> None:
        """Serve the loop until the session is over. Aider has ended once all that it wrote is on its way."""
        while self.state.phase is not Phase.ENDED:
            self.relay.flush()
            for fd, events in self.relay.wants().items():
                self._loop.change(fd, events)
            self._loop.run_once()
            status = self._aider.reap()
            if status is not None:
                self._last_status = status
                self._startup.abort()
                self._hidden.abort()
                self.post(AiderExited(status))
            status = self._retired.reap()
            if status is not None:
                self.post(RetiredExited(status))
            self._bell.reap()
        self._sidecar.finish()

    def warn(self, name: str, text: str) -> None:
        """Show a notice that the policy does not know of."""
        self.console.show(Notice(name, (text,)))

    def leave(self) -> None:
        """Leave the screen as Aider left it, or tidied up when it could not do that itself."""
        self.console.leave(killed=self._last_status < 0)

    def take_over(self, resumed: Resumed) -> None:
        """Begin with the chat of an earlier session: to be called before the loop runs."""
        self._launches.take_over(resumed)
        self._engine.state = replace(self.state, handoff=resumed.handoff, restored=True)
        self.console.show(resumed.notice)

    def keep_for_resuming(
        self, folder: registry.SessionFolder, arguments: Sequence[str], *, keep: float
    ) -> None:
        """Keep what is open from the first prompt on; exchanges where *keep*, their share of the window, is not 0."""
        self._keeper = SessionKeeper(folder, self._launches, arguments, keep=keep)

    def keep_chat(self) -> None:
        """Keep what is open at the end; the histories must not be merged yet."""
        if self._keeper is not None:
            self._keeper.finish(self.state)

    def merge_histories(self) -> tuple[str, ...]:
        """Bring what was said and typed into the user's own files; what went wrong, in words."""
        histories = self._launches.histories
        return histories.merge() if histories is not None else ()

    def leftover_notices(self) -> list[Notice]:
        """The notices that found no prompt to be shown above."""
        parting = self._executor.parting
        return [*self.console.unshown(), *([parting] if parting else [])]

    # Events

    def _perform(self, action: Action) -> None:
        self._executor.perform(action)

    def _on_event(self, event: Event) -> None:
        self._startup.on_event(event)
        self._executor.on_event(event)
        if self._keeper is not None:
            self._keeper.on_event(event, self.state)
        match event:
            case ModelsChosen(plain_input=True):
                self.console.expect_plain_prompts()
            case PromptShown():
                self._hidden.prompt_shown()
                self._launches.note_first_announcement()
                self._loop.cancel(SHOW_START)
                self._loop.after("settled", _QUIET_SECONDS, self._check_settled)
                self._read_side_channels()
            case PromptClosed():
                self._loop.after("turn", _QUIET_SECONDS, self._check_turn)

    def _on_output(self, data: bytes) -> None:
        self.console.child_wrote(data)
        if self.state.plain_input:
            self._loop.after(_PLAIN_PROMPT, _QUIET_SECONDS, self._look_for_plain_prompt)

    def _on_keys(self) -> None:
        # A key is typed to what is on the screen now.
        self._look_for_plain_prompt()
        self._input.readable()

    def _look_for_plain_prompt(self) -> None:
        """Take what Aider's output ends with for its prompt, unless a model is still to answer."""
        prompt = self.console.plain_prompt()
        if prompt is None:
            return
        if self.state.open_requests:
            self._loop.after(_PLAIN_PROMPT, _QUIET_SECONDS, self._look_for_plain_prompt)
        else:
            self.console.open_plain_prompt(prompt)

    def _read_side_channels(self) -> None:
        if self._aider.channels is None:
            return
        sent, text = self._aider.channels.read()
        self._launches.forget_cleared_chat(text)
        mentioned = files_mentioned(text, file_names(self.state))
        self.post(AiderLogged(sent.requests, sent.sent_tokens, sent.received_tokens, mentioned))

    def _check_settled(self) -> None:
        """Look whether the prompt came to rest, untouched."""
        if self.console.untouched(_QUIET_SECONDS):
            self.post(PromptSettled())
        elif self.console.may_become_free():
            seconds = self.console.quiet_in(_QUIET_SECONDS) or _QUIET_SECONDS
            self._loop.after("settled", seconds, self._check_settled)

    def _check_turn(self) -> None:
        """Look whether a message is on its way to the model, until a prompt is shown."""
        channels = self._aider.channels
        requests = channels.requests_started() if channels is not None else 0
        if channels is not None and has_begun(self.state, logged_requests=requests):
            self.post(TurnStarted())
        elif self.console.prompt is None and self.state.phase is Phase.RUNNING:
            self._loop.after("turn", _TURN_CHECK_SECONDS, self._check_turn)

    def _on_held_event(self, event: ScreenEvent | None) -> None:
        """Take what is recognised while everything is held back; None after other output."""
        hold = self.console.hold
        if hold is None or hold.purpose != "restart":
            self._hidden.on_event(event)
        elif self.state.phase is Phase.STARTING and isinstance(event, PromptShown):
            self.post(event)
            self.console.finish_restart()
        elif self.state.phase is Phase.STARTING and isinstance(event, ConfirmShown):
            self.console.abandon_restart()
            self.post(event)


# Put together while the Aider that was started imports what it needs.


@dataclass(frozen=True)
class SessionParts:
    """What a session is made from. What is opened for it is closed by ``stack``."""

    planner: Planner
    folder: registry.SessionFolder
    terminal: Terminal
    fds: TerminalFds
    listener: DoorListener
    sandbox: Sandbox
    stack: ExitStack
    starter: ProcessStarter | None = None
    next_prompts: NextPromptPipe = NextPromptPipe()  # a frozen value


def assemble(
    parts: SessionParts, started: Started, arguments: Sequence[str], environment: Mapping[str, str]
) -> Session:
    """Make the session of an Aider that was started with these arguments and this environment, while it starts."""
    planner, folder, stack = parts.planner, parts.folder, parts.stack
    loop = stack.enter_context(Loop())
    relay = Relay(parts.fds.in_fd, parts.fds.out_fd)
    launches = Launches(
        *(folder.path, planner.aider, planner.config, arguments, environment),
        sandbox=parts.sandbox,
        next_prompts=parts.next_prompts,
    )
    launches.adopt(started)
    aider = stack.enter_context(AiderProcess(parts.terminal, relay, loop))
    aider.adopt(started.child)
    terminal = parts.terminal
    standby = StandbyAider(
        loop,
        lambda: launches.start(terminal.size(), terminal.attributes(), ahead=True),
        lambda: launches.current.environment if launches.current else LocalEnvironment(),
    )
    session: Session
    journal = stack.enter_context(
        open_journal(
            folder.path / "journal.jsonl",
            clock=time.monotonic,
            on_failure=lambda text: session.warn("journal", text),
        )
    )
    session = Session(
        State(_limits(planner.config)),
        terminal=terminal,
        relay=relay,
        loop=loop,
        launches=launches,
        aider=aider,
        standby=stack.enter_context(standby),
        retired=stack.enter_context(RetiredAider(loop)),
        sidecar=stack.enter_context(_sidecar(parts, loop)),
        planner=planner,
        starter=parts.starter,
        journal=journal,
        command=_notify_command(planner),
        colour=notices.has_colour(planner.environment),
        titles=notices.has_titles(planner.environment),
        ascii_only=notices.is_ascii_only(planner.environment),
    )
    _open_control(session, loop, folder, stack)
    parts.sandbox.watch(
        loop,
        lambda attempt: session.post(EgressBlocked.of(attempt)),
        lambda: aider.child.pid if aider.child is not None else 0,
    )
    stack.callback(parts.sandbox.close)  # while there is a loop
    for problem in merge_leftovers(folder.path.parent, registry.is_alive):
        session.warn("histories", problem)
    return session


def _notify_command(planner: Planner) -> NotifyCommand | Unavailable:
    """Look for the user's command while nothing inside can have changed it."""
    config = planner.config
    words = command_words(config.notify_command) if config.notify_after else ()
    return NotifyCommand.of(words, planner.environment)


def _sidecar(parts: SessionParts, loop: Loop) -> SidecarSupervisor:
    return SidecarSupervisor(
        loop,
        ollama=parts.planner.first_access(),
        tokenizers=parts.planner.aider.likely_tokenizers(),
        environment=parts.planner.environment,
        door_fd=parts.listener.fileno(),
        relays=parts.sandbox.gap.relays,
        next_prompts_fd=parts.next_prompts.read_fd,
    )


def _open_control(
    session: Session, loop: Loop, folder: registry.SessionFolder, stack: ExitStack
) -> None:
    listener, path = stack.enter_context(control_socket(folder.path))
    recorded = registry.record(folder, path)
    control = Control(
        listener,
        loop,
        status=lambda: session_facts(
            session.state,
            session_id=recorded.id,
            pid=recorded.pid,
            folder=recorded.working_directory,
        ),
        post=session.post,
        refusal=lambda: why_not_restarted(session.state),
    )
    stack.callback(control.close)


def _limits(config: Config) -> Limits:
    """Return the settings that the policy decides by."""
    return Limits(
        warn_at_percent=config.warn_at,
        max_turns=config.max_turns,
        vram_warn_at_percent=config.vram_warn_at,
        probe=config.probe,
        notify_after_seconds=config.notify_after,
        greets=config.greeting == "on",
        allowed_places=len(config.allow),
    )
