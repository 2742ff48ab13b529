"""What is on record of a session's private history files, in the folder of each launch.

``chat.md`` and ``input`` are the private files; ``seeds.json`` tells how many bytes of each were there
before Aider began; ``hidden.jsonl`` where hidden commands begin and end in each; ``chat.merged`` and
``input.merged`` how far each was merged. ``histories.json`` in the session's folder names the user's
files.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("chat", "input")
FILE_NAMES = {"chat": "chat.md", "input": "input"}
USERS_FILE = "histories.json"


@dataclass(frozen=True)
class Progress:
    """Bytes before ``done`` are merged; those up to ``end`` are being put at ``target_bytes``."""

    done: int
    end: int = 0
    target_bytes: int = 0


def read_progress(launch: Path, kind: str) -> Progress:
    """How far a private file was merged; before the first time, its seed counts as merged."""
    found = read_json(launch / f"{kind}.merged")
    if isinstance(found, list) and len(found) == 3:
        return Progress(*found)
    return Progress(read_json(launch / "seeds.json")[kind])


def visible_spans(launch: Path, kind: str, start: int, size: int) -> list[tuple[int, int]]:
    """The byte ranges from ``start`` to ``size`` that belong to no hidden command."""
    spans = []
    for begin, end in _hidden(launch, KINDS.index(kind)):
        spans.append((start, min(begin, size)))
        start = max(start, size if end is None else end)
    spans.append((start, size))
    return [(begin, end) for begin, end in spans if begin < end]


def _hidden(launch: Path, column: int) -> Iterator[tuple[int, int | None]]:
    begin: int | None = None
    for mark, sizes in _marks(launch):
        if mark == "begin" and begin is None:
            begin = sizes[column]
        elif mark == "end" and begin is not None:
            yield begin, sizes[column]
            begin = None
    if begin is not None:
        yield begin, None


def _marks(launch: Path) -> Iterator[tuple[str, list[int]]]:
    path = launch / "hidden.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            mark, sizes = json.loads(line)
        except ValueError:
            continue  # cut short by a kill: what it announced was not sent
        yield mark, sizes


def launches(folder: Path) -> list[Path]:
    """The folders of a session's launches that began, in order."""
    begun = (path.parent for path in folder.glob("launch-*/seeds.json"))
    return sorted(begun, key=lambda launch: int(launch.name.rpartition("-")[2]))


def read_json(path: Path) -> Any:
    """What a file of ours holds, or None if it is not there. They are written whole or not."""
    return json.loads(path.read_bytes()) if path.exists() else None


def write_json(path: Path, value: object) -> None:
    """Write a file of ours so that a kill leaves the old or the new one. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(json.dumps(value).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def save_progress(launch: Path, kind: str, progress: Progress) -> Progress:
    """Put on record how far a private file was merged. Raises OSError."""
    write_json(launch / f"{kind}.merged", [progress.done, progress.end, progress.target_bytes])
    return progress


def save_mark(launch: Path, mark: Literal["begin", "end"]) -> None:
    """Put on record that a hidden command begins or ends at the present ends of both files. Raises OSError."""
    sizes = [(launch / FILE_NAMES[kind]).stat().st_size for kind in KINDS]
    # A line that was cut short must not spoil the next one.
    line = f"\n{json.dumps([mark, sizes])}\n".encode("ascii")
    with (launch / "hidden.jsonl").open("ab", buffering=0) as file:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
