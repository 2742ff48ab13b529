"""Runs ``/tokens`` and ``/save`` at the main prompt without showing them to the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal

from aider_guard.core.events import ChatSaved, ConfirmShown, ContextRead, Event, PromptShown
from aider_guard.core.readings import Unavailable
from aider_guard.core.screen import ScreenEvent
from aider_guard.core.tokens import parse_context
from aider_guard.loop import Loop
from aider_guard.session.console import Console
from aider_guard.session.histories import PrivateHistories
from aider_guard.session.launches import Launch, Launches, parse_saved
from aider_guard.session.relay import Relay
from aider_guard.session.side_channels import FileTail

Command = Literal["tokens", "save"]

_TIMEOUT, _SETTLED = "hidden_timeout", "hidden_settled"
_TIMEOUT_SECONDS = 5.0
# prompt_toolkit draws the prompt a second time when its cursor query was answered.
_QUIET_SECONDS = 0.08


@dataclass
class HiddenCommands:
    """Runs one hidden command at a time. ``post`` gets its outcome."""

    console: Console
    relay: Relay
    loop: Loop
    _: KW_ONLY
    post: Callable[[Event], None]
    clock: Callable[[], float]
    _command: Command | None = None
    _before: PromptShown | None = None
    _chat: FileTail | None = None
    _launch: Launch | None = None
    _histories: PrivateHistories | None = None

    def run(self, command: Command, launches: Launches) -> None:
        """Type the command at the empty main prompt and hold everything back until the next prompt."""
        launch, histories = launches.current, launches.histories
        if launch is None or launch.files is None or histories is None:
            self.post(_failed(command, "Aider's settings could not be read"))
            return
        self._command, self._launch, self._histories = command, launch, histories
        self._before = self.console.prompt
        problem = histories.begin_hidden()
        if problem:
            self._command = None
            self.post(_failed(command, problem))
            return
        self._chat = FileTail(launch.files.chat_history, from_end=True)
        self.console.begin_hold(command)
        on_timeout = partial(self._give_up, "Aider did not answer /tokens in time")
        self.loop.after(_TIMEOUT, _TIMEOUT_SECONDS, on_timeout)
        text = "/tokens" if command == "tokens" else f"/save {launch.saved_to}"
        multiline = self._before is not None and self._before.multiline
        self.relay.to_child(text.encode() + (b"\x1b\r" if multiline else b"\r"))

    def on_event(self, event: ScreenEvent) -> None:
        """Take what the recogniser found while a hidden command runs."""
        if isinstance(event, ConfirmShown):
            self._give_up("Aider asks something")
        elif isinstance(event, PromptShown):
            self.loop.after(_SETTLED, _QUIET_SECONDS, self._finish_when_quiet)

    def _finish_when_quiet(self) -> None:
        if self._command is None:
            return
        quiet_at = self.console.last_output_at + _QUIET_SECONDS
        if self.clock() < quiet_at:
            self.loop.at(_SETTLED, quiet_at, self._finish_when_quiet)
            return
        outcome, unchanged = self._outcome(), self.console.prompt == self._before
        self._forget()
        if unchanged:
            self.console.drop_hold()
        else:
            self.console.redraw_from_hold()
            if self.console.prompt is not None:
                self.post(self.console.prompt)
        self.post(outcome)

    def abort(self) -> None:
        """Give up the command that runs, if any, because Aider ended."""
        if self._command is not None:
            self._give_up("Aider ended")

    def _outcome(self) -> Event:
        assert self._chat is not None
        assert self._launch is not None
        if self._command == "tokens":
            text = self._chat.read().decode("utf-8", "replace")
            return ContextRead(parse_context(text, self.clock()))
        try:
            editable, read_only = parse_saved(self._launch.saved_to.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            return ChatSaved(problem=f"the list of files could not be read: {error}")
        return ChatSaved(editable, read_only)

    def _give_up(self, reason: str) -> None:
        command = self._command
        self._forget()
        self.console.release_hold()
        if command is not None:
            self.post(_failed(command, reason))

    def _forget(self) -> None:
        self._command = None
        self.loop.cancel(_TIMEOUT)
        self.loop.cancel(_SETTLED)
        if self._histories is not None:
            self._histories.end_hidden()


def _failed(command: Command, reason: str) -> Event:
    return ContextRead(Unavailable(reason)) if command == "tokens" else ChatSaved(problem=reason)
