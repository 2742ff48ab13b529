"""A part is in its place whole or not at all, by which process it is built and however that ends."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo.layout import RigError
from aider_guard.demo.parts import build_once

if TYPE_CHECKING:
    from pathlib import Path


def build(partial: Path) -> None:
    """A part of two files."""
    (partial / "one").write_text("1")
    (partial / "two").write_text("2")


def no_wait() -> None:
    """Called when another process holds the lock."""
    pytest.fail("no other process builds this part")


def visible(folder: Path) -> list[str]:
    """Return the names in ``folder`` that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_part_is_built_once(tmp_path: Path) -> None:
    """A part that is there is not built again."""
    place = tmp_path / "cache" / "part-1.0"
    build_once(place, build, no_wait)
    build_once(place, lambda partial: pytest.fail(f"built again in {partial}"), no_wait)

    assert visible(place) == ["one", "two"]
    assert visible(place.parent) == ["part-1.0"]


@pytest.mark.parametrize("error", [RigError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """A broken download or Ctrl-C: no part, no leftovers, and the next try succeeds."""

    def fail(partial: Path) -> None:
        build(partial)
        raise error

    with pytest.raises(error):
        build_once(tmp_path / "part", fail, no_wait)
    after_failure = visible(tmp_path)
    build_once(tmp_path / "part", build, no_wait)

    assert after_failure == []
    assert visible(tmp_path) == ["part"]


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    """The next build clears up, and only after its own part."""
    program = (
        "import os, sys; from pathlib import Path; from aider_guard.demo.parts import build_once\n"
        "build_once(Path(sys.argv[1]), lambda partial: os.kill(os.getpid(), 9), lambda: None)"
    )
    for name in ("part", "part-2"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=False)
    left = visible(tmp_path)
    build_once(tmp_path / "part", build, no_wait)

    assert len(left) == 2
    assert [name.split(".")[1] for name in visible(tmp_path)[:1]] == ["part-2"]
    assert visible(tmp_path)[1:] == ["part"]


def test_a_second_process_waits_and_finds_it_done(tmp_path: Path) -> None:
    """While one builds, the other waits, says so, and does not build."""
    place, waited = tmp_path / "part", []
    program = (
        "import sys; from pathlib import Path; from aider_guard.demo.parts import build_once\n"
        "def build(partial):\n"
        "    print('building', flush=True); sys.stdin.readline()\n"
        "build_once(Path(sys.argv[1]), build, lambda: None)"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(place)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdout.readline()

        def let_first_finish() -> None:
            waited.append(place.is_dir())
            if len(waited) == 1:
                first.communicate("go on\n")

        build_once(place, lambda partial: pytest.fail(f"built in {partial}"), let_first_finish)

    assert waited[0] is False
    assert visible(tmp_path) == ["part"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The sentence names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RigError, match=r"Cannot install into .*/file/cache"):
        build_once(tmp_path / "file" / "cache" / "part", build, no_wait)
