"""Keeps private history files for Aider, and merges them into the user's own without the guard's hidden commands.

Each launch of Aider gets its own chat history, which begins with what it shall restore, and its own
input history, which begins with a copy of the user's. Where hidden commands begin and end in them
is put on record; the rest is appended to the user's own files at the end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aider_guard.airgap.own_files import own_files
from aider_guard.errors import LaunchError
from aider_guard.paths import belongs_to_user, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

# The files in the folder of each launch: ``chat.md`` and ``input`` are the private histories; ``seeds.json`` tells how
# many bytes of each were there before Aider began; ``hidden.jsonl`` where hidden commands begin and end in each;
# ``chat.merged`` and ``input.merged`` how far each was merged. ``histories.json`` in the session's folder names the
# user's files.

KINDS = ("chat", "input")
FILE_NAMES = {"chat": "chat.md", "input": "input"}
USERS_FILE = "histories.json"


@dataclass(frozen=True)
class MergeProgress:
    """Bytes before ``done`` are merged; those up to ``end`` are being put at ``target_bytes``."""

    done: int
    end: int = 0
    target_bytes: int = 0


def read_progress(launch: Path, kind: str) -> MergeProgress:
    """Return how far a private file was merged; before the first time, its seed counts as merged."""
    progress = read_json(launch / f"{kind}.merged")
    if isinstance(progress, list) and len(progress) == 3:
        return MergeProgress(*progress)
    return MergeProgress(read_json(launch / "seeds.json")[kind])


def visible_spans(launch: Path, kind: str, start: int, size: int) -> list[tuple[int, int]]:
    """Return the byte ranges from ``start`` to ``size`` that belong to no hidden command."""
    spans = []
    for begin, end in _hidden(launch, KINDS.index(kind)):
        spans.append((start, min(begin, size)))
        start = max(start, size if end is None else end)
    spans.append((start, size))
    return [(begin, end) for begin, end in spans if begin < end]


def _hidden(launch: Path, column: int) -> Iterator[tuple[int, int | None]]:
    path = launch / "hidden.jsonl"
    begin: int | None = None
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            mark, sizes = json.loads(line)
        except ValueError:
            continue  # cut short by a kill: what it announced was not sent
        if mark == "begin" and begin is None:
            begin = sizes[column]
        elif mark == "end" and begin is not None:
            yield begin, sizes[column]
            begin = None
    if begin is not None:
        yield begin, None


def launches(folder: Path) -> list[Path]:
    """Return the folders of a session's launches that began, in order."""
    folders = (path.parent for path in folder.glob("launch-*/seeds.json"))
    return sorted(folders, key=lambda launch: int(launch.name.rpartition("-")[2]))


def read_json(path: Path) -> Any:
    """Return what a file of ours holds, or None if it is not there. They are written whole or not."""
    return json.loads(path.read_bytes()) if path.exists() else None


def write_json(path: Path, value: object) -> None:
    """Write a file of ours so that a kill leaves the old or the new one. Raises OSError."""
    replace_file(path, json.dumps(value).encode("ascii"), sync=True)


def save_progress(launch: Path, kind: str, progress: MergeProgress) -> MergeProgress:
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


# Appending what a session added to the user's own history files: in order, and once.
#
# Before each append the place in the user's file is put on record, after it that it is done. A kill
# between the two is settled by looking whether the bytes are there. The user's files are only ever
# appended to, in one write, so that another Aider may do the same at the same time.

_BUSY = "another aider-guard is merging the histories"
_DONE_FILE = "histories.merged.json"
_PROBLEM_FILE = "histories.problem"


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
        What went wrong, in words for the user, without what was reported at an earlier start.
    """
    problems: list[str] = []
    written_at: dict[Path, int] = {}
    for path in sessions.glob(f"*/{USERS_FILE}"):
        with suppress(OSError):  # merged meanwhile by another start
            status = path.lstat()
            if (
                belongs_to_user(status)
                and belongs_to_user(path.parent.lstat())
                and not path.parent.is_symlink()
            ):
                written_at[path.parent] = status.st_mtime_ns
    for folder in sorted(written_at, key=written_at.__getitem__):
        if is_alive(folder):
            continue
        session_problems = merge_session(folder)
        reported, text = folder / _PROBLEM_FILE, "\n".join(session_problems)
        # Another start may be doing the same; and a full disk must not stop this one.
        with suppress(OSError):
            if not session_problems:
                (folder / USERS_FILE).rename(folder / _DONE_FILE)
            elif session_problems == (_BUSY,) or (
                reported.exists() and reported.read_text() == text
            ):
                continue
            else:
                reported.write_text(text)
        problems += session_problems
    return tuple(problems)


def merge_steps(folder: Path, problems: list[str]) -> Generator[str, None, None]:
    """Merge as ``merge_session`` does, and yield where a kill may come; problems are added to the list."""
    if not (folder / USERS_FILE).exists():
        return
    try:
        with (folder / "histories.lock").open("ab") as lock:
            # No other may merge the same session; the kernel frees the lock of a killed one.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        count = _already_there(_joined(data, spans), target, progress.target_bytes)
        progress = save_progress(launch, kind, MergeProgress(_after(spans, count)))
        yield "settled"
    spans = visible_spans(launch, kind, progress.done, len(data))
    if not spans:
        return
    end = spans[-1][1]
    # O_NONBLOCK: a FIFO without a reader is an error then, and no hang.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    _refuse_own_file(target)
    with os.fdopen(os.open(target, flags, 0o666), "wb", buffering=0) as file:
        fd = file.fileno()
        _refuse_own_file(Path(f"/proc/self/fd/{fd}"))  # a link may have been exchanged meanwhile
        save_progress(launch, kind, MergeProgress(progress.done, end, os.fstat(fd).st_size))
        yield "announced"
        rest = _joined(data, spans)
        while rest:
            rest = rest[os.write(fd, rest) :]
        yield "appended"
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fsync(fd)
    save_progress(launch, kind, MergeProgress(end))
    yield "recorded"


def _refuse_own_file(target: Path) -> None:
    """Raise OSError where a link leads to one of the guard's own files: a program inside may have made it."""
    real, folder = os.path.realpath(target), "/"
    with suppress(FileNotFoundError):  # the working folder was removed
        folder = os.getcwd()
    if any(f"{real}/".startswith(f"{own}/") for own in own_files(os.environ, folder)):
        raise OSError(errno.EPERM, "it leads to a file of aider-guard's own")


