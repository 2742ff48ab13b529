"""Connects the user's screen and keys with Aider's output and input, and shows notices between them.

Bytes pass untouched, and copies go to the recogniser. Only inside a hold, and for the moment it takes to print a
notice above the prompt, does anything else reach the screen. Keys that come inside a hold wait in one queue for the
main prompt, which is what the user sees; later keys never overtake them on the way there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from aider_guard.core.actions import Notice
from aider_guard.core.events import (
    Event,
    KeyTyped,
    NoticeShown,
    PromptClosed,
    PromptRedrawn,
    PromptShown,
)
from aider_guard.core.plain_screen import PlainRecogniser
from aider_guard.core.screen import Recogniser, ScreenEvent, ShownPrompt
from aider_guard.session import notices
from aider_guard.session.aider_process import LineModes
from aider_guard.session.escape_sequences import (
    CURSOR_QUERY,
    Keyboard,
    OutputModes,
    without_answers,
)
from aider_guard.session.relay import Relay

Purpose = Literal["tokens", "save", "exit", "restart"]

_CLOSING_KEY = re.compile(rb"[\r\n\x03\x04]")  # Enter, Ctrl-C, Ctrl-D
_INTERRUPTS = (b"\x03", b"\x1c")
_READ_BY_NOW_SECONDS = 1.0


@dataclass
class SentKeys:
    """Tells whether keys that were sent to Aider may still come to stand on the line of a main prompt.

    Keys that were typed while Aider worked do, before they are drawn. So do keys that follow the one which closed a
    prompt: prompt_toolkit keeps what it read together with that key for the next prompt (its typeahead.py, 3.0.52).
    """

    may_come: bool = False
    _closing: bool = False
    _after_closing: bool = False

    def sent(self, keys: bytes, *, prompt_open: bool) -> None:
        """Take note of keys that were sent while a prompt was open, or none."""
        self.may_come = True
        if not prompt_open:
            return
        if self._closing:
            self._after_closing = True
        elif closing := _CLOSING_KEY.search(keys):
            self._closing, self._after_closing = True, closing.end() < len(keys)

    def prompt_closed(self) -> None:
        """Take note that a prompt closed: it has read all keys up to the one that closed it."""
        self.may_come = self._after_closing or (self.may_come and not self._closing)
        self._closing = self._after_closing = False


@dataclass
class Hold:
    """Holds Aider's output back while the screen stays as it is.

    ``screen`` is the prompt that stands there meanwhile.

    The child's cursor queries are answered with the terminal's answer to the one before: the screen stays as it is,
    so what the child believes of the cursor stays true.
    """

    purpose: Purpose
    screen: ShownPrompt | None
    answer: Callable[[], None]
    output: bytearray = field(default_factory=bytearray)
    _half_query: bytes = b""

    def child_wrote(self, data: bytes) -> None:
        """Keep the child's bytes and answer the queries among them."""
        self.output += data
        seen = self._half_query + data
        self._half_query = seen[1 - len(CURSOR_QUERY) :]
        for _ in range(seen.count(CURSOR_QUERY)):
            self.answer()


def ends_in_character(data: bytes) -> bool:
    """Return whether bytes end inside a character of UTF-8."""
    tail = data[-3:]
    start = max((at for at, byte in enumerate(tail) if byte >= 0xC0), default=-1)
    if start < 0:
        return False
    length = 2 if tail[start] < 0xE0 else 3 if tail[start] < 0xF0 else 4
    return len(tail) - start < length


