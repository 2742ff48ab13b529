"""Private history files: what Aider writes to, so that the user's own hold only what is the user's.

Each launch of Aider gets its own chat history, which begins with what it shall restore, and its own
input history, which begins with a copy of the user's. Where hidden commands begin and end in them
is put on record; merging.py appends the rest to the user's own files.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from aider_guard.errors import LaunchError
from aider_guard.session.history_records import (
    FILE_NAMES,
    KINDS,
    USERS_FILE,
    launches,
    read_progress,
    save_mark,
    visible_spans,
    write_json,
)
from aider_guard.session.merging import merge_session

if TYPE_CHECKING:
    from pathlib import Path


class PrivateFiles(NamedTuple):
    """The history files of one launch, both there already."""

    chat: Path
    input: Path


class PrivateHistories:
    """The private history files of one session.

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
                _write_private(launch / FILE_NAMES[kind], data)
            self._note_users()
            # Last, because a launch without this file has not begun and is never merged.
            write_json(launch / "seeds.json", {kind: len(data) for kind, data in seeds.items()})
        except OSError as error:
            reason = f"cannot write the private histories in {launch}: {error.strerror}"
            raise LaunchError(reason) from error
        self._launch = launch
        return PrivateFiles(*(launch / FILE_NAMES[kind] for kind in KINDS))

    def begin_hidden(self) -> str:
        """What Aider logs from now on stays out of the user's files.

        To be called before the command is sent: after a kill, all that follows is hidden. Returns
        why it could not be put on record, and then the command must not be sent; else "".
        """
        return self._mark("begin")

    def end_hidden(self) -> str:
        """What Aider logs from now on is the user's again; returns as ``begin_hidden`` does."""
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

    def _note_users(self) -> None:
        for path in self._users.values():
            # As Aider does at its start, not at the merge: the repository may be gone by then.
            # What cannot be written is a problem of the merge, and no reason not to start.
            with suppress(OSError):
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
        users = {kind: path and str(path.absolute()) for kind, path in self._users.items()}
        write_json(self._folder / USERS_FILE, users)

    def _input_seed(self) -> bytes:
        """The user's input history, and what earlier launches would add to it: for the Up key."""
        data = _read_regular(self._users["input"])
        for launch in launches(self._folder):
            added = (launch / FILE_NAMES["input"]).read_bytes()
            done = read_progress(launch, "input").done
            spans = visible_spans(launch, "input", done, len(added))
            data += b"".join(added[start:end] for start, end in spans)
        return data


def _write_private(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _read_regular(path: Path | None) -> bytes:
    """What a file of the user's holds; nothing when Aider could not read it either."""
    try:
        return path.read_bytes() if path is not None and path.is_file() else b""
    except OSError:
        return b""
