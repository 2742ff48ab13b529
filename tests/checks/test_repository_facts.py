"""Which hooks and tests a repository would run, on real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from checks.worlds import NO

from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.facts import RepoFacts
from aider_guard.launch.repository import active_hooks, repository_facts


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository as ``git init`` makes it, samples of hooks and all."""
    folder = tmp_path / "a repo"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / ".git" / "hooks").mkdir(exist_ok=True)
    return folder


def hook(folder: Path, name: str, mode: int = 0o755) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(mode)


def test_only_hooks_that_git_would_run_are_active(repo: Path) -> None:
    """Not its samples, not what may not be executed, no folder."""
    hooks = repo / ".git" / "hooks"
    hook(hooks, "pre-commit")
    hook(hooks, "post-commit")
    hook(hooks, "commit-msg", 0o644)
    hook(hooks, "pre-push.sample")
    (hooks / "folder").mkdir()

    assert active_hooks(repo) == ("post-commit", "pre-commit")


def test_a_repository_of_its_own_hooks(repo: Path) -> None:
    """``core.hooksPath`` counts, relative to the work tree."""
    git(repo, "config", "core.hooksPath", ".githooks")
    hook(repo / ".githooks", "post-commit")
    hook(repo / ".git" / "hooks", "pre-commit")

    assert active_hooks(repo) == ("post-commit",)


def test_no_repository_has_no_hooks(tmp_path: Path) -> None:
    """Also where the folder is not there, or its name cannot be one."""
    assert active_hooks(tmp_path) == ()
    assert active_hooks(tmp_path / "gone") == ()
    assert active_hooks(Path("a\0b")) == ()


def test_a_hooks_folder_that_is_not_there_is_empty(repo: Path) -> None:
    """A configured folder may be missing in a fresh clone."""
    git(repo, "config", "core.hooksPath", "/nowhere/at/all")
    assert active_hooks(repo) == ()


def test_the_test_runner_is_found_where_aider_would_run_tests(repo: Path) -> None:
    """With auto-test and no command; else the repository is not searched."""
    (repo / "go.mod").write_text("module x\n")
    root = str(repo)

    assert repository_facts(AiderSettings(git_root=root, auto_test=True)).test_runner == "go"
    assert repository_facts(AiderSettings(git_root=root)).test_runner == ""
    settings = AiderSettings(git_root=root, auto_test=True, test_cmd="make")
    assert repository_facts(settings).test_runner == ""


def test_without_a_repository_there_are_no_facts() -> None:
    """Unknown settings, or no work tree."""
    assert repository_facts(NO) == repository_facts(AiderSettings()) == RepoFacts()
