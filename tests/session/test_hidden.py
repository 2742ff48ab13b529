"""Hidden commands on a line editor that reads, draws and stalls at any moment, while the user types."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aider_guard.core.events import (
    ChatSaved,
    CommandNotTyped,
    ContextRead,
    Event,
    PromptClosed,
    PromptShown,
)
from aider_guard.core.readings import ContextReading
from aider_guard.core.screen import ScreenEvent
from aider_guard.session.aider_process import LineModes
from aider_guard.session.console import Console, SentKeys
from aider_guard.session.hidden import Command, HiddenCommands

RULE = b"\x1b[38;5;40m" + "─".encode() * 20 + b"\x1b[0m\r\n"
OPENS, CLOSES = b"\x1b[?2004h", b"\x1b[?7h\x1b[0m\x1b[?12l\x1b[?25h\x1b[?2004l\r\n"
TABLE = b"""
> Approximate context window usage for ollama_chat/small, in tokens:
> $ 0.0000    6,379 system messages
> ==================
> $ 0.0000    6,379 tokens total
> 26,389 tokens remaining in context window
> 32,768 tokens max context window size
"""


@dataclass
class LineEditor:
    """Stands in for Aider: a prompt as prompt_toolkit draws it, that takes a line, works, and asks again."""

    chat: Path
    multiline: bool = False
    queue: bytearray = field(default_factory=bytearray)
    line: str = ""
    lines: list[str] = field(default_factory=list)
    asks: bool = False

    def opens(self) -> bytes:
        """The main prompt, as it is drawn at first."""
        self.asks = True
        return RULE + OPENS + b"\x1b[?25l\x1b[J" + self._drawn() + b"\x1b[?7h\x1b[?12l\x1b[?25h"

    def reads(self, count: int) -> bytes:
        """What is drawn after so many keys of those that came were read; none are while it works."""
        shown, before = b"", len(self.queue)
        while self.asks and count and self.queue:
            key, count = chr(self.queue.pop(0)), count - 1
            if key == "\x7f":
                self.line = self.line[:-1]
            elif key != "\r":
                self.line += key
            else:
                shown += b"\r\x1b[J" + self._drawn() + CLOSES
                self._takes_line()
        if self.asks and len(self.queue) != before:
            shown += b"\x1b[?25l\r\x1b[J" + self._drawn() + b"\x1b[?25h"
        return shown

    def _takes_line(self) -> None:
        self.asks = False
        self.lines.append(self.line)
        if self.line == "/tokens":
            self.chat.write_bytes(self.chat.read_bytes() + TABLE)
        self.line = ""

    def _drawn(self) -> bytes:
        return f"> {self.line}".encode()


@dataclass
class Clock:
    """The session's loop: only its clock and its deadlines."""

    now: float = 100.0
    due: dict[str, tuple[float, Callable[[], None]]] = field(default_factory=dict)

    def after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """See ``Loop``."""
        self.due[name] = (self.now + seconds, call)

    def at(self, name: str, when: float, call: Callable[[], None]) -> None:
        """See ``Loop``."""
        self.due[name] = (when, call)

    def cancel(self, name: str) -> None:
        """See ``Loop``."""
        self.due.pop(name, None)

    def wait(self, seconds: float) -> None:
        """Let this time pass."""
        until = self.now + seconds
        while self.due:
            name, (when, call) = min(self.due.items(), key=lambda one: one[1][0])
            if when > until:
                break
            del self.due[name]
            self.now = max(self.now, when)
            call()
        self.now = until


