"""Where things lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aider_guard import paths


def test_a_variable_moves_the_state(tmp_path: Path) -> None:
    """Sessions lie below it, and an empty variable is none."""
    assert paths.state_dir({"AIDER_GUARD_STATE_DIR": str(tmp_path)}) == tmp_path
    assert paths.sessions_dir({"AIDER_GUARD_STATE_DIR": str(tmp_path)}) == tmp_path / "sessions"
    assert paths.state_dir({"AIDER_GUARD_STATE_DIR": ""}) == paths.state_dir({})


def test_a_relative_folder_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pane may be in another folder."""
    monkeypatch.chdir(tmp_path)
    assert paths.state_dir({"AIDER_GUARD_STATE_DIR": "here"}) == tmp_path / "here"


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
def test_folders_are_those_of_xdg(tmp_path: Path) -> None:
    """State and settings in the user's own folders, as the XDG variables say."""
    code = "from aider_guard import paths; print(paths.sessions_dir()); print(paths.user_config_file())"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": str(Path(paths.__file__).parents[1]),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert printed == [
        str(tmp_path / "state/aider-guard/sessions"),
        str(tmp_path / "config/aider-guard/config.toml"),
    ]
