"""The guard's own files inside the network namespace: no program changes them, nor puts others in their place."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from airgap.layers import best_of, only
from airgap.seccomp_world import World

import aider_guard
from aider_guard.airgap.choose import LayerSelection
from aider_guard.airgap.own_files import movable_folders, own_files
from aider_guard.airgap.served import choose
from aider_guard.config import Config
from aider_guard.loop import Loop

netns = pytest.mark.skipif(
    best_of("netns").layer != "netns", reason="this system allows no network namespaces"
)
TRIES = """
import subprocess
path, folder, outside = arguments
def write(path):
    open(path, "ab").close()
copy = f"{outside}/copy"
tell([
    error_of(write, path), error_of(write, f"{folder}/new"), error_of(os.unlink, path),
    error_of(os.rename, path, copy), error_of(os.link, path, copy), error_of(os.chmod, path, 0o777),
    error_of(os.rename, folder, copy), error_of(os.rename, os.path.dirname(folder), os.path.dirname(folder) + "2"),
    subprocess.run(["unshare", "-Urm", "sh", "-c", 'umount -l "$1"; mount -o remount,rw,bind "$1"; : >> "$2"',
                    "sh", folder, path], stderr=subprocess.DEVNULL).returncode,
])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a state folder of the guard's, in which the user works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "state" / "sessions" / "now").mkdir(parents=True)
    (tmp_path / "home" / "state" / "learned.json").write_text("{}")
    return tmp_path / "home"


def run(
    code: str,
    arguments: object,
    home: Path,
    environment: Mapping[str, str],
    started: Sequence[str] = (),
) -> object:
    """What a program tells, inside a namespace for a user with this home and a session that runs now."""
    now = str(home / "state" / "sessions" / "now")
    variables = {
        "HOME": str(home),
        "AIDER_GUARD_STATE_DIR": str(home / "state"),
        **environment,
    }
    with only("netns"), LayerSelection((), variables, writable=[now], started=started) as selection:
        gap = selection.finish()
    with Loop() as loop:
        here = World(gap, loop)  # type: ignore[arg-type]  # a netns gap
        gap.watch(loop, here.attempts.append)
        try:
            return here.run(code, arguments)
        finally:
            gap.close()


@netns
def test_what_the_guard_keeps_is_read_only(home: Path) -> None:
    """But for the session that runs now; and no folder above is moved, so that none takes its place."""
    state = home / "state"
    shown = run(TRIES, [str(state / "learned.json"), str(state), str(home)], home, {})

    assert shown == [*["EROFS"] * 3, *["EXDEV"] * 2, "EROFS", "EBUSY", "EBUSY", 2]
    code = 'tell(error_of(open, arguments, "w"))'
    assert run(code, str(state / "sessions" / "now" / "launch"), home, {}) == ""
    assert run(code, str(state / "sessions" / "later"), home, {}) == "EROFS"
    assert run(code, str(home / "own file"), home, {}) == ""


@netns
def test_what_the_guard_is_made_of_is_read_only(home: Path) -> None:
    """Its package, its libraries and the interpreter, where this user may change them at all."""
    code = "tell([error_of(os.open, path, os.O_WRONLY) for path in arguments])"
    import psutil

    paths = [aider_guard.__file__, psutil.__file__, os.__file__]
    writable = [path for path in paths if os.access(path, os.W_OK)]
    assert run(code, writable, home, {}) == ["EROFS"] * len(writable)


@netns
def test_a_program_that_the_guard_starts_is_read_only(home: Path) -> None:
    """Also in the user's own folder of programs."""
    tools = home / "bin"
    tools.mkdir()
    (tools / "podman").write_text("#!/bin/sh\n")
    (tools / "podman").chmod(0o755)
    code = 'tell([error_of(open, arguments, "w"), error_of(os.unlink, arguments)])'
    shown = run(code, str(tools / "podman"), home, {"PATH": f"{tools}:/usr/bin:/bin"})
    assert shown == ["EROFS", "EBUSY"]
    (tools / "ring").write_text("")
    (tools / "ring").chmod(0o755)
    environment = {"PATH": str(tools)}
    settings = Config(notify_after=1, notify_command="ring now")
    assert choose(settings, environment).started == (str(tools / "ring"),)
    assert choose(replace(settings, notify_after=0), environment).started == ()
    assert run(code, str(tools / "ring"), home, {}, [str(tools / "ring")]) == ["EROFS", "EBUSY"]


@netns
@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_work_goes_on(home: Path) -> None:
    """git, a virtual environment and files at home work as outside."""
    code = """
import subprocess
os.chdir(arguments[0])
steps = ["git init -q work", "git -C work -c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
         f"{arguments[1]} -m venv --without-pip work/venv", "work/venv/bin/python -c 1",
         "echo x > ~/.aider.input.history", "mkdir -p ~/.cache/a && mv ~/.cache/a ~/.cache/b", "mv work other"]
tell([subprocess.run(step, shell=True, env={**os.environ, "HOME": arguments[0]}).returncode for step in steps])
"""
    assert run(code, [str(home), sys.executable], home, {}) == [0] * 7


def test_whose_files_they_are(tmp_path: Path) -> None:
    """None lies below another; a user who works on the guard itself may change it."""
    package = str(Path(aider_guard.__file__).parent)
    found = own_files({"AIDER_GUARD_STATE_DIR": str(tmp_path)}, "/")
    assert str(tmp_path) in found
    assert not [one for one in found for other in found if one.startswith(f"{other}/")]
    project = str(Path(package).parent)
    assert package not in {*own_files({}, package), *own_files({}, project)}
    may_change = os.access(package, os.W_OK) or bool(movable_folders(package))
    assert (package in own_files({}, "/")) == may_change
    assert movable_folders(str(tmp_path))[-1] == str(tmp_path.parent)
