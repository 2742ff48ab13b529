"""The folders of sessions: each has one, named after its start, with who runs it in ``session.json``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aider_guard.errors import LaunchError

_RECORD = "session.json"
_MODELS = "models.json"
KEPT_SESSIONS = 20
_PIDS = 1 << 31  # pid_t; 0 and negative ones mean groups to kill(2)


@dataclass(frozen=True)
class SessionFolder:
    """One session on disk. ``started`` is the process's start as the system counts it, so that a new process with
    an old number is not taken for it.
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


def create(sessions: Path, *, socket_path: str = "") -> SessionFolder:
    """Make the folder of a session of this process, which only its owner may read. Raises LaunchError."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    path = sessions / f"{stamp}-{os.getpid()}"
    try:
        sessions.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise LaunchError(
            f"no session can be kept in {sessions}: {error.strerror}; AIDER_GUARD_STATE_DIR names another folder"
        ) from error
    return SessionFolder(path, os.getpid(), 0.0, os.getcwd(), socket_path)


def record(session: SessionFolder, socket_path: str) -> SessionFolder:
    """Write down who runs the session and where it can be asked. Raises LaunchError."""
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
    """The sessions that run, oldest first."""
    for path in sorted(sessions.glob(f"*/{_RECORD}")):
        if is_alive(path.parent):
            found = read(path.parent)
            if found is not None:
                yield found


def is_alive(folder: Path) -> bool:
    """Whether the session of this folder still runs. A folder whose record is not written yet may be starting."""
    session = read(folder)
    if session is None:
        pid = folder.name.rpartition("-")[2]
        return pid.isdigit() and _exists(int(pid))
    return _exists(session.pid) and abs(_start_of(session.pid) - session.started) < 1.0


def read(folder: Path) -> SessionFolder | None:
    """The record of a session; None when there is none that can be read."""
    try:
        found: Any = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return SessionFolder(
            folder,
            int(found["pid"]),
            float(found["started"]),
            found["working_directory"],
            found["socket"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_models(session: Path, models: Iterable[str]) -> None:
    """Write down which models of Ollama's a session works with, for the others, who may read at any time. Raises
    OSError.
    """
    draft = session / f"{_MODELS}.new"
    draft.write_text(json.dumps(sorted(models)), encoding="utf-8")
    draft.replace(session / _MODELS)


def models_of_others(session: Path) -> frozenset[str]:
    """The models that the other running sessions work with."""
    found: set[str] = set()
    for other in session.parent.glob(f"*/{_MODELS}"):
        if other.parent != session and is_alive(other.parent):
            with contextlib.suppress(OSError, ValueError):
                found.update(str(name) for name in json.loads(other.read_text(encoding="utf-8")))
    return frozenset(found)


def forget_launches(session: Path) -> None:
    """Remove the private copies of what was said, once all of it is in the user's own files."""
    for launch in session.glob("launch-*"):
        shutil.rmtree(launch, ignore_errors=True)


def prune(sessions: Path, *, keep: int = KEPT_SESSIONS) -> None:
    """Remove the oldest sessions that ended, and of which nothing waits to be merged; so many runs without a
    conversation, which are not recorded, are kept beside them: a script that runs many takes no session's place.
    """
    ended = [path for path in sorted(sessions.glob("*-*")) if not is_alive(path)]
    recorded = [path for path in ended if (path / _RECORD).exists()]
    others = [path for path in ended if path not in recorded]
    for path in (one for kind in (recorded, others) for one in kind[: max(0, len(kind) - keep)]):
        if not (path / "histories.json").exists():
            shutil.rmtree(path, ignore_errors=True)


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
