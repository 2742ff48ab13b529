"""A long wait shows that it is alive, on a terminal and in a log."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from aider_guard.demo.progress import Progress


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_whole_lines_at_the_start_now_and_then_and_at_the_end() -> None:
    """Without a terminal: no control codes, a line each 15 seconds however often it ticks."""
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, live=False, clock=clock).step("Installing X") as step:
        for second in range(32):
            clock.now = 100.0 + second
            step.tick(f"file {second}")

    assert stream.getvalue() == (
        "Installing X ...\n  15 s: file 15\n  30 s: file 30\nInstalling X: done (31 s)\n"
    )


def test_a_terminal_gets_one_line_that_moves() -> None:
    """The line is redrawn in place, with the seconds and the last detail, and ends whole."""
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, live=True, clock=clock, columns=lambda: 80).step("Installing X") as step:
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
    progress = Progress(stream, live=True, clock=Clock(), columns=lambda: columns)
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
        Progress(stream, live=False, clock=Clock()).step("Installing X"),
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
