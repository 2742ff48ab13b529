"""Appending what a session added to the user's own history files: in order, and once.

Before each append the place in the user's file is put on record, after it that it is done. A kill
between the two is settled by looking whether the bytes are there. The user's files are only ever
appended to, in one write, so that another Aider may do the same at the same time.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.session.history_records import (
    FILE_NAMES,
    USERS_FILE,
    Progress,
    launches,
    read_json,
    read_progress,
    save_progress,
    visible_spans,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

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
    for folder in sorted((path.parent for path in sessions.glob(f"*/{USERS_FILE}")), key=_age):
        if is_alive(folder):
            continue
        found = merge_session(folder)
        # Another start may be doing the same; and a full disk must not stop this one.
        with suppress(OSError):
            if not found:
                (folder / USERS_FILE).rename(folder / _DONE_FILE)
            found = _news(folder, found)
        problems += found
    return tuple(problems)


def merge_steps(folder: Path, problems: list[str]) -> Generator[str, None, None]:
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
    except (OSError, ValueError) as error:
        problems.append(f"the histories in {folder} were not merged: {error}")


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
    progress = read_progress(launch, kind)
    if progress.end > progress.done:
        spans = visible_spans(launch, kind, progress.done, progress.end)
        there = _already_there(_joined(data, spans), target, progress.target_bytes)
        progress = save_progress(launch, kind, Progress(_after(spans, there)))
        yield "settled"
    spans = visible_spans(launch, kind, progress.done, len(data))
    if not spans:
        return
    end = spans[-1][1]
    with _appendable(target) as fd:
        save_progress(launch, kind, Progress(progress.done, end, os.fstat(fd).st_size))
        yield "announced"
        _write_all(fd, _joined(data, spans))
        yield "appended"
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fsync(fd)
    save_progress(launch, kind, Progress(end))
    yield "recorded"


def _joined(data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(data[start:end] for start, end in spans)


def _after(spans: Sequence[tuple[int, int]], count: int) -> int:
    """The position behind the first ``count`` bytes of the spans."""
    for start, end in spans:
        if count <= end - start:
            return start + count
        count -= end - start
    return spans[-1][1]


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


def _age(folder: Path) -> int:
    try:
        return (folder / USERS_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def _news(folder: Path, problems: tuple[str, ...]) -> tuple[str, ...]:
    said = folder / _SAID_FILE
    text = "\n".join(problems)
    if not problems or problems == (_BUSY,) or (said.exists() and said.read_text() == text):
        return ()
    said.write_text(text)
    return problems
