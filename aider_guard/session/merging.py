"""Appending what a session added to the user's own history files: in order, and once.

Before each append the place in the user's file is put on record, after it that it is done. A kill
between the two is settled by looking whether the bytes are there. The user's files are only ever
appended to, in one write each, so that another Aider may do the same at the same time.

A launch's folder holds ``chat.md`` and ``input``, the private files; ``seeds.json``, how many bytes
of each were there before Aider began; ``hidden.jsonl``, where hidden commands begin and end in
each; ``chat.merged`` and ``input.merged``, how far each was merged. ``histories.json`` in the
session's folder names the user's files.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("chat", "input")
FILE_NAMES = {"chat": "chat.md", "input": "input"}
USERS_FILE = "histories.json"
_BUSY = "another aider-guard is merging the histories"
_DONE_FILE = "histories.merged.json"
_SAID_FILE = "histories.problem"


def merge_session(folder: Path) -> tuple[str, ...]:
    """Append what all launches of one session added to the user's files, without hidden commands.

    It may run again at any time, also after a kill, and then goes on where it was. Returns what
    went wrong, in words for the user: all is still in the private files then, for a later merge.
    """
    problems: list[str] = []
    for _ in merge_steps(folder, problems):
        pass
    return tuple(problems)


def merge_leftovers(sessions: Path, is_alive: Callable[[Path], bool]) -> tuple[str, ...]:
    """Merge what killed sessions left behind, the oldest first.

    Args:
        sessions: The folder that holds a folder for each session.
        is_alive: Whether the session of such a folder still runs.

    Returns:
        What went wrong, in words for the user; what was said at an earlier start is not said again.
    """
    problems: list[str] = []
    left = sorted(sessions.glob(f"*/{USERS_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    for users in left:
        folder = users.parent
        if is_alive(folder):
            continue
        found = merge_session(folder)
        problems += _news(folder, found)
        if not found:
            users.rename(folder / _DONE_FILE)
    return tuple(problems)


def merge_steps(folder: Path, problems: list[str]) -> Iterator[str]:
    """As ``merge_session``, with a pause where a kill may come; problems are added to the list."""
    if not (folder / USERS_FILE).exists():
        return
    try:
        with _locked(folder):
            for kind, target in (read_json(folder / USERS_FILE) or {}).items():
                if target is not None:
                    yield from _merge_kind(folder, kind, Path(target), problems)
    except BlockingIOError:
        problems.append(_BUSY)
    except OSError as error:
        problems.append(f"the histories in {folder} were not merged: {error.strerror}")


def _merge_kind(folder: Path, kind: str, target: Path, problems: list[str]) -> Iterator[str]:
    kept = folder
    try:
        for launch in launches(folder):
            kept = launch / FILE_NAMES[kind]
            yield from _merge_launch(launch, kind, target)
    except OSError as error:
        # The later launches wait, so that the order stays.
        problems.append(f"cannot append to {target}: {error.strerror}; it is kept in {kept}")


def _merge_launch(launch: Path, kind: str, target: Path) -> Iterator[str]:
    data = (launch / FILE_NAMES[kind]).read_bytes()
    record = launch / f"{kind}.merged"
    progress = read_progress(launch, kind)
    if progress.end > progress.done:
        there = _already_there(data[progress.done : progress.end], target, progress.target_bytes)
        progress = _save(record, _Progress(progress.done + there))
        yield "settled"
    for start, end in visible_spans(launch, kind, progress.done, len(data)):
        with _appendable(target) as fd:
            size = os.fstat(fd).st_size
            _save(record, _Progress(start, end, size))
            yield "announced"
            _write_all(fd, data[start:end])
            yield "appended"
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)
        progress = _save(record, _Progress(end))
        yield "recorded"


@dataclass(frozen=True)
class _Progress:
    """Bytes before ``done`` are merged; those up to ``end`` are being put at ``target_bytes``."""

    done: int
    end: int = 0
    target_bytes: int = 0


def read_progress(launch: Path, kind: str) -> _Progress:
    """How far a private file was merged; before the first time, its seed counts as merged."""
    found = read_json(launch / f"{kind}.merged")
    if isinstance(found, list) and len(found) == 3:
        return _Progress(*found)
    return _Progress(read_json(launch / "seeds.json")[kind])


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


def _save(record: Path, progress: _Progress) -> _Progress:
    write_json(record, [progress.done, progress.end, progress.target_bytes])
    return progress


def _already_there(data: bytes, target: Path, size: int) -> int:
    """How much of an append that was cut short is in the file, which was ``size`` long before."""
    if not target.is_file():
        return 0
    with target.open("rb") as file:
        file.seek(size)
        tail = file.read()
    if data in tail:
        return len(data)
    # Only a write that was cut short leaves just a part. When in doubt, twice is better than never.
    return len(tail) if data.startswith(tail) else 0


@contextmanager
def _appendable(target: Path) -> Iterator[int]:
    # O_NONBLOCK: a FIFO that nobody reads is an error then, and no hang.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(target, flags, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from merging the same session; the kernel frees the lock of a killed one."""
    with (folder / "histories.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _news(folder: Path, problems: tuple[str, ...]) -> tuple[str, ...]:
    said = folder / _SAID_FILE
    text = "\n".join(problems)
    if not problems or problems == (_BUSY,) or (said.exists() and said.read_text() == text):
        return ()
    said.write_text(text)
    return problems
