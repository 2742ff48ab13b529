"""A long wait shows that it is alive, on a terminal and in a log."""

from __future__ import annotations

import io
import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def unpulsed(
    stream: io.StringIO, *, live: bool, clock: Clock, columns: Callable[[], int] = lambda: 80
) -> Progress:
    """Progress that ticks only when the test calls for it."""
    return Progress(stream, live=live, clock=clock, columns=columns, pulse_seconds=None)


def test_a_log_gets_whole_lines_at_the_start_now_and_then_and_at_the_end() -> None:
    """Without a terminal: no control codes, a line each 4 seconds however often it ticks."""
    stream, clock = io.StringIO(), Clock()
    with unpulsed(stream, live=False, clock=clock).step("Installing X") as step:
        for second in range(10):
            clock.now = 100.0 + second
            step.tick(f"file {second}")

    assert stream.getvalue() == (
        "Installing X ...\n  4 s: file 4\n  8 s: file 8\nInstalling X: done (9 s)\n"
    )


class Timed(io.StringIO):
    """A stream that notes when something was written to it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.times: list[float] = []

    def write(self, text: str) -> int:
        self.times.append(self.clock.now)
        return len(text)


@pytest.mark.parametrize("live", [True, False])
def test_a_wait_is_never_silent_for_more_than_five_seconds(live: bool) -> None:
    """A minute that ticks ten times a second: no two signs of life are further apart."""
    clock = Clock()
    stream = Timed(clock)
    with unpulsed(stream, live=live, clock=clock).step("Installing X") as step:
        started = clock.now
        for _ in range(600):
            clock.now += 0.1
            step.tick()
    seen = [started, *stream.times, clock.now]

    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 5


def test_a_step_shows_that_it_is_alive_while_its_work_blocks() -> None:
    """Work that never ticks is reported all the same, and no more once the step has ended."""
    clock, reported = Clock(), threading.Event()

    class Signalling(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("  "):
                reported.set()
            return super().write(text)

    stream = Signalling()
    with Progress(stream, live=False, clock=clock, pulse_seconds=0.001).step("Unpacking"):
        clock.now += 5
        assert reported.wait(30)

    assert stream.getvalue() == "Unpacking ...\n  5 s\nUnpacking: done (5 s)\n"
    assert "progress" not in [thread.name for thread in threading.enumerate()]


def test_a_terminal_gets_one_line_that_moves() -> None:
    """The line is redrawn in place, with the seconds and the last detail, and ends whole."""
    stream, clock = io.StringIO(), Clock()
    with unpulsed(stream, live=True, clock=clock).step("Installing X") as step:
        step.tick("first")
        step.tick("too soon to be drawn")
        clock.now += 2.5
        step.tick()

    assert stream.getvalue() == (
        "\r\x1b[K| Installing X, 0 s  first"
        "\r\x1b[K/ Installing X, 2 s  too soon to be drawn"
        "\r\x1b[KInstalling X: done (2 s)\n"
    )


@pytest.mark.parametrize("columns", [1, 10, 20, 79])
def test_the_moving_line_never_wraps(columns: int) -> None:
    """A line as wide as the terminal would scroll it with each redraw."""
    stream = io.StringIO()
    progress = unpulsed(stream, live=True, clock=Clock(), columns=lambda: columns)
    with progress.step("A title longer than a small terminal") as step:
        step.tick("detail " * 20)
    moving = stream.getvalue().split("\r\x1b[K")[1]

    assert len(moving) <= max(columns - 1, 1)


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_the_last_line_says_how_it_ended(error: type[BaseException], said: str) -> None:
    """A step that does not succeed is not called done, and the error passes through."""
    stream = io.StringIO()
    with (
        pytest.raises(error),
        unpulsed(stream, live=False, clock=Clock()).step("Installing X"),
    ):
        raise error

    assert stream.getvalue().endswith(f"Installing X: {said} (0 s)\n")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "stream", "redraws"),
    [
        ("xterm-256color", Terminal(), True),
        ("dumb", Terminal(), False),
        ("xterm-256color", io.StringIO(), False),
    ],
)
def test_it_finds_out_whether_a_line_can_be_redrawn(
    monkeypatch: pytest.MonkeyPatch, term: str, stream: io.StringIO, redraws: bool
) -> None:
    """Only a terminal that knows cursor movement gets control codes."""
    monkeypatch.setenv("TERM", term)
    with Progress(stream).step("Installing X"):
        pass

    assert ("\x1b" in stream.getvalue()) == redraws
