"""Names the guard's own files, which no program inside may change: what it is made of, keeps, and starts outside.

A program inside runs as the guard's own user. Could it write these files, it would change what the guard, or the next
one, runs outside.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from aider_guard import paths

STARTED: Final = ("journalctl", "docker", "podman")
"""The programs that the guard looks for on PATH and starts outside."""


def files_of_command(words: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that a command of the user's names: its program, and those of complete paths."""
    program = shutil.which(words[0], path=environment.get("PATH")) if words else None
    named = [os.path.abspath(program or ""), *filter(os.path.isabs, words[1:])]
    return tuple(filter(os.path.isfile, named))


def own_files(
    environment: Mapping[str, str], folder: str, started: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the real paths of the guard's files and folders that this user may change, none below another one.

    *started* are other files that it starts. What contains the working *folder* is left out, and the package in its
    work tree: a user who works on the guard itself changes it.
    """
    found = {os.path.realpath(path) for path in _all(environment) if os.path.exists(path)}
    found |= set(map(os.path.realpath, started))
    here = os.path.realpath(folder)
    package = Path(__file__).resolve().parents[1]
    tree = paths.work_tree(Path(here))
    if tree is None or tree not in package.parents:
        found.add(str(package))
    changed = (path for path in sorted(found) if not f"{here}/".startswith(f"{path}/"))
    chosen: list[str] = []
    for path in filter(_may_change, changed):
        if not any(path.startswith(above + "/") for above in chosen):
            chosen.append(path)
    return tuple(chosen)


def movable_folders(path: str) -> list[str]:
    """Return the folders above a path that this user may rename, the uppermost first."""
    above = [str(folder) for folder in reversed(Path(path).parents)][1:]
    return [folder for folder in above if os.access(os.path.dirname(folder), os.W_OK)]


def _may_change(path: str) -> bool:
    return os.access(path, os.W_OK) or bool(movable_folders(path))


def _all(environment: Mapping[str, str]) -> Iterator[str]:
    if sys.prefix != sys.base_prefix:
        yield sys.prefix
    yield os.path.dirname(os.__file__)  # the standard library
    yield from (sys.executable, getattr(sys, "_base_executable", sys.executable))
    yield from glob.iglob(f"{glob.escape(sys.base_prefix)}/lib/libpython*")  # noqa: PTH207  # texts
    yield from (one for one in sys.path if one.endswith(("site-packages", "dist-packages")))
    yield str(paths.state_dir(environment))
    yield str(paths.vocabularies_dir(environment).parent)
    yield str(paths.user_config_file().parent)
    for name in STARTED:
        if program := shutil.which(name, path=environment.get("PATH")):
            yield program