class Console:
    """Between the relay and the policy: ``post`` takes events, ``held`` those that are recognised inside a hold.

    ``held`` is also called, with None, after all output inside a hold.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        post: Callable[[Event], None],
        held: Callable[[ScreenEvent | None], None],
        line_modes: Callable[[], LineModes | None],
        columns: Callable[[], int],
        colour: bool,
        titles: bool = False,
        ascii_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._post = post
        self._held = held
        self._line_modes = line_modes
        self._columns = columns
        self._colour, self._ascii_only = colour, ascii_only
        self._titles, self._title, self._wanted_title = titles, "", ""
        self._signal = b""
        self._ends_in_character = False
        self._clock = clock
        self._keyboard = Keyboard()
        self._cursor_answer = b""
        self._waiting: list[Notice] = []
        self._queue = bytearray()
        self._sent = SentKeys()
        self.screen: Recogniser | PlainRecogniser = Recogniser()
        self.modes = OutputModes()
        self.hold: Hold | None = None
        self.prompt: PromptShown | None = None
        self.key_typed = self._prompt_moved = False
        self.last_output_at = clock()

    # From the child

    def child_wrote(self, data: bytes) -> None:
        """Take what the child wrote: to the screen or the hold, and to the recogniser."""
        self.last_output_at = self._clock()
        events = self.screen.feed(data)
        if self.hold is None:
            # What Aider still draws by the terminal's answer from before the notice.
            self.to_screen(notices.without_empty_rows(data) if self._prompt_moved else data)
            self._ends_in_character = ends_in_character(data)
            self._write_between()
        else:
            self.hold.child_wrote(data)
        if events and not self._waiting:
            # What is decided about them, and written into the journal, must not keep the user waiting. A prompt below
            # a notice that waits for it is drawn once, with the notice.
            self._relay.flush()
        for event in events:
            self._note(event)
        if self.hold is not None:
            self._held(None)

    def expect_plain_prompts(self) -> None:
        """Look for prompts of plain text from now on: Aider reads lines without prompt_toolkit."""
        if not isinstance(self.screen, PlainRecogniser):
            self.screen = PlainRecogniser()

    def plain_prompt(self) -> PromptShown | None:
        """Return the prompt of plain text that the output ends with, if it is not open yet and the terminal edits."""
        if not isinstance(self.screen, PlainRecogniser) or self.screen.prompt_open:
            return None
        modes = self._line_modes()
        return (
            self.screen.prompt() if modes is not None and modes.canonical and modes.echo else None
        )

    def open_plain_prompt(self, prompt: PromptShown) -> None:
        """Take a prompt of plain text as open: Aider is silent, and waits for no answer."""
        if isinstance(self.screen, PlainRecogniser):
            self.screen.prompt_open = True
            self._accept(prompt)

    def _note(self, event: ScreenEvent) -> None:
        if isinstance(event, PromptShown) and not self.reads_keys():
            return  # text that looks like a prompt, printed while nothing waits for the user
        self._accept(event)

    def _accept(self, event: ScreenEvent) -> None:
        if isinstance(event, PromptShown):
            self.prompt, self.key_typed, self._prompt_moved = event, False, False
        elif not isinstance(event, PromptRedrawn):
            self.prompt, self._prompt_moved = None, False
        if isinstance(event, PromptClosed):
            self._sent.prompt_closed()
        if self.hold is not None:
            self._held(event)
            return
        self._post(event)
        if isinstance(event, PromptShown):
            if self._waiting:
                self._print_above()
            self._deliver_queue()

    def reads_keys(self) -> bool:
        """Whether prompt_toolkit waits at a prompt: the child's terminal hands keys over one by one, but still
        translates the output. Neither is so while Aider works, or a program uses the whole terminal.
        """
        modes = self._line_modes()
        return modes is not None and not modes.canonical and modes.post_processing

    def untouched(self, quiet_seconds: float) -> bool:
        """Whether the main prompt waits with an empty line and no key typed since, and nothing moved for a while.

        Keys that were typed before have their time to be drawn: one that stays unseen was read by something else.
        """
        # What Aider draws later all the same, as it was stopped, is seen before our command is submitted (hidden.py).
        return self.line_is_free() and not self.quiet_in(quiet_seconds)

    def quiet_in(self, quiet_seconds: float) -> float:
        """Return the seconds until Aider was silent for so long, and keys were drawn; 0 when it was already."""
        if self._sent.may_come:
            quiet_seconds = max(quiet_seconds, _READ_BY_NOW_SECONDS)
        return max(0.0, self.last_output_at + quiet_seconds - self._clock())

    def line_is_free(self) -> bool:
        """Whether the line of the main prompt is drawn as empty now, with no key typed since the prompt was shown."""
        line = self.screen.line()
        return (
            self.hold is None
            and self.prompt is not None
            and not self.key_typed
            and line is not None
            and line.is_empty
            and not self._relay.pending_for_child
            and self.reads_keys()
        )

    def may_become_free(self) -> bool:
        """Whether the main prompt may yet become untouched without another key."""
        line = self.screen.line()
        is_plain = isinstance(self.screen, PlainRecogniser)
        is_free = not is_plain and (line is None or line.is_empty)
        return self.prompt is not None and not self.key_typed and is_free

    # From the user

    def user_typed(self, data: bytes) -> None:
        """Take what came from the terminal."""
        typed = self._keyboard.feed(data)
        self._cursor_answer = typed.cursor_answer or self._cursor_answer
        if self.hold is not None or (self._queue and not self._is_for_another(data)):
            # The terminal's answers to queries of the prompt that is held were given already.
            self._queue += without_answers(data)
            return
        self._relay.to_child(data)
        if typed.keys:
            self._note_keys(data)

    def _is_for_another(self, data: bytes) -> bool:
        """Whether keys are for a question or a program that is in front while others wait for the main prompt."""
        if self.screen.main_prompt_open:
            return False  # Enter was sent to it, and it is followed by the one that is waited for
        modes = self._line_modes()
        if self.screen.prompt_open or modes is None or not (modes.canonical and modes.echo):
            return True
        return modes.signals and data in _INTERRUPTS

    def _note_keys(self, keys: bytes) -> None:
        self._sent.sent(keys, prompt_open=self.screen.prompt_open)
        if not self.key_typed:
            self.key_typed = True
            self._post(KeyTyped())

    def _deliver_queue(self) -> None:
        keys, self._queue = bytes(self._queue), bytearray()
        self._relay.to_child(keys)
        if keys:
            self._note_keys(keys)

    # To the screen

    def to_screen(self, data: bytes) -> None:
        """Put bytes on the user's screen."""
        self.modes.feed(data)
        self._relay.to_terminal(data)

    def set_title(self, text: str) -> None:
        """Show a title of the terminal's window, "" for the one that it had; as soon as nothing is cut apart by it."""
        self._wanted_title = text if self._titles else ""
        self._write_between()

    def ring(self, signal: bytes) -> None:
        """Write bytes that draw nothing, as soon as nothing is cut apart by them."""
        self._signal += signal
        self._write_between()

    def _write_between(self) -> None:
        if self.modes.is_inside or self._ends_in_character:
            return
        if self._signal:
            signal, self._signal = self._signal, b""
            self.to_screen(signal)
        if self._wanted_title != self._title and self.hold is None:
            title = notices.title(self._wanted_title, was_shown=bool(self._title))
            self._title = self._wanted_title
            self.to_screen(title)

    def show(self, notice: Notice) -> None:
        """Print a notice above the prompt: now if that is untouched, else above the next one."""
        self._waiting.append(notice)
        if self.hold is None and self.prompt is not None and not self.key_typed:
            self._print_above()

    def _print_above(self) -> None:
        shown = self.screen.shown_prompt()
        if shown is not None:
            self.to_screen(notices.above(shown, self._take_waiting()))
            self._prompt_moved = True

    def _take_waiting(self) -> str:
        waiting, self._waiting = self._waiting, []
        columns = self._columns()
        text = "".join(
            notices.render(notice, columns, colour=self._colour, ascii_only=self._ascii_only)
            for notice in waiting
        )
        for notice in waiting:
            self._post(NoticeShown(notice.name))
        return text

    def unshown(self) -> list[Notice]:
        """Return the notices that found no prompt, and forget them; at the end a short one says nothing any more."""
        waiting, self._waiting = self._waiting, []
        return [notice for notice in waiting if not notice.is_short]

    # Holding back

    def begin_hold(self, purpose: Purpose) -> None:
        """Keep the child's output from the screen, and queue the user's keys, from now on."""
        # A terminal that never answered is not answered for: prompt_toolkit then goes without.
        self.hold = Hold(
            purpose, self.screen.shown_prompt(), lambda: self._relay.to_child(self._cursor_answer)
        )

    def drop_hold(self) -> None:
        """Forget the output that was held, as the prompt is back as it was, and deliver the user's keys."""
        if self.hold is not None:
            self.hold = None
            self._deliver_queue()

    def redraw_from_hold(self) -> None:
        """Draw the new prompt in the place of the old one, as it changed meanwhile, and deliver the user's keys."""
        hold, new = self.hold, self.screen.shown_prompt()
        if hold is None or hold.screen is None or new is None:
            self.release_hold()
            return
        self.to_screen(notices.erase(hold.screen) + new.drawn)
        self.drop_hold()

    def release_hold(self, *, answered: bool = True) -> None:
        """Show all output that was held, and deliver the keys; without a main prompt they wait for the next one.

        So they do when the one that is open is not *answered*, as Aider has not read the Enter that was sent to it.
        """
        hold, self.hold = self.hold, None
        if hold is None:
            return
        self.to_screen(bytes(hold.output))
        if self.prompt is not None and answered:
            self._deliver_queue()

    # A restart

    def begin_restart(self) -> None:
        """Take the prompt off the screen and hold everything back until the next Aider's prompt.

        Where prompts are plain text nothing is held: only what was shown tells that one is there.
        """
        if isinstance(self.screen, PlainRecogniser):
            return
        if self.hold is None:
            self.begin_hold("restart")
        hold = self.hold
        if hold is not None:
            hold.purpose = "restart"
            hold.output.clear()
            if hold.screen is not None:
                self.to_screen(notices.erase(hold.screen))

    def progress(self, text: str) -> None:
        """Draw the line of progress of a restart over the last one."""
        if self.hold is not None and self.hold.purpose == "restart":
            self.to_screen(notices.progress(text, self._columns()))

    def new_child(self) -> None:
        """Forget the last process's output and undo what it left on: another one writes from now on."""
        self.screen = type(self.screen)()
        self.prompt = None
        self.key_typed = False
        self._sent = SentKeys()
        self.to_screen(self.modes.resets())
        if self.hold is not None:
            self.hold.output.clear()

    def finish_restart(self) -> None:
        """End the hold of a restart: show the new prompt, with the notices above it."""
        hold, self.hold = self.hold, None
        shown = self.screen.shown_prompt()
        if hold is None:
            return
        self.to_screen(notices.PROGRESS_DONE)
        if shown is None:
            self.to_screen(bytes(hold.output))
        else:
            self.to_screen(self._take_waiting().encode("utf-8", "replace") + shown.drawn)
        self._deliver_queue()

    def leave(self, *, killed: bool) -> None:
        """Show what was held at the end of the session, and undo what a killed Aider left on in the terminal.

        What an Aider that ended by itself left on is its own choice.
        """
        self.abandon_restart()
        self.set_title("")
        if killed:
            # A prompt that is still open was left by the kill: the shell's own belongs on a line of its own.
            below = b"\r\n" if self.screen.prompt_open else b""
            self.to_screen(self.modes.resets() + below)

    def abandon_restart(self) -> None:
        """Show everything that was held, because Aider asks something or fails before its prompt."""
        if self.hold is not None and self.hold.purpose == "restart":
            self.to_screen(notices.PROGRESS_DONE)
        self.release_hold()


DEAF_SECONDS = 0.3
QUESTION = b"  y: start it again, any other key: leave "


class RestartOffer:
    """Asks for one key whether to start an Aider that died again: only an explicit y is consent.

    What was typed for the Aider that died is not taken for an answer.
    """

    def __init__(self, on_answer: Callable[[bool], None], clock: Callable[[], float]) -> None:
        self._on_answer = on_answer
        self._clock = clock
        self._made_at: float | None = None

    def make(self) -> None:
        """Wait for the answer from now on, as the question is on the screen."""
        self._made_at = self._clock()

    def typed(self, data: bytes) -> None:
        """Take what came from the terminal. Its late answers to queries of the Aider that died are no keys."""
        keys = without_answers(data)
        if self._made_at is None or not keys or self._clock() - self._made_at < DEAF_SECONDS:
            return
        self._made_at = None
        self._on_answer(keys[:1] in b"yY")