class Scene:
    """A console and hidden commands on a line editor. ``screen`` is what the terminal gets, ``flushed`` what it has."""

    def __init__(self, folder: Path) -> None:
        chat = folder / "chat"
        chat.write_bytes(b"")
        self.aider, self.loop, self.typed = LineEditor(chat), Clock(), b""
        self.screen, self.events, self.marks = bytearray(), list[Event](), list[str]()
        self.flushed = bytearray()
        histories = SimpleNamespace(begin_hidden=self._begin, end_hidden=self._end)
        files = SimpleNamespace(chat_history=chat, encoding="utf-8")
        launch = SimpleNamespace(files=files, saved_to=folder / "saved")
        self.launches = cast("Any", SimpleNamespace(current=launch, histories=histories))
        relay = SimpleNamespace(
            to_child=self.aider.queue.extend,
            to_terminal=self.screen.extend,
            pending_for_child=0,
            flush=lambda: self.flushed.extend(self.screen[len(self.flushed) :]),
        )
        self.on_event: Callable[[], None] = lambda: None
        self.console = Console(
            cast("Any", relay),
            post=self._post,
            held=self._held,
            line_modes=self._modes,
            columns=lambda: 80,
            colour=False,
            clock=lambda: self.loop.now,
        )
        loop, post = cast("Any", self.loop), self.events.append
        self.hidden = HiddenCommands(
            self.console, cast("Any", relay), loop, post=post, clock=lambda: self.loop.now
        )

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self.on_event()
        if isinstance(event, PromptShown):
            self.hidden.prompt_shown()

    def _begin(self) -> str:
        self.marks.append("begin")
        return ""

    def _end(self) -> str:
        self.marks.append("end")
        return ""

    def _held(self, event: ScreenEvent | None) -> None:
        self.hidden.on_event(event)

    def _modes(self) -> LineModes:
        busy = not self.aider.asks
        return LineModes(busy, busy, busy, post_processing=True, suspend_byte=26)

    def type(self, keys: bytes) -> None:
        """The user types."""
        self.typed += keys
        self.console.user_typed(keys)

    def reads(self, count: int = 1000) -> None:
        """Aider reads so many of the keys that came, and draws."""
        if data := self.aider.reads(count):
            self.console.child_wrote(data)

    def asks(self) -> None:
        """Aider has done its work."""
        if not self.aider.asks:
            self.console.child_wrote(self.aider.opens())

    def runs(self, command: Command = "tokens") -> None:
        """The policy wants a hidden command."""
        if self.console.hold is None:
            self.hidden.run(command, self.launches)

    def settles(self) -> None:
        """All that was begun comes to its end."""
        for _ in range(40):
            self.asks()
            self.reads()
            self.loop.wait(0.2)

    def of(self, kind: builtins.type[Event]) -> list[Event]:
        """The events of a kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Aider at its first prompt, which came to rest."""
    scene = Scene(tmp_path)
    scene.asks()
    scene.loop.wait(1.0)
    return scene


def test_a_hidden_command_is_entered_once_it_is_drawn(scene: Scene) -> None:
    """Enter follows when the line is the command alone; the user sees nothing of it."""
    shown = bytes(scene.screen)
    scene.runs()
    assert scene.aider.queue == b"/tokens"
    assert scene.marks == []
    scene.reads(4)
    assert scene.aider.queue == b"ens"
    scene.reads()
    assert scene.aider.queue == b"\r"
    assert scene.marks == ["begin"]
    scene.settles()
    assert scene.aider.lines == ["/tokens"]
    assert scene.marks == ["begin", "end"]
    (event,) = scene.of(ContextRead)
    assert isinstance(event, ContextRead)
    assert isinstance(event.reading, ContextReading)
    assert scene.screen == shown


def test_the_user_sees_a_prompt_before_it_is_decided_about(scene: Scene) -> None:
    """The journal has an event when the user has seen what it is of: deciding and writing may take its time."""
    scene.runs()
    scene.settles()
    at_the_events: list[bytes] = []
    scene.on_event = lambda: at_the_events.append(bytes(scene.flushed))
    scene.type(b"hello\r")
    scene.reads()
    scene.asks()
    assert [type(event) for event in scene.events[-2:]] == [PromptClosed, PromptShown]
    assert at_the_events[-2].endswith(CLOSES)
    assert at_the_events[-1] == scene.screen


def test_keys_that_were_typed_while_aider_worked_are_waited_for(scene: Scene) -> None:
    """The prompt is not untouched before they had a second to be drawn, and not once they are drawn."""
    scene.type(b"first\r")
    scene.reads()
    scene.type(b"halfway")
    scene.asks()
    scene.loop.wait(0.9)
    assert not scene.console.untouched(0.3)
    scene.reads()
    scene.loop.wait(5)
    assert not scene.console.untouched(0.3)
    assert not scene.console.may_become_free()


def test_keys_that_something_else_read_are_not_waited_for_for_ever(scene: Scene) -> None:
    """After a second of silence on an empty line they were a program's, which ran for Aider."""
    scene.type(b"first\r")
    scene.reads()
    scene.type(b"passphrase\n")
    scene.aider.queue.clear()
    scene.asks()
    scene.loop.wait(0.9)
    assert not scene.console.untouched(0.3)
    scene.loop.wait(0.2)
    assert scene.console.untouched(0.3)


