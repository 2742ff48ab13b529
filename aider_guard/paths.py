"""Names the folders that the guard uses: XDG folders, or ``AIDER_GUARD_STATE_DIR`` and ``AIDER_GUARD_CACHE_DIR``.

One more variable, for tests on a busy machine, is read here: how long to wait for an answer at most.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import platformdirs

from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError

_APP = "aider-guard"


def state_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of sessions and of what they learned. Absolute: another pane, and Aider, may be in another folder."""
    configured = environment.get("AIDER_GUARD_STATE_DIR")
    return Path(configured or platformdirs.user_state_dir(_APP)).absolute()


def sessions_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that has one folder for each session."""
    return state_dir(environment) / "sessions"


def check_folders(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a folder of the guard's that another user owns or may write into; one that is not there yet is fine.

    A session that another user puts there would name the files that histories are appended to, and a socket to ask.

    Raises:
        LaunchError: with the command or variable that helps.
    """
    for folder, variable in (
        (state_dir(environment), "AIDER_GUARD_STATE_DIR"),
        (sessions_dir(environment), "AIDER_GUARD_STATE_DIR"),
        (vocabularies_dir(environment), "AIDER_GUARD_CACHE_DIR"),
    ):
        found: list[os.stat_result] = []
        try:
            found.append(folder.lstat())  # the owner of a link can turn it to another folder
            found.append(folder.stat())
        except OSError:
            pass  # the first write there reports what is wrong
        if not all(map(belongs_to_user, found)):
            raise LaunchError(f"{folder} belongs to another user; {variable} names another folder")
        if len(found) == 2 and found[1].st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise LaunchError(f"other users may write into {folder}; chmod go-w {folder} ends that")


def belongs_to_user(status: os.stat_result) -> bool:
    """Whether a file belongs to the user of this process."""
    return status.st_uid == os.geteuid()


def user_config_file() -> Path:
    """The file with the user's own settings."""
    return Path(platformdirs.user_config_dir(_APP)) / "config.toml"


def vocabularies_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with cached vocabularies of models; what is deleted there is read again."""
    configured = environment.get("AIDER_GUARD_CACHE_DIR")
    return Path(configured or platformdirs.user_cache_dir(_APP)).absolute() / "vocabularies"


def patience_seconds(usual: float, environment: Mapping[str, str] = os.environ) -> float:
    """How long an answer is waited for: the *usual* time, or what ``AIDER_GUARD_TEST_WAIT_SECONDS`` names in tests."""
    return float(environment.get("AIDER_GUARD_TEST_WAIT_SECONDS") or usual)


def work_tree(start: Path) -> Path | None:
    """The top folder of the git work tree that contains *start*; None outside one."""
    return next((path for path in (start, *start.parents) if (path / ".git").exists()), None)


def replace_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file of ours so that a kill leaves the old or the new one, and only its user can read it.

    A link that a program inside the air gap has put in its place is replaced, not followed. With ``sync`` it waits for
    the disk. Raises OSError; the file is then as it was.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def free_bytes(folder: Path) -> int | Unavailable:
    """The free space on the disk of a folder that may not be there yet."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        return shutil.disk_usage(existing).free
    except OSError as error:
        return Unavailable(f"{existing} cannot be read: {error.strerror}")
