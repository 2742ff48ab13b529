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
    """The names of the hooks that git would run here: executable, and not one of its samples.

    Git tells their folder: ``core.hooksPath`` and work trees move it (gitrepository-layout(5)).
    """
    try:
        process = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--git-path", "hooks"],  # noqa: S607  # the git that Aider takes
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
        folder = os.fsdecode(process.stdout).rstrip("\n")
        if process.returncode or not folder:
            return ()
        files = (root / os.path.expanduser(folder)).iterdir()
        hooks = [path for path in files if path.suffix == "" and path.is_file()]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()
    return tuple(sorted(path.name for path in hooks if os.access(path, os.X_OK)))
