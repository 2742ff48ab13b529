"""Which Python the private Aider gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aider_guard.demo.layout import RigError
from aider_guard.demo.pythons import choose_python, probe_version

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
