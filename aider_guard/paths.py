"""Where things lie: XDG folders, or what ``AIDER_GUARD_STATE_DIR`` and ``AIDER_GUARD_CACHE_DIR`` say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

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
