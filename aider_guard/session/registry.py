"""Keeps the folders of sessions: each is named after its start, and ``session.json`` in it names the process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aider_guard.core.printable import printable
from aider_guard.errors import LaunchError
from aider_guard.paths import belongs_to_user, replace_file

_RECORD = "session.json"
_MODELS = "models.json"
KEPT_RUNS = 20
KEPT_DAYS = 30
_PIDS = 1 << 31  # pid_t; 0 and negative ones mean groups to kill(2)


@dataclass(frozen=True)
class SessionFolder:
    """A session on disk.

    ``started`` is when the system says that the process started, so that a new process with an old number is not taken
    for it.
    """

    path: Path
    pid: int
    started: float
    working_directory: str
    socket: str

    @property
    def id(self) -> str:
        """The session's name."""
        return self.path.name


def create(sessions: Path) -> SessionFolder:
    """Make the folder of a session of this process, which only its owner may read. Raises LaunchError."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    path = sessions / f"{stamp}-{os.getpid()}"
    try:
        for folder in (sessions.parent, sessions):  # with parents, the umask decides on their modes
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise LaunchError(
            f"no session can be kept in {sessions}: {error.strerror}; AIDER_GUARD_STATE_DIR names another folder"
        ) from error
    return SessionFolder(path, os.getpid(), 0.0, os.getcwd(), "")


def record(session: SessionFolder, socket_path: str) -> SessionFolder:
    """Write down which process runs the session and where its control socket is. Raises LaunchError."""
    written = SessionFolder(
        session.path, session.pid, _start_of(session.pid), session.working_directory, socket_path
    )
    facts = {key: value for key, value in vars(written).items() if key != "path"}
    try:
        (session.path / _RECORD).write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise LaunchError(f"{session.path} cannot be written: {error.strerror}") from error
    return written


def running(sessions: Path) -> Iterator[SessionFolder]:
    """Yield the sessions that run, oldest first."""
    for path in sorted(sessions.glob(f"*/{_RECORD}")):
        if is_alive(path.parent):
            session = read(path.parent)
            if session is not None:
                yield session


def is_alive(folder: Path) -> bool:
    """Whether the session of this folder still runs. A folder whose record is not written yet may be starting."""
    session = read(folder)
    if session is None:
        pid = folder.name.rpartition("-")[2]
        return pid.isdigit() and _exists(int(pid))
    return _exists(session.pid) and abs(_start_of(session.pid) - session.started) < 1.0


def is_stopped(session: SessionFolder) -> bool:
    """Whether its process is stopped, by Ctrl-Z or a signal: it does not answer until it is continued."""
    import psutil

    try:
        return psutil.Process(session.pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def at(sessions: Iterable[SessionFolder], place: str | None) -> list[SessionFolder]:
    """Return those with this name, or else those that work in this folder; all where no place is given."""
    if place is None:
        return [*sessions]
    listed = [*sessions]
    named = [session for session in listed if session.id == place]
    folder = os.path.realpath(os.path.expanduser(place))
    return named or [
        session for session in listed if os.path.realpath(session.working_directory) == folder
    ]


def none_at(listed: Sequence[SessionFolder], place: str | None) -> str:
    """Say that none of these has this name or works in this folder, and which they are."""
    if place is None or not listed:
        return "no session is running"
    ids = ", ".join(session.id for session in listed)
    return printable(f"no session {place} is running; these are: {ids}")


def read(folder: Path) -> SessionFolder | None:
    """Return the record of a session; None when there is none that can be read, or it is another user's."""
    try:
        if not belongs_to_user(folder.lstat()) or not belongs_to_user((folder / _RECORD).lstat()):
            return None
        facts: Any = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        where, socket = facts["working_directory"], facts["socket"]
        if not (isinstance(where, str) and isinstance(socket, str)):
            return None
        return SessionFolder(folder, int(facts["pid"]), float(facts["started"]), where, socket)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def note_models(session: Path, models: Iterable[str], window_tokens: int = 0) -> None:
    """Write down which models of Ollama's a session works with, and the window it fixes; 0 where that is not known.

    Other sessions may read it at any time. Raises OSError.
    """
    windows = dict.fromkeys(sorted(models), window_tokens)
    replace_file(session / _MODELS, json.dumps(windows).encode("ascii"))


def models_of_others(session: Path) -> frozenset[str]:
    """Return the models that the other running sessions work with."""
    others = _noted(path for path in session.parent.glob(f"*/{_MODELS}") if path.parent != session)
    return frozenset(name for windows in others for name in windows)


def windows_of_others(sessions: Path, own_pid: int) -> dict[str, int]:
    """Return the windows that sessions of other processes fix, by the names of their models; the oldest session's."""
    paths = sorted(sessions.glob(f"*/{_MODELS}"), reverse=True)
    others = _noted(path for path in paths if not path.parent.name.endswith(f"-{own_pid}"))
    return {name: window for windows in others for name, window in windows.items() if window > 0}


def _noted(files: Iterable[Path]) -> Iterator[dict[str, int]]:
    """Yield the windows by model of the sessions that run; what cannot be read counts as none."""
    for file in files:
        if is_alive(file.parent):
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
                noted = json.loads(file.read_text(encoding="utf-8"))
                windows = (
                    noted.items() if isinstance(noted, dict) else ((name, 0) for name in noted)
                )
                yield {str(name): tokens if type(tokens) is int else 0 for name, tokens in windows}


def forget_launches(session: Path) -> None:
    """Remove the private history files, once all of them is in the user's own files."""
    for launch in session.glob("launch-*"):
        shutil.rmtree(launch, ignore_errors=True)


def prune(sessions: Path, *, keep: int | None = None) -> None:
    """Remove sessions that ended and have nothing left to merge: those of 30 days ago, and the oldest but *keep*.

    Without *keep* their number does not matter. Twenty runs without a conversation, which have no record, are kept
    beside them: a script that runs many of these does not displace a session.
    """
    ended = [path for path in sorted(sessions.glob("*-*")) if not is_alive(path)]
    recorded = [path for path in ended if (path / _RECORD).exists()]
    others = [path for path in ended if path not in recorded]
    for kind, kept in ((recorded, keep), (others, KEPT_RUNS)):
        outnumbered = kind[: max(0, len(kind) - kept)] if kept is not None else []
        for path in kind:
            if path in outnumbered or _is_old(path):
                remove(path)


def remove(session: Path) -> None:
    """Remove the folder of a session that ended, but for histories that are not merged yet."""
    if not (session / "histories.json").exists():
        shutil.rmtree(session, ignore_errors=True)


def _is_old(session: Path) -> bool:
    try:
        written = max(path.stat().st_mtime for path in (session, *session.iterdir()))
    except OSError:
        return False  # another guard removes it just now
    return time.time() - written > KEPT_DAYS * 86_400


def _exists(pid: int) -> bool:
    if not 0 < pid < _PIDS:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_of(pid: int) -> float:
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0
