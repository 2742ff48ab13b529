"""Finds what else a repository may run in a session: its git hooks and its tests. Nothing of them is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.facts import RepoFacts

_GIT_SECONDS = 2.0


def repository_facts(settings: AiderSettings | Unavailable) -> RepoFacts:
    """The active hooks, and the test runner where Aider runs tests without a ``test-cmd``. Never raises."""
    if isinstance(settings, Unavailable) or not settings.git_root:
        return RepoFacts()
    return RepoFacts(active_hooks(Path(settings.git_root)), runner_of_tests(settings))


def runner_of_tests(settings: AiderSettings | Unavailable) -> str:
    """The program that runs the repository's tests, where ``auto-test`` is on without a ``test-cmd``; "" elsewhere.

    Never raises.
    """
    if isinstance(settings, Unavailable) or not settings.git_root:
        return ""
    if not settings.auto_test or settings.test_cmd:
        return ""
    from aider_guard.launch.detect_tests import find_test_commands

    return next((command.runner for command in find_test_commands(Path(settings.git_root))), "")


def active_hooks(root: Path) -> tuple[str, ...]:
    """The names of the hooks that git would run here: executable, and not one of its samples."""
    folder = _hooks_folder(root)
    if folder is None:
        return ()
    try:
        hooks = [path for path in folder.iterdir() if path.suffix == "" and path.is_file()]
    except OSError:
        return ()
    return tuple(sorted(path.name for path in hooks if os.access(path, os.X_OK)))


def _hooks_folder(root: Path) -> Path | None:
    """The folder that git takes hooks from: ``core.hooksPath`` and work trees move it (gitrepository-layout(5))."""
    try:
        process = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--git-path", "hooks"],  # noqa: S607  # the git that Aider takes
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    path = os.fsdecode(process.stdout).rstrip("\n")
    return root / os.path.expanduser(path) if process.returncode == 0 and path else None
