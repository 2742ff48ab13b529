"""Installs each part of the rig whole, and holds the locks of the cache folder.

A part is built beside its place and moved there when it is complete. So a folder with the part's name is always a
whole part: a broken download, Ctrl-C or a second guard that builds the same part at the same time cannot leave half
of one.

Locks are files that the kernel unlocks when the process that holds them ends. Each part has one, held while it is
built; one more is shared by every demo and every installation. `removal` takes the files away while it holds them, so
a lock counts only while its file is there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.layout import RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aider_guard.demo.progress import Step

    Build = Callable[[Path, Step], None]

RETRY_SECONDS = 0.2
DEMO_LOCK = ".demo.lock"


class LockHeldError(Exception):
    """Another process holds the lock."""


def part_lock(place: Path) -> Path:
    """Return the lock of the part that is, or will be, in ``place``."""
    return place.with_name(f".{place.name}.lock")


@contextmanager
def locked(
    path: Path, *, shared: bool = False, while_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock on ``path``, alone or with others that share it.

    ``while_waiting`` is called a few times a second for as long as another process holds it.

    Raises:
        LockHeldError: another process holds it, and there is no ``while_waiting``.
        OSError: the file cannot be made, or is a link.
    """
    while (descriptor := _try_lock(path, shared=shared)) is None:
        if while_waiting is None:
            raise LockHeldError
        while_waiting()
        time.sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def demo_runs(cache: Path) -> Iterator[None]:
    """Keep what is in ``cache``, which is made if it is not there, from being removed. Raises RigError."""
    with ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(cache / DEMO_LOCK, shared=True))
        except LockHeldError as error:
            raise RigError("`aider-guard demo --remove` is at work; run this later.") from error
        except OSError as error:
            raise RigError(f"Cannot install into {cache}: {error}.") from error
        yield


def _try_lock(path: Path, *, shared: bool) -> int | None:
    """Return a descriptor that holds the lock, or None where another one does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # The open file may have been removed meanwhile, and another one may have its name.
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def ensure_part(place: Path, build: Build, step: Step) -> None:
    """Make sure that the folder ``place`` exists, as `build_once` does; ``step`` shows what goes on."""
    build_once(
        place,
        lambda partial: build(partial, step),
        lambda: step.tick("another process is installing it"),
    )


def build_once(
    place: Path, build: Callable[[Path], None], while_waiting: Callable[[], None]
) -> None:
    """Make sure that the folder ``place`` exists and is complete.

    ``build`` fills an empty folder on the same file system; ``while_waiting`` is called a few
    times a second while another process builds the same part.

    Raises:
        RigError: the cache folder cannot be written. What ``build`` raises passes through, and
        leaves nothing.
    """
    if place.is_dir():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(part_lock(place), while_waiting=while_waiting):
            if not place.is_dir():
                _build(place, build)
    except OSError as error:
        raise RigError(f"Cannot install into {place.parent}: {error}.") from error


def partial_folders(place: Path) -> Iterable[Path]:
    """Return what was being built into ``place``, or removed from it, and is not complete."""
    return place.parent.glob(f".{place.name}.*.partial")


def _build(place: Path, build: Callable[[Path], None]) -> None:
    for leftover in partial_folders(place):  # of a process that was killed: we hold its lock
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    try:
        build(folder)
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