def test_what_is_not_alone_on_the_line_is_taken_back(scene: Scene) -> None:
    """Keys that Aider draws late stand before the command: it is deleted again, and the line is the user's."""
    scene.type(b"first\r")
    scene.reads()
    scene.type(b"halfway")
    scene.asks()
    scene.loop.wait(1.1)  # Aider is stopped before it reads them
    scene.runs()
    assert scene.aider.queue == b"halfway/tokens"
    scene.reads()
    scene.loop.wait(0.1)
    assert scene.aider.queue == b"\x7f" * len("/tokens")
    scene.reads()
    scene.loop.wait(0.1)
    assert scene.events[-1] == CommandNotTyped("tokens")
    assert scene.console.hold is None
    assert (scene.aider.line, scene.aider.lines) == ("halfway", ["first"])
    assert scene.screen.endswith(b"> halfway\x1b[?25h")
    assert scene.marks == []


@pytest.mark.parametrize("command", ["tokens", "save", "exit"])
def test_an_aider_that_draws_nothing_gets_no_enter(scene: Scene, command: Command) -> None:
    """After three seconds the command is taken back, and the user's keys follow."""
    scene.runs(command)
    typed = bytes(scene.aider.queue)
    scene.type(b"mine")
    scene.loop.wait(2.9)
    assert scene.aider.queue == typed
    scene.loop.wait(1.2)
    assert scene.aider.queue == typed + b"\x7f" * len(typed) + b"mine"
    assert scene.of(CommandNotTyped) == [CommandNotTyped(command)]
    scene.reads()
    assert (scene.aider.line, scene.aider.lines) == ("mine", [])


def test_a_line_that_is_not_empty_gets_no_command(scene: Scene) -> None:
    """Whatever was decided: nothing is typed after text."""
    scene.type(b"x")
    scene.reads()
    scene.runs()
    assert scene.events[-1] == CommandNotTyped("tokens")
    assert not scene.aider.queue


def test_the_path_follows_the_word(scene: Scene) -> None:
    """It need not fit on the screen: once the word stands alone, no other key can come before it."""
    scene.runs("save")
    assert scene.aider.queue == b"/save"
    scene.reads()
    saved_to = scene.launches.current.saved_to
    assert scene.aider.queue == f" {saved_to}\r".encode()
    scene.settles()
    assert scene.aider.lines == [f"/save {saved_to}"]


def test_exit_begins_the_hold_of_a_restart(scene: Scene) -> None:
    """The prompt leaves the screen only when Enter is sent."""
    before = len(scene.screen)
    scene.runs("exit")
    assert len(scene.screen) == before
    scene.reads()
    assert scene.aider.queue == b"\r"
    assert scene.console.hold is not None
    assert scene.console.hold.purpose == "restart"
    assert scene.screen[before:].endswith(b"\x1b[J")


@pytest.mark.parametrize(("multiline", "enter"), [(False, b"\r"), (True, b"\x1b\r")])
def test_an_aider_that_is_retired_gets_its_exit_at_once(
    scene: Scene, multiline: bool, enter: bytes
) -> None:
    """What it logs of that is put on record before."""
    if multiline:
        assert scene.console.prompt is not None
        scene.console.prompt = replace(scene.console.prompt, multiline=True)
    assert scene.hidden.retire(scene.launches)
    assert scene.aider.queue == b"/exit" + enter
    assert scene.marks == ["begin"]


def test_an_aider_with_a_key_on_its_line_is_not_retired(scene: Scene) -> None:
    """Neither drawn nor not yet."""
    scene.type(b"a")
    assert not scene.hidden.retire(scene.launches)
    scene.reads()
    assert not scene.hidden.retire(scene.launches)
    assert scene.aider.line == "a"
    assert not scene.aider.queue
    assert not scene.marks


@pytest.mark.parametrize(("command", "name"), [("tokens", "/tokens"), ("save", "/save")])
def test_a_command_that_takes_too_long_is_named(scene: Scene, command: Command, name: str) -> None:
    """The notice says which one it was."""
    scene.runs(command)
    scene.reads()
    scene.reads()
    scene.loop.wait(5.1)
    (event,) = scene.of(ContextRead if command == "tokens" else ChatSaved)
    assert f"Aider did not answer {name} in time" in str(event)


def test_a_command_that_was_given_up_is_hidden_to_its_end(scene: Scene) -> None:
    """Aider may put it into the histories only once it goes on; it is no line of the user's all the same."""
    scene.runs()
    scene.reads()
    scene.type(b"mine\r")
    scene.loop.wait(5.1)
    assert scene.console.hold is None
    assert scene.marks == ["begin"]
    scene.type(b"more")
    assert scene.aider.queue == b"\r"
    scene.reads()
    assert scene.aider.lines == ["/tokens"]
    assert scene.marks == ["begin"]
    scene.asks()
    assert scene.marks == ["begin", "end"]
    scene.reads()
    scene.settles()
    assert scene.aider.lines == ["/tokens", "mine"]
    assert scene.aider.line == "more"


