"""Where things lie: XDG folders, or what ``AIDER_GUARD_STATE_DIR`` and ``AIDER_GUARD_CACHE_DIR`` say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from aider_guard.core.readings import Unavailable

_APP = "aider-guard"


def state_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of sessions and what was learned."""
    named = environment.get("AIDER_GUARD_STATE_DIR")
    # Another pane, and Aider, may be somewhere else.
    return Path(named or platformdirs.user_state_dir(_APP)).absolute()


def sessions_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """One folder a session lies in here."""
    return state_dir(environment) / "sessions"


def user_config_file() -> Path:
    """The user's own settings."""
    return Path(platformdirs.user_config_dir(_APP)) / "config.toml"


def vocabularies_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """What is read of models' vocabularies is kept here: it can be had again at any time."""
    named = environment.get("AIDER_GUARD_CACHE_DIR")
    return Path(named or platformdirs.user_cache_dir(_APP)).absolute() / "vocabularies"


def free_bytes(folder: Path) -> int | Unavailable:
    """The room on the disk of a folder that may not be there yet."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        return Unavailable(f"{there} cannot be read: {error.strerror}")
