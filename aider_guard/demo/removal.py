"""``aider-guard demo --remove``: take away what the demo installed and left, and nothing else.

In the cache folder these are the parts, by their names, with their locks and unfinished builds. The
sample repositories lie elsewhere, so each is noted in the cache folder when it is made. A link is
never followed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.layout import PART_FOLDERS, RigError, cache_folder
from aider_guard.demo.parts import DEMO_LOCK, LockHeldError, locked, part_lock, partial_folders
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from aider_guard.demo.progress import Step

SAMPLE_PREFIX = "aider-guard-demo-"
SAMPLES_FILE = "demo-samples.jsonl"
MEGABYTE = 1_000_000


def note_sample(cache: Path, folder: Path) -> None:
    """Write down in ``cache`` that ``folder``, named with `SAMPLE_PREFIX`, is the demo's. Raises RigError."""
    line = json.dumps(str(folder.resolve())) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(cache / SAMPLES_FILE, flags, 0o600), "w") as file:
            file.write(line)
    except OSError as error:
        raise RigError(f"Cannot write in {cache}: {error}.") from error


def run_removal(
    cache: Path | None = None, out: TextIO | None = None, progress: Progress | None = None
) -> int:
    """Remove what the demo installed and left, say what and how many MB, and return 0.

    Raises:
        RigError: a demo runs, or a part is being installed, and nothing was removed; or the system
        forbids it, and what was removed before is said.
    """
    folder = cache or cache_folder()
    removed: list[tuple[Path, int]] = []
    try:
        # Whether anything of the demo's is there, if only a lock or an unfinished build.
        named = (folder / SAMPLES_FILE, *_locks(folder), *_places(folder))
        unfinished = (path for place in _places(folder) for path in partial_folders(place))
        if any(map(os.path.lexists, (*named, *unfinished))):
            with ExitStack() as held:
                for path in _locks(folder):
                    held.enter_context(locked(path))
                with (progress or Progress()).step("Removing what the demo installed") as step:
                    _remove_all(folder, removed, step)
    except LockHeldError as error:
        raise RigError(
            "A demo is running, or its programs are being installed; end that first, then run this again."
        ) from error
    except OSError as error:
        raise RigError(f"Cannot remove all that the demo installed: {error}.") from error
    finally:
        report = _report(folder, removed)
        (out or sys.stdout).write(report)
    if not report:
        (out or sys.stdout).write("nothing to remove\n")
    return 0


def _report(cache: Path, removed: list[tuple[Path, int]]) -> str:
    lines = [f"Removed {path} ({_megabytes(size)})" for path, size in removed]
    if removed:
        lines.append(f"{_megabytes(sum(size for _, size in removed))} in all")
    kept = [path for path in _places(cache) if os.path.lexists(path) and not _is_folder(path)]
    lines += [f"Left alone: {path} (a link, or not a folder of yours)" for path in kept]
    return "".join(f"{line}\n" for line in lines)


def _locks(cache: Path) -> list[Path]:
    """Return every lock: while all are held, no demo uses and no process builds what is removed."""
    return [cache / DEMO_LOCK, *(part_lock(place) for place in _places(cache))]


def _remove_all(cache: Path, removed: list[tuple[Path, int]], step: Step) -> None:
    for folder in _samples(cache / SAMPLES_FILE):
        _remove(folder, folder, removed, step)
    for place in _places(cache):
        for path in (*partial_folders(place), place):
            if _is_folder(path):
                gone = place.with_name(f".{place.name}.{os.getpid()}.partial")
                _remove(path, gone if path == place else path, removed, step)
    for path in (cache / SAMPLES_FILE, *_locks(cache)):
        path.unlink(missing_ok=True)


def _remove(path: Path, gone: Path, removed: list[tuple[Path, int]], step: Step) -> None:
    """Remove a folder, first renamed to ``gone``: an interruption leaves no half of a part."""
    step.tick(str(path))
    blocks: dict[tuple[int, int], int] = {}  # on disk: a file with several names here counts once
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(parent, name))
            blocks[status.st_dev, status.st_ino] = status.st_blocks
    path.rename(gone)
    shutil.rmtree(gone)
    removed.append((path, 512 * sum(blocks.values())))


def _places(cache: Path) -> list[Path]:
    return [cache / name for name in PART_FOLDERS]


def _samples(notes: Path) -> Iterator[Path]:
    """Yield the noted folders that are there; what else the file may hold is passed over.

    A folder is the demo's if its name says so, it belongs to this user, and no link leads to it.
    """
    try:
        with os.fdopen(os.open(notes, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:  # ELOOP: a link, which is not followed
            return
        raise
    for line in dict.fromkeys(lines):
        try:
            text = json.loads(line)
            is_real = isinstance(text, str) and os.path.realpath(text) == text  # absolute, no link
            folder = Path(text) if is_real else Path()
            is_sample = folder.name.startswith(SAMPLE_PREFIX) and _is_folder(folder)
        except (OSError, ValueError, RecursionError):
            continue  # not a line of ours: not JSON, or a name that no folder can have
        if is_sample:
            yield folder


def _is_folder(path: Path) -> bool:
    """Return whether this is a folder of this user's, and no link to one."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB" if size >= 10 * MEGABYTE else f"{size / MEGABYTE:.1f} MB"
