"""The private Aider: an environment of its own, because Aider pins every dependency exactly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aider_guard.demo.commands import run_command
from aider_guard.demo.layout import AIDER_VERSION
from aider_guard.demo.pythons import choose_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aider_guard.demo.progress import Step


def install_aider(partial: Path, place: Path, step: Step) -> None:
    """Fill ``partial`` with a virtual environment that will work once it is moved to ``place``."""
    run_command([choose_python(), "-m", "venv", partial], step)
    pip(partial, step, "install", f"aider-chat=={AIDER_VERSION}")
    relocate(partial, place)


def pip(venv: Path, step: Step, *words: str | Path) -> None:
    """Run ``venv``'s own pip; the user's pip settings (index, proxy, timeouts) hold."""
    command = [venv / "bin" / "python", "-m", "pip", *words, "--progress-bar=off", "--no-input"]
    run_command(command, step, environ=_pip_environ(os.environ))


def _pip_environ(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def relocate(venv: Path, place: Path) -> None:
    """Write the name of ``place`` for that of ``venv``, its sibling, into the scripts and settings.

    The name of a folder that is being built is longer than its final name, so a first line that
    the kernel accepts (at most 127 bytes) stays one.
    """
    old, new = os.fsencode(venv.name), os.fsencode(place.name)
    for path in (*(venv / "bin").iterdir(), venv / "pyvenv.cfg"):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if old in content and b"\0" not in content:
            path.write_bytes(content.replace(old, new))
