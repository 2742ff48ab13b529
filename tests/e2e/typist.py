"""A scripted person who types messages as people do: in bursts, with pauses, corrections and pastes, ahead of answers.

All that happens is drawn from a seed before the session begins, so a seed that fails can be run again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from e2e.people import Guarded, Onlooker

WORDS = ("lemon", "prices", "till", "round", "the", "total", "of", "a", "discount", "and", "tax")
ANSWERED = re.compile(rb"Tokens: \S+ sent")
"""What Aider prints below an answer."""
PROMPTS = ("prompt_shown", "prompt_closed")
PATIENCE_SECONDS = 60.0
PASTE = (b"\x1b[200~", b"\x1b[201~")


@dataclass(frozen=True)
class Keys:
    """Keys that are typed after a pause."""

    pause_seconds: float
    keys: bytes


@dataclass(frozen=True)
class Stall:
    """Aider is stopped for a while, as on a machine that has no time for it; typing goes on."""

    seconds: float
    when: Literal["now", "a hidden command runs"]


@dataclass(frozen=True)
class Answered:
    """The person waits for the answers to all messages so far, and reads them for a moment."""

    reading_seconds: float


@dataclass(frozen=True)
class Supervised:
    """The person waits until the guard starts Aider again, where that is due, or asks it in secret; then types on.

    Not after keys that came while Aider worked: the guard then leaves the next prompt to the person.
    """


Step = Keys | Stall | Answered | Supervised


@dataclass(frozen=True)
class Script:
    """What a person does, and the messages that are sent by that."""

    messages: tuple[str, ...]
    steps: tuple[Step, ...]


def script_of(seed: str, turns: int) -> Script:
    """The script of a seed."""
    choice = random.Random(seed)
    messages: list[str] = []
    steps: list[Step] = []
    for turn in range(turns):
        message = f"{turn:03d} " + " ".join(choice.choices(WORDS, k=choice.randint(1, 5)))
        messages.append(message)
        if choice.random() < 0.2:
            when: Literal["now", "a hidden command runs"]
            when = "now" if choice.random() < 0.5 else "a hidden command runs"
            steps.append(Stall(choice.choice([0.3, 1.0, 2.0, 5.5]), when))
        steps += typed(message, choice)
        if choice.random() < 0.6 or turn % 3 == 2:
            steps.append(Answered(choice.choice([0.1, 0.5, 1.0, 2.0, 2.5])))
            if choice.random() < 0.6:
                steps.append(Supervised())
    return Script(tuple(messages), (*steps, Answered(0.0)))


def typed(message: str, choice: random.Random) -> Iterator[Step]:
    """The keys of a message and Enter."""
    rest = message
    while rest:
        size = choice.randint(1, 9)
        burst, rest = rest[:size], rest[size:]
        pause = choice.choice([0.02, 0.05, 0.1, 0.3, 0.8])
        if choice.random() < 0.1 and not burst.startswith(" "):
            yield Keys(pause, PASTE[0] + burst.encode() + PASTE[1])
            continue
        for letter in burst:
            if choice.random() < 0.05:
                wrong = choice.choice("xyz").encode() * choice.randint(1, 3)
                # At once: a letter that came before Aider switched the terminal's mode is not erased by a key that
                # came after it (n_tty.c: eraser), with Aider itself as well.
                yield Keys(0.1, wrong + b"\x7f" * len(wrong))
            yield Keys(pause, letter.encode())
            pause = choice.uniform(0.01, 0.08)
    yield Keys(choice.choice([0.0, 0.05, 0.5]), b"\r")


class Typist:
    """Follows a script at a terminal."""

    def __init__(
        self,
        person: Onlooker,
        *,
        aider_pid: Callable[[], int],
        guard: Guarded | None = None,
        max_turns: int = 0,
    ) -> None:
        self._person, self._guard = person, guard
        self._aider_pid, self._max_turns = aider_pid, max_turns
        self._hidden_at_enter = 0
        self._typed_ahead = self._was_typed_ahead = False
        self._started = self._sent_at_start = 0
        self._continue_at = float("inf")
        self._stall_at_hidden: tuple[int, float] | None = None
        self._pid = 0
        self.sent = 0

    def follow(self, script: Script) -> None:
        """Do all of it."""
        for step in script.steps:
            match step:
                case Keys(pause, keys):
                    self._wait(lambda: False, pause)
                    self._typed_ahead |= not self._is_asked()
                    if keys == b"\r":
                        self.sent += 1
                        self._hidden_at_enter = self._hidden_runs()
                    self._person.type(keys)
                case Stall(seconds, "now"):
                    self._stall(seconds)
                case Stall(seconds):
                    self._stall_at_hidden = (self._hidden_runs(), seconds)
                case Answered(seconds):
                    self._person.wait_for(self._all_are_answered)
                    self._wait(lambda: False, seconds)
                    self._was_typed_ahead, self._typed_ahead = self._typed_ahead, False
                case Supervised() if self._guard and not self._was_typed_ahead:
                    self._wait(self._is_supervised, PATIENCE_SECONDS)
        self._wait(lambda: self._continue_at == float("inf"), 30)

    def _is_supervised(self) -> bool:
        """Whether the guard has done what must come after the answers: all is idle, and no key is on its way."""
        self._look()
        if self.sent - self._sent_at_start >= self._max_turns:
            return False  # Aider will be started again
        return self._sent_at_start == self.sent or self._hidden_runs() > self._hidden_at_enter

    def _is_asked(self) -> bool:
        """Whether Aider is at its main prompt, as the guard knows."""
        journal = self._guard.journal() if self._guard else []
        told = (
            line["event"] == "prompt_shown"
            for line in reversed(journal)
            if line["event"] in PROMPTS
        )
        return next(told, False)

    def _hidden_runs(self) -> int:
        return len(self._guard.journal("run_hidden")) if self._guard else 0

    def _starts(self) -> int:
        """How often Aider was started again."""
        return len(self._guard.journal("start_aider")) if self._guard else 0

    def _all_are_answered(self) -> bool:
        self._look()
        return len(ANSWERED.findall(self._person.shown)) >= self.sent

    def _wait(self, holds: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not holds() and time.monotonic() < until:
            self._look()
            self._person.pump(seconds=min(0.02, max(0.0, until - time.monotonic())))

    def _look(self) -> None:
        """Begin a stall that is due, and end one whose time is over; know when Aider was started again."""
        if (started := self._starts()) > self._started:
            self._started, self._sent_at_start = started, self.sent
        if time.monotonic() >= self._continue_at:
            self._continue_at = float("inf")
            self._send(signal.SIGCONT)
        if self._stall_at_hidden is not None and self._hidden_runs() > self._stall_at_hidden[0]:
            seconds, self._stall_at_hidden = self._stall_at_hidden[1], None
            self._stall(seconds)

    def _stall(self, seconds: float) -> None:
        self._send(signal.SIGCONT)  # one stall at a time
        self._pid = self._aider_pid()
        self._send(signal.SIGSTOP)
        self._continue_at = time.monotonic() + seconds

    def _send(self, signum: int) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signum)
