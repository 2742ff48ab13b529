"""A part is built beside its place and moved there when it is complete.

So a folder with the part's name is always a whole part: a broken download, Ctrl-C or a second
guard that builds the same part at the same time cannot leave half of one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.layout import RigError
from aider_guard.demo.locks import locked, part_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aider_guard.demo.progress import Step

    Build = Callable[[Path, Step], None]


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
