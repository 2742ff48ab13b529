"""Gives Aider ``/tokens``, ``/save`` and ``/exit`` at the main prompt without showing it to the user.

A command's first word is typed alone. The rest and Enter follow only when the line, as Aider draws it, is that word and
nothing else. Keys arrive in order, so keys of the user's that were still on their way stand before the word then. In
that case, or if Aider does not draw the line, the word is deleted key by key, and the line is as it would have been.
The rest is not looked at: no other key can come by now, and a long path may not fit into a small terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import partial
from typing import Literal

from aider_guard.core.events import (
    ChatSaved,
    CommandNotTyped,
    ConfirmShown,
    ContextRead,
    Event,
    PromptRedrawn,
    PromptShown,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.screen import ScreenEvent
from aider_guard.core.tokens import parse_context, parse_dropped
from aider_guard.loop import Loop
from aider_guard.session.console import Console
from aider_guard.session.histories import PrivateHistories
from aider_guard.session.launches import Launch, Launches, parse_saved
from aider_guard.session.relay import Relay
from aider_guard.session.side_channels import FileTail

Command = Literal["tokens", "save", "exit"]

_TIMEOUT, _QUIET = "hidden_timeout", "hidden_quiet"
_ANSWER_SECONDS = 5.0
# Less than the policy waits for Aider to end (Limits.stop_wait_seconds), as /exit is typed in that time.
_ECHO_SECONDS = 3.0
_TAKE_BACK_SECONDS = 1.0
# prompt_toolkit draws the prompt a second time when its cursor query was answered.
_QUIET_SECONDS = 0.08
_BACKSPACE = b"\x7f"


class _Stage(Enum):
    IDLE = "no command runs"
    TYPED = "the first word was typed, and is not drawn yet"
    ENTERED = "the rest and Enter were sent"
    TAKEN_BACK = "the word was taken back, and is drawn still"


@dataclass
class HiddenCommands:
    """Runs one hidden command at a time. ``post`` gets its outcome."""

    console: Console
    relay: Relay
    loop: Loop
    _: KW_ONLY
    post: Callable[[Event], None]
    clock: Callable[[], float]
    _stage: _Stage = _Stage.IDLE
    _command: Command = "tokens"
    _word: str = ""
    _rest: str = ""
    _before: PromptShown | None = None
    _chat: FileTail | None = None
    _launch: Launch | None = None
    _histories: PrivateHistories | None = None
    _is_answered: bool = False
    """Whether the main prompt is back after the command."""
    _is_late: bool = False
    """Whether the command was given up before that, and may still run."""

    def run(self, command: Command, launches: Launches, needs: Sequence[str] = ()) -> None:
        """Type the command at the empty main prompt and hold everything back until the next prompt.

        Not where one of the files that it *needs* is missing.

        ``/exit`` begins the hold of a restart, which ends with the prompt of the next Aider.
        """
        launch, histories = launches.current, launches.histories
        if command != "exit" and (launch is None or launch.files is None or histories is None):
            self.post(_failed(command, "Aider's settings could not be read"))
            return
        if not self.console.line_is_free() or not all(map(os.path.isfile, needs)):
            self.post(CommandNotTyped(command))
            return
        self._command, self._launch, self._histories = command, launch, histories
        self._word = f"/{command}"
        self._rest = f" {launch.saved_to}" if command == "save" and launch is not None else ""
        self._before = self.console.prompt
        self.console.begin_hold(command)
        self._stage = _Stage.TYPED
        self.relay.to_child(self._word.encode())
        self._wait()

    def retire(self, launches: Launches) -> bool:
        """Type ``/exit`` and Enter at once; False when the line is not free, and nothing is typed.

        For the prompt after ``/save``, which was drawn alone on its line: no key came before it, and keys wait since.
        """
        if not self.console.line_is_free():
            return False
        if launches.histories is not None:
            launches.histories.begin_hidden()  # without the mark, "/exit" stays in the user's history
        prompt = self.console.prompt
        is_multiline = prompt is not None and prompt.multiline
        self.relay.to_child(b"/exit" + (b"\x1b\r" if is_multiline else b"\r"))
        self.relay.flush()
        return True

    def _wait(self) -> None:
        """Begin the time that Aider has for its next step."""
        match self._stage:
            case _Stage.TYPED:
                self.loop.after(_TIMEOUT, _ECHO_SECONDS, self._take_back)
            case _Stage.ENTERED:
                reason = f"Aider did not answer /{self._command} in time"
                self.loop.after(_TIMEOUT, _ANSWER_SECONDS, partial(self._give_up, reason))
            case _Stage.TAKEN_BACK:
                self.loop.after(_TIMEOUT, _TAKE_BACK_SECONDS, self._postpone)

    def prompt_shown(self) -> None:
        """Take note that the main prompt is back, so that a command that was given up is over."""
        if self._is_late:
            self._is_late = False
            self._end()

    def on_event(self, event: ScreenEvent | None) -> None:
        """Take what the recogniser found while a hidden command runs, or None after other output."""
        match self._stage, event:
            case _Stage.TYPED, None:
                self._look_at_line()
            case _Stage.TYPED, _ if not isinstance(event, PromptRedrawn):
                # A key of the user's closed the prompt, and something else will read what was typed.
                self._erase()
                self._postpone()
            case _Stage.TAKEN_BACK, None:
                self.loop.after(_QUIET, _QUIET_SECONDS, self._postpone)
            case _Stage.TAKEN_BACK, _ if not isinstance(event, PromptRedrawn):
                self._postpone()
            case _Stage.ENTERED, ConfirmShown():
                self._give_up("Aider asks something")
            case _Stage.ENTERED, PromptShown():
                self._is_answered = True
                self.loop.after(_QUIET, _QUIET_SECONDS, self._finish_when_quiet)

    def _look_at_line(self) -> None:
        line = self.console.screen.line()
        if line is not None and line.is_only(self._word):
            self._enter()
        elif line is not None and not self._word.startswith(line.before):
            self.loop.after(_QUIET, _QUIET_SECONDS, self._take_back)
        else:
            self.loop.cancel(_QUIET)

    def _enter(self) -> None:
        self.loop.cancel(_QUIET)
        # Only from here on does Aider log what is not the user's.
        problem = self._histories.begin_hidden() if self._histories is not None else ""
        if problem and self._command != "exit":
            self._erase()
            self._stop_waiting()
            self.console.release_hold()
            self.post(_failed(self._command, problem))
            return
        multiline = self._before is not None and self._before.multiline
        self.relay.to_child(self._rest.encode() + (b"\x1b\r" if multiline else b"\r"))
        if self._command == "exit":
            # If the mark cannot be written, "/exit" stays in the user's history: no reason not to go on.
            self._stop_waiting()
            self.console.begin_restart()
            return
        if self._launch is not None and self._launch.files is not None:
            self._chat = FileTail(self._launch.files.chat_history, from_end=True)
        self._stage, self._is_answered = _Stage.ENTERED, False
        self._wait()

    def _erase(self) -> None:
        self.relay.to_child(_BACKSPACE * len(self._word))

    def _take_back(self) -> None:
        """Delete what was typed. The line was not ours alone, or Aider did not draw it in time."""
        self._erase()
        self._stage = _Stage.TAKEN_BACK
        self.loop.cancel(_QUIET)
        self._wait()

    def _postpone(self) -> None:
        self._stop_waiting()
        if self.console.prompt is not None:
            self.console.redraw_from_hold()
        else:
            self.console.release_hold()
        self.post(CommandNotTyped(self._command))

    def _finish_when_quiet(self) -> None:
        quiet_at = self.console.last_output_at + _QUIET_SECONDS
        if self.clock() < quiet_at:
            self.loop.at(_QUIET, quiet_at, self._finish_when_quiet)
            return
        outcome, unchanged = self._outcome(), self.console.prompt == self._before
        self._end()
        if unchanged:
            self.console.drop_hold()
        else:
            self.console.redraw_from_hold()
            if self.console.prompt is not None:
                self.post(self.console.prompt)
        self.post(outcome)

    def abort(self) -> None:
        """Give up the command that runs, if any, because Aider ended."""
        match self._stage:
            case _Stage.ENTERED:
                self._give_up("Aider ended")
                self._is_late = False
            case _Stage.TYPED | _Stage.TAKEN_BACK:
                self._postpone()

    def _outcome(self) -> Event:
        assert self._chat is not None
        assert self._launch is not None
        assert self._launch.files is not None
        encoding = self._launch.files.encoding
        text = self._chat.read().decode(encoding, "replace")
        if self._command == "tokens":
            return ContextRead(parse_context(text, self.clock()), parse_dropped(text))
        if error := re.search(r"^> (Error saving commands to file: .*?)\s*$", text, re.MULTILINE):
            return ChatSaved(problem=f"Aider could not write the list of files: {error[1]}")
        try:
            editable, read_only = parse_saved(self._launch.saved_to.read_text(encoding=encoding))
        except (OSError, UnicodeDecodeError) as error:
            return ChatSaved(problem=f"the list of files could not be read: {error}")
        return ChatSaved(editable, read_only)

    def _give_up(self, reason: str) -> None:
        self._stop_waiting()
        # Aider may log the command only now. No line of the user's comes before the next main prompt.
        self._is_late = not self._is_answered
        if self._is_answered:
            self._end()
        self.console.release_hold(answered=self._is_answered)
        self.post(_failed(self._command, reason))

    def _end(self) -> None:
        self._stop_waiting()
        if self._histories is not None:
            self._histories.end_hidden()

    def _stop_waiting(self) -> None:
        self._stage = _Stage.IDLE
        self.loop.cancel(_TIMEOUT)
        self.loop.cancel(_QUIET)


def _failed(command: Command, reason: str) -> Event:
    return ContextRead(Unavailable(reason)) if command == "tokens" else ChatSaved(problem=reason)
