"""Finds what a repository may run in a session: its git hooks, and its tests with the command of the shortest output.

Nothing of them is run.

Aider puts all that a failing test command prints into the chat: the long tracebacks of ten tests can fill a window.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.facts import RepoFacts

_GIT_SECONDS = 2.0
_MOST_BYTES = 1 << 18
_MOST_FOLDERS = 400
_NOT_OURS = {"node_modules", "venv", "env", "site-packages", "build", "dist", "target", "vendor"}
_PYTEST = "python -m pytest --tb=short -q"
_PYTEST_SECTIONS = {
    "pytest.ini": "",
    ".pytest.ini": "",
    "pyproject.toml": "[tool.pytest",
    "tox.ini": "[pytest]",
    "setup.cfg": "[tool:pytest]",
    "conftest.py": "",
}
"""The files that set pytest up, and the section that does where it is not the whole file."""
_PYTEST_FILE = re.compile(r"^(test_.*|.*_test)\.py$")
_PYTEST_WORD = re.compile(r"\bpytest\b")
_MAKE_TEST = re.compile(r"^test\s*:(?!=)", re.MULTILINE)


@dataclass(frozen=True)
class TestCommand:
    """How to run a repository's tests: the tool, the command with short output, and what in the repository shows it."""

    __test__ = False  # pytest would collect it

    runner: str
    command: str
    evidence: str


def find_test_commands(folder: Path) -> tuple[TestCommand, ...]:
    """Find every kind of test in a repository, the likeliest first. Files are only read; nothing is run."""
    commands = (detect(folder) for detect in _DETECTORS)
    return tuple(command for command in commands if command is not None)


def _python(folder: Path) -> TestCommand | None:
    """Pytest where it is configured or used, unittest where the tests need no more, else tox where it is set up."""
    for name, section in _PYTEST_SECTIONS.items():
        if (folder / name).is_file() and section in _text(folder / name):
            return TestCommand("pytest", _PYTEST, f"{section} in {name}" if section else name)
    if (folder / "tox.ini").is_file():
        text = _text(folder / "tox.ini")
        passes_on = "{posargs" in text and _PYTEST_WORD.search(text)
        return TestCommand("tox", "tox -q -- --tb=short -q" if passes_on else "tox -q", "tox.ini")
    tests: list[Path] = []
    for root, folders, files in islice(os.walk(folder), _MOST_FOLDERS):
        folders[:] = sorted({name for name in folders if name[0] != "."} - _NOT_OURS)
        tests += (Path(root, name) for name in sorted(files) if _PYTEST_FILE.match(name))
    if not tests:
        return None
    where = str(tests[0].relative_to(folder))
    plain = all("unittest" in _text(path) and "pytest" not in _text(path) for path in tests[:20])
    needs = [folder / name for name in ("pyproject.toml", "setup.py", "setup.cfg", "Pipfile")]
    with contextlib.suppress(OSError):
        needs += sorted(folder.glob("*requirements*.txt"))
    if plain and not any(_PYTEST_WORD.search(_text(file)) for file in needs):
        return TestCommand("unittest", "python -m unittest -q", where)
    return TestCommand("pytest", _PYTEST, where)


def _by_file(name: str, runner: str, command: str, folder: Path) -> TestCommand | None:
    return TestCommand(runner, command, name) if (folder / name).is_file() else None


def _node(folder: Path) -> TestCommand | None:
    """The package's own script. Aider runs it in a terminal, where CI=true keeps vitest and jest from watching."""
    try:
        script = json.loads(_text(folder / "package.json"))["scripts"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(script, str) or "no test specified" in script:
        return None
    evidence = "scripts.test in package.json"
    if (folder / "pnpm-lock.yaml").is_file():
        return TestCommand("pnpm", "CI=true pnpm --silent test", evidence)
    if (folder / "yarn.lock").is_file():  # --silent is an option of yarn 1 only
        return TestCommand("yarn", "CI=true yarn test", evidence)
    return TestCommand("npm", "CI=true npm test --silent", evidence)


def _maven(folder: Path) -> TestCommand | None:
    tool = "./mvnw" if (folder / "mvnw").is_file() else "mvn"
    return _by_file("pom.xml", "maven", f"{tool} --quiet test", folder)


def _make(folder: Path) -> TestCommand | None:
    for name in ("GNUmakefile", "makefile", "Makefile"):
        if _MAKE_TEST.search(_text(folder / name)):
            return TestCommand("make", "make --silent test", f"test: in {name}")
    return None


_DETECTORS: tuple[Callable[[Path], TestCommand | None], ...] = (
    _python,
    partial(_by_file, "Cargo.toml", "cargo", "cargo test --quiet"),
    partial(_by_file, "go.mod", "go", "go test ./..."),
    _node,
    partial(_by_file, "gradlew", "gradle", "./gradlew --quiet test"),
    _maven,
    partial(_by_file, ".rspec", "rspec", "bundle exec rspec --format progress"),
    partial(_by_file, "mix.exs", "mix", "mix test"),
    _make,
)


def _text(path: Path) -> str:
    """The beginning of a file's text; "" for one that cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def repository_facts(settings: AiderSettings | Unavailable) -> RepoFacts:
    """The active hooks, and the test runner where Aider runs tests without a ``test-cmd``. Never raises."""
    if isinstance(settings, Unavailable) or not settings.git_root:
        return RepoFacts()
    root = Path(settings.git_root)
    return RepoFacts(
        active_hooks(root),
        runner_of_tests(settings),
        tracked_files(root),
        (root / ".aiderignore").exists(),
    )


def tracked_files(root: Path) -> int | Unavailable:
    """How many files git's index has, by its head (gitformat-index(5)); a work tree's or submodule's is found, too."""
    folder = root / ".git"
    try:
        if folder.is_file():
            folder = root / folder.read_text("utf-8").removeprefix("gitdir:").strip()
        with (folder / "index").open("rb") as file:
            head = file.read(12)
    except (OSError, ValueError):
        return Unavailable("git's index cannot be read")
    if len(head) < 12 or not head.startswith(b"DIRC"):
        return Unavailable("git's index is of an unknown form")
    return int.from_bytes(head[8:], "big")


def runner_of_tests(settings: AiderSettings | Unavailable) -> str:
    """The program that runs the repository's tests, where ``auto-test`` is on without a ``test-cmd``; "" elsewhere.

    Never raises.
    """
    if isinstance(settings, Unavailable) or not settings.git_root:
        return ""
    if not settings.auto_test or settings.test_cmd:
        return ""
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
