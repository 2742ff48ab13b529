"""A failing program is quoted; a running one feeds the progress line."""

from __future__ import annotations

import io
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo.commands import LAST_LINES, run_command
from aider_guard.demo.layout import RigError
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aider_guard.demo.progress import Step


@pytest.fixture
def step() -> Iterator[Step]:
    """A step that nobody looks at."""
    with Progress(io.StringIO(), live=False).step("A step") as one:
        yield one


def python(program: str) -> list[str]:
    """Return the command line of a small program."""
    return [sys.executable, "-c", program]


def test_the_last_line_becomes_the_detail(step: Step) -> None:
    """What the program printed last is what the progress line shows, without control characters."""
    run_command(python("print('first'); print('\\x1b[1mlast\\x1b[0m')"), step)

    assert step.detail == "[1mlast [0m"


def test_a_line_counts_although_it_comes_in_pieces(step: Step) -> None:
    """Output is cut at newlines, not at what one read brings."""
    program = (
        "import sys,time\nfor p in ('one ', 'line\\n'): sys.stdout.write(p); sys.stdout.flush()"
    )
    run_command(python(program), step)

    assert step.detail == "one line"


def test_a_failure_names_the_command_and_its_last_words(step: Step) -> None:
    """The error holds command, status and the last lines, also an unfinished one; not all."""
    program = "for n in range(50): print('line', n)\nraise SystemExit('no space')"
    with pytest.raises(RigError) as caught:
        run_command(python(program), step)
    lines = str(caught.value).splitlines()

    assert "ended with status 1. Its last lines:" in str(caught.value)
    assert str(caught.value).startswith(f"`{shlex.quote(sys.executable)} -c ")
    assert lines[-2:] == ["  line 49", "  no space"]
    assert sum(line.startswith("  ") for line in lines) == LAST_LINES


def test_a_signal_is_called_one(step: Step) -> None:
    """A program that was killed (out of memory, for example) has no status."""
    with pytest.raises(RigError, match=r"was ended by signal 9\.$"):
        run_command(python("import os; os.kill(os.getpid(), 9)"), step)


def test_a_program_that_is_not_there_is_named(step: Step, tmp_path: Path) -> None:
    """The sentence holds the path and the system's reason."""
    with pytest.raises(RigError, match=r"Cannot run .*/nothing: No such file or directory"):
        run_command([tmp_path / "nothing"], step)


def test_nothing_is_read_from_the_terminal(step: Step) -> None:
    """An installer that would ask gets the end of the input instead of waiting unseen."""
    run_command(python("import sys; print(repr(sys.stdin.read()))"), step)

    assert step.detail == "''"


def test_interrupting_ends_the_program(step: Step, tmp_path: Path) -> None:
    """What interrupts the wait ends the program too: its folder is about to be removed."""
    late = tmp_path / "late"

    class CtrlCError(BaseException):
        """Stands for Ctrl-C."""

    def tick(detail: str = "") -> None:
        if detail:
            raise CtrlCError

    step.tick = tick  # type: ignore[method-assign]  # the seam where Ctrl-C arrives
    program = (
        f"import sys,time; print('ready', flush=True); time.sleep(60); open({str(late)!r}, 'w')"
    )
    with pytest.raises(CtrlCError):
        run_command(python(program), step)

    assert not late.exists()
