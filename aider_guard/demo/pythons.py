"""Which Python the private Aider gets: Aider 0.86.2 runs on 3.10, 3.11 and 3.12 only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.layout import AIDER_VERSION, RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SUITABLE = ((3, 12), (3, 11), (3, 10))
PROBE_TIMEOUT_SECONDS = 20.0
_PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:2])"


def choose_python(
    running: Path | None = None,
    search_path: str | None = None,
    version_of: Callable[[Path], tuple[int, int] | None] | None = None,
) -> Path:
    """Return the running interpreter if Aider runs on it, else the newest suitable one on PATH.

    Raises:
        RigError: there is none that can make a virtual environment.
    """
    first = running or Path(sys.executable)
    searched = os.environ.get("PATH", "") if search_path is None else search_path
    for candidate in (first, *_on_path(searched)):
        if (version_of or probe_version)(candidate) in SUITABLE:
            return candidate
    raise RigError(
        f"Aider {AIDER_VERSION} needs Python 3.10, 3.11 or 3.12 with its venv module, and none is "
        f"on PATH (this is Python {sys.version_info[0]}.{sys.version_info[1]}). Install one, on "
        "Debian for example `apt install python3.11 python3.11-venv`, and run this again."
    )


def probe_version(python: Path) -> tuple[int, int] | None:
    """Return the version of ``python``, or None if it does not run or cannot make environments.

    It is run because a name on PATH proves little: pyenv's shims exist for versions that are not
    active, and Debian ships Python without ensurepip.
    """
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def _on_path(search_path: str) -> Iterator[Path]:
    for major, minor in SUITABLE:
        yield from _executables(f"python{major}.{minor}", search_path.split(os.pathsep))


def _executables(name: str, folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        candidate = Path(folder) / name
        if folder and os.access(candidate, os.X_OK):
            yield candidate
