"""The sample repository is the same each time, has one bug, and holds a name with a space."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo.layout import RigError
from aider_guard.demo.sample import (
    BUGGY_FILE,
    CONVENTIONS_FILE,
    LARGE_FILE,
    TEST_FILE,
    make_sample,
    sample_files,
)

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *words: str) -> str:
    """Return what git prints."""
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_it_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies have one commit hash and a clean tree, whatever the user's git settings say."""
    first = make_sample(tmp_path / "one")
    settings = tmp_path / "settings"
    settings.write_text(
        "[user]\nname = Someone\n[commit]\ngpgsign = true\n[core]\nautocrlf = true\n"
        "[init]\ndefaultBranch = trunk\n[core]\nhooksPath = /nowhere\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    second = make_sample(tmp_path / "two words")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_AUTHOR_NAME", "GIT_DIR"):
        monkeypatch.delenv(name)

    assert git(first, "rev-parse", "HEAD") == git(second, "rev-parse", "HEAD")
    assert git(second, "status", "--porcelain") == ""
    assert git(second, "branch", "--show-current") == "main"
    assert git(second, "config", "--local", "user.email") == "sam@example.invalid"


def test_the_files_that_the_demo_names_are_there(tmp_path: Path) -> None:
    """The bug, its test, the conventions with a space in the name and the large file are in."""
    folder = make_sample(tmp_path / "till")
    committed = git(folder, "ls-files", "-z").split("\0")

    assert {BUGGY_FILE, TEST_FILE, CONVENTIONS_FILE, LARGE_FILE} <= set(committed)
    assert " " in CONVENTIONS_FILE
    assert ".aider*" in (folder / ".gitignore").read_text()


def test_one_test_of_it_fails(tmp_path: Path) -> None:
    """Its bug is real: of three tests one fails, the one of the quantities."""
    folder = make_sample(tmp_path / "till")
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "test_total_counts_every_piece" in ended.stdout
    assert "1 failed, 2 passed" in ended.stdout


def test_the_large_file_alone_matters_in_a_small_window() -> None:
    """At two to four characters a token it takes much of 8,192 tokens, and does not fill them."""
    large = len(sample_files()[LARGE_FILE])

    assert 8_192 < large < 4 * 8_192


def test_no_git_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git the sentence says what needs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RigError, match="git is needed for the sample repository"):
        make_sample(tmp_path / "till")
