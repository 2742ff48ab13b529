"""Aider's environment: which Python it gets, how it is moved, and what its installers say."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo.install import (
    LAST_LINES,
    choose_python,
    probe_version,
    relocate,
    run_command,
)
from aider_guard.demo.layout import RigError
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.demo.progress import Step

RUNNING = Path("/running/python")


def executable(path: Path, content: str = "#!/bin/sh\nexit 127\n") -> Path:
    """Write a program that can be started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ((3, 10), "running"),
        ((3, 12), "running"),
        ((3, 13), "b/python3.12"),
        ((3, 9), "b/python3.12"),
        (None, "b/python3.12"),
    ],
)
def test_the_running_one_else_the_newest_that_works(
    tmp_path: Path, running: tuple[int, int] | None, expected: str
) -> None:
    """3.10 to 3.12 will do; a name on PATH that does not run (pyenv's shims) is passed over."""
    works = {RUNNING: running}
    for name, version in (
        ("a/python3.12", None),
        ("a/python3.11", (3, 11)),
        ("b/python3.12", (3, 12)),
    ):
        works[executable(tmp_path / name)] = version
    search_path = os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")])

    chosen = choose_python(RUNNING, search_path, works.__getitem__)

    assert chosen == (RUNNING if expected == "running" else tmp_path / expected)


def test_none_is_said_with_what_would_do(tmp_path: Path) -> None:
    """The sentence names the versions, and what to do."""
    executable(tmp_path / "python3.12")
    with pytest.raises(
        RigError, match=r"needs Python 3\.10, 3\.11 or 3\.12 .* Install one"
    ) as caught:
        choose_python(RUNNING, str(tmp_path), lambda _: None)

    assert caught.value.exit_code == 78


def test_a_python_is_asked_by_running_it(tmp_path: Path) -> None:
    """This interpreter tells its version; a failing program and a missing one tell none."""
    assert probe_version(Path(sys.executable)) == sys.version_info[:2]
    assert probe_version(executable(tmp_path / "python3.12")) is None
    assert probe_version(tmp_path / "nothing") is None


def test_a_moved_environment_names_its_new_place(tmp_path: Path) -> None:
    """Scripts and settings are rewritten; links and binaries are left alone."""
    old, new = tmp_path / ".aider.x1.partial", tmp_path / "aider"
    (old / "bin").mkdir(parents=True)
    (old / "bin" / "tool").write_text(f"#!{old}/bin/python\n# {old}\n")
    (old / "bin" / "binary").write_bytes(b"\0" + os.fsencode(old))
    (old / "bin" / "python").symlink_to("/usr/bin/env")
    (old / "pyvenv.cfg").write_text(f"command = python -m venv {old}\n")
    relocate(old, new)

    assert (old / "bin" / "tool").read_text() == f"#!{new}/bin/python\n# {new}\n"
    assert (old / "bin" / "binary").read_bytes() == b"\0" + os.fsencode(old)
    assert (old / "bin" / "python").is_symlink()
    assert (old / "pyvenv.cfg").read_text() == f"command = python -m venv {new}\n"


@pytest.fixture
def step() -> Iterator[Step]:
    """A step that reports to no terminal."""
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
