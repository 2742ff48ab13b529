"""Where things lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aider_guard import paths
from aider_guard.errors import LaunchError


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


def environment_of(folder: Path) -> dict[str, str]:
    """Variables that put the guard's folders below this one."""
    state, cache = str(folder / "state"), str(folder / "cache")
    return {"AIDER_GUARD_STATE_DIR": state, "AIDER_GUARD_CACHE_DIR": cache}


@pytest.mark.parametrize("name", ["state", "state/sessions", "cache/vocabularies"])
def test_only_own_folders_are_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that others may write into, nor what another user owns."""
    environment, folder = environment_of(tmp_path), tmp_path / name
    paths.check_folders(environment)
    folder.mkdir(parents=True)
    paths.check_folders(environment)
    for mode in (0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(LaunchError, match="chmod go-w"):
            paths.check_folders(environment)
    folder.chmod(0o700)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    paths.check_folders(environment)  # the user's own link to the user's own folder
    (tmp_path / "moved").rename(tmp_path / "away")
    paths.check_folders(environment)  # a link to nothing, or a file: writing there fails with words
    folder.unlink()
    folder.write_text("")
    paths.check_folders(environment)
    folder.unlink()
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        LaunchError, match=r"belongs to another user; AIDER_GUARD_\w+ names another"
    ):
        paths.check_folders(environment)
