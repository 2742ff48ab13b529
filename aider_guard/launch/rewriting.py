"""Giving files new content, all at once or not at all, with a copy of what was there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from aider_guard.core.readings import Unavailable


@dataclass(frozen=True)
class Change:
    """A file's new content; ``old`` is what it was made from, None for a file that was not there."""

    path: Path
    old: bytes | None
    new: bytes


@dataclass(frozen=True)
class Replaced:
    """A file that has its new content; ``backup`` holds the old, None for a new file."""

    path: Path
    backup: Path | None


def read_file(path: Path) -> bytes | Unavailable | None:
    """A file's content, None when there is none; a link is followed."""
    try:
        if path.exists() and not path.is_file():
            return Unavailable(f"{path} is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unavailable(f"{path} cannot be read ({(error.strerror or str(error)).lower()})")


def replace_files(changes: Sequence[Change]) -> tuple[Replaced, ...] | Unavailable:
    """Write all files, or none when one cannot be written; backups never replace a file.

    Everything is on the disk before the first file is renamed into its place. A file that is a link stays one: what
    it leads to is replaced. The mode is kept.
    """
    done: list[Replaced] = []
    with ExitStack() as undo:
        try:
            staged = [(own := undo.enter_context(ExitStack()), *_stage(c, own)) for c in changes]
            for own, temporary, replaced in staged:
                temporary.replace(replaced.path)
                own.pop_all()  # its backup stays
                done.append(replaced)
        except OSError as error:
            said = error.strerror.lower() if error.strerror else str(error)
            names = ", ".join(str(replaced.path) for replaced in done)
            written = f"only {names} was written" if done else "nothing was written"
            return Unavailable(
                f"{f'{error.filename}: ' if error.filename else ''}{said}; {written}"
            )
    return tuple(done)


def _stage(change: Change, undo: ExitStack) -> tuple[Path, Replaced]:
    """The new content in a file beside its place, and the backup. Raises OSError."""
    place = Path(os.path.realpath(change.path))
    mode = None if change.old is None else stat.S_IMODE(place.stat().st_mode)
    if change.old is not None and place.read_bytes() != change.old:
        raise OSError(f"{change.path} was changed by another program meanwhile")
    if change.old is None and place.exists():
        raise OSError(f"{change.path} was made by another program meanwhile")
    backup = None
    if change.old is not None:
        backup = _first_free(place, ".bak", change.old, mode, undo)
    temporary = _first_free(place, ".new", change.new, mode, undo)
    return temporary, Replaced(place, backup)


def _first_free(
    place: Path, suffix: str, content: bytes, mode: int | None, undo: ExitStack
) -> Path:
    for number in count():
        path = place.with_name(f"{place.name}{suffix}{f'.{number}' if number else ''}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode or 0o666)
        except FileExistsError:
            continue
        undo.callback(_forget, path)
        _fill(descriptor, path, content, mode)
        return path
    raise AssertionError("count() does not end")


def _fill(descriptor: int, path: Path, content: bytes, mode: int | None) -> None:
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:  # a full disk's error names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # renamed into its place, or on a disk that takes nothing
        path.unlink()