def _joined(data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(data[start:end] for start, end in spans)


def _after(spans: Sequence[tuple[int, int]], count: int) -> int:
    """Return the position behind the first ``count`` bytes of the spans."""
    for start, end in spans:
        if count <= end - start:
            return start + count
        count -= end - start
    return spans[-1][1]


def _already_there(data: bytes, target: Path, size: int) -> int:
    """Return how much of an append that was cut short is in the file, which was ``size`` long before."""
    if not target.is_file():
        return 0
    with target.open("rb") as file:
        file.seek(size)
        tail = file.read()
    if data in tail:
        return len(data)
    # Only a write that was cut short leaves just a part. When in doubt, twice is better than never.
    return len(tail) if data.startswith(tail) else 0


class PrivateFiles(NamedTuple):
    """The history files of one launch, both there already."""

    chat: Path
    input: Path


class PrivateHistories:
    """Makes the private history files of one session, marks hidden commands in them, and merges them.

    Args:
        folder: The session's folder, which exists; the files lie in ``launch-<number>`` below it.
        user_chat: The user's own chat history, or None when nothing shall be merged into it.
        user_input: The user's own input history, likewise.
    """

    def __init__(self, folder: Path, user_chat: Path | None, user_input: Path | None) -> None:
        self._folder = folder
        self._users = {"chat": user_chat, "input": user_input}
        self._launch: Path | None = None

    def begin_launch(self, number: int, seed: str, encoding: str = "utf-8") -> PrivateFiles:
        """Make the files of one launch, in ascending order of ``number``.

        Args:
            number: The launch, from 1.
            seed: What the chat history begins with; it is never merged.
            encoding: What Aider writes its files in.

        Raises:
            LaunchError: They cannot be written.
        """
        launch = self._folder / f"launch-{number}"
        try:
            seeds = {"chat": seed.encode(encoding, errors="replace"), "input": self._input_seed()}
            launch.mkdir(mode=0o700, exist_ok=True)
            for kind, data in seeds.items():
                private = launch / FILE_NAMES[kind]
                private.touch(mode=0o600)
                private.write_bytes(data)
            self._record_users_files()
            # Last, because a launch without this file has not begun and is never merged.
            write_json(launch / "seeds.json", {kind: len(data) for kind, data in seeds.items()})
        except OSError as error:
            reason = f"cannot write the private histories in {launch}: {error.strerror}"
            raise LaunchError(reason) from error
        self._launch = launch
        return PrivateFiles(*(launch / FILE_NAMES[kind] for kind in KINDS))

    def begin_hidden(self) -> str:
        """Keep what Aider logs from now on out of the user's files.

        To be called before the command is sent: after a kill, all that follows is hidden. Returns
        why it could not be put on record, and then the command must not be sent; else "".
        """
        return self._mark("begin")

    def end_hidden(self) -> str:
        """Let what Aider logs from now on be the user's again; returns as ``begin_hidden`` does."""
        return self._mark("end")

    def merge(self) -> tuple[str, ...]:
        """Append what was added so far to the user's files; see ``merge_session``."""
        return merge_session(self._folder)

    def forget_chat(self) -> str:
        """Leave nothing in this chat history that Aider could restore; for after ``/clear``.

        Aider reads the file again at the next switch of the mode, when it was started with
        ``--restore-chat-history``. It is merged first, and then overwritten in place by a comment
        of the same length, so that all positions stay true. To be called at the main prompt.
        Returns why it could not be done, or "".
        """
        if self._launch is None:
            return "Aider was not started yet"
        problems = self.merge()
        if problems:
            return problems[0]
        try:
            with (self._launch / FILE_NAMES["chat"]).open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(b"# ".ljust(size - 1)[: max(0, size - 1)] + b"\n" * (size > 0))
        except OSError as error:
            return f"the private chat history could not be cleared: {error.strerror}"
        return ""

    def _mark(self, mark: Literal["begin", "end"]) -> str:
        if self._launch is None:
            return "Aider was not started yet"
        try:
            save_mark(self._launch, mark)
        except OSError as error:
            return f"the hidden command could not be put on record: {error.strerror}"
        return ""

    def _record_users_files(self) -> None:
        for path in self._users.values():
            # As Aider does at its start, not at the merge: the repository may be gone by then.
            # What cannot be written is a problem of the merge, and no reason not to start.
            with suppress(OSError):
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
        users = {kind: path and str(path.absolute()) for kind, path in self._users.items()}
        write_json(self._folder / USERS_FILE, users)

    def _input_seed(self) -> bytes:
        """Return the user's input history and what earlier launches would add to it, for the Up key."""
        path, data = self._users["input"], b""
        with suppress(OSError):  # Aider could not read it either
            if path is not None and path.is_file():
                data = path.read_bytes()
        for launch in launches(self._folder):
            added = (launch / FILE_NAMES["input"]).read_bytes()
            done = read_progress(launch, "input").done
            data += _joined(added, visible_spans(launch, "input", done, len(added)))
        return data
