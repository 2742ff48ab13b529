"""What `make` does on a fresh checkout, as it says itself when it only pretends to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def outside_make() -> dict[str, str]:
    """The environment without what the make that runs these tests set for its own children."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def pretend(folder: Path, target: str) -> str:
    """Return the commands that ``make`` would run for ``target`` in a folder without ``.venv``."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(
        ["make", "--dry-run", target],
        cwd=folder,
        env=outside_make(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("target", ["demo", "rig", "e2e", "test", "bench"])
def test_the_machine_is_checked_before_anything_is_downloaded(tmp_path: Path, target: str) -> None:
    """What installs the private programs looks for what they need before it calls pip."""
    commands = pretend(tmp_path, target)

    assert 0 < commands.index("aider_guard.demo.machine") < commands.index("-m pip install")


@pytest.mark.parametrize("target", ["lint", "types", "unit"])
def test_what_needs_no_model_needs_no_compiler(tmp_path: Path, target: str) -> None:
    """Where the private programs cannot run, the other checks can."""
    assert "aider_guard.demo.machine" not in pretend(tmp_path, target)


@pytest.mark.parametrize(
    ("target", "groups"),
    [
        *((target, False) for target in ("demo", "rig")),
        *((target, True) for target in ("venv", "lint", "types", "unit", "e2e", "test", "bench")),
    ],
)
def test_the_demo_installs_the_package_only(tmp_path: Path, target: str, groups: bool) -> None:
    """What lint, types and tests need is installed for them, after the package."""
    commands = pretend(tmp_path, target)

    assert "--editable ." in commands
    assert ("--group test" in commands) == groups
    assert ("--group lint" in commands) == groups


def test_a_silent_program_shows_that_it_is_alive_and_its_failure_counts(tmp_path: Path) -> None:
    """Dots while it runs, its status at the end, and the dots' process ends with it."""
    text = (ROOT / "Makefile").read_text()
    start, end = text.index("define alive"), text.index("endef") + len("endef")
    waits = "read -r line < pipe; false"
    (tmp_path / "Makefile").write_text(
        f"{text[start:end]}\nall:\n\t@$(call alive,Waiting,{waits})\n"
    )
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(
        ["make"], cwd=tmp_path, env=outside_make(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as make:
        assert make.stdout is not None
        said = make.stdout.read(len("Waiting .."))
        (tmp_path / "pipe").write_text("go on\n")
        rest = make.stdout.read()

    assert said == b"Waiting .."
    assert rest.strip(b".") == b"\n"
    assert make.returncode == 2