def test_keys_wait_in_one_queue_for_the_main_prompt(scene: Scene) -> None:
    """Those of the hold come before those that were typed after it was given up."""
    scene.runs()
    scene.reads()
    scene.reads()
    scene.type(b"ABC")
    scene.loop.wait(5.1)
    assert scene.console.hold is None
    scene.type(b"def")
    assert not scene.aider.queue
    scene.asks()
    scene.reads()
    assert scene.aider.line == "ABCdef"


def test_keys_in_front_of_another_program_do_not_wait(scene: Scene) -> None:
    """A question gets its answer while keys wait for the main prompt, and an interrupt acts at once."""
    scene.runs()
    scene.reads()
    scene.reads()
    scene.type(b"ABC")
    scene.loop.wait(5.1)
    scene.type(b"\x03")
    assert scene.aider.queue == b"\x03"
    scene.aider.queue.clear()
    scene.console.child_wrote(OPENS + b"Add it? (Y)es/(N)o [Yes]: \x1b[?25h")
    scene.type(b"n")
    assert scene.aider.queue == b"n"


def test_the_terminals_answers_are_no_keys(scene: Scene) -> None:
    """An answer to a query of the prompt that is held is not delivered to the next one."""
    scene.runs()
    scene.reads()
    scene.reads()
    scene.type(b"he\x1b[5;1R")
    scene.type(b"llo\x1b[I\x1b[A")
    scene.settles()
    assert scene.aider.line == "hello\x1b[A"


SENT: list[tuple[list[bytes | None], bool]] = [
    ([], False),
    ([b"a"], True),
    ([b"a\r", None], False),
    ([b"a", b"\r", None], False),
    ([b"a\rb", None], True),
    ([b"a\r", b"b", None], True),
    ([b"a\r", b"b", None, b"\r", None], False),
    ([b"\x03", None], False),
    ([b"\x04", None], False),
    ([b"a\n", None], False),
    ([b"a", None], True),
]


@pytest.mark.parametrize(("story", "may_come"), SENT)
def test_keys_after_the_one_that_closes_a_prompt_may_come(
    story: list[bytes | None], may_come: bool
) -> None:
    """None stands for the prompt that closes: it read what came before the closing key."""
    keys = SentKeys()
    for piece in story:
        if piece is None:
            keys.prompt_closed()
        else:
            keys.sent(piece, prompt_open=True)
    assert keys.may_come is may_come


def test_keys_that_were_sent_while_no_prompt_is_open_may_come() -> None:
    """Enter closes nothing then."""
    keys = SentKeys()
    keys.sent(b"y\r", prompt_open=False)
    assert keys.may_come


Step = tuple[str, Any]
TYPES = st.sampled_from([b"a", b"bc", b"\r", b"d\r", b"e\rf", b"gh\rij\rk"])
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("type"), TYPES),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("read"), st.just(1000)),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.1, 0.4, 1.1, 3.1, 5.1])),
    st.tuples(st.sampled_from(["ask", "run"]), st.none()),
)


def _carry_out(scene: Scene, what: str, value: Any) -> None:
    match what:
        case "type":
            scene.type(value)
        case "read":
            scene.reads(value)
        case "wait":
            scene.loop.wait(value)
        case "ask":
            scene.asks()
        case "run":
            scene.runs()


@example(
    [("type", b"d\r"), ("read", 9), ("type", b"a"), ("ask", None), ("wait", 1.1), ("run", None)]
)
@example(
    [
        *[("run", None), ("read", 1000), ("read", 1000), ("type", b"a")],
        *[("wait", 5.1), ("type", b"bc"), ("ask", None)],
    ]
)
@given(st.lists(STEPS, max_size=60))
def test_every_line_arrives_whole_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """Whatever happens when, Aider gets the user's lines as they were typed, and beside them whole commands of ours."""
    scene = Scene(tmp_path_factory.getbasetemp())
    scene.asks()
    for step in steps:
        _carry_out(scene, *step)
    scene.settles()
    *lines, rest = scene.typed.decode().split("\r")
    assert [line for line in scene.aider.lines if line != "/tokens"] == lines
    assert scene.aider.line == rest
    assert scene.console.hold is None
