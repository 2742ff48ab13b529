"""What a repository's tests are run with, found from its files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aider_guard.demo.sample import make_sample
from aider_guard.launch.repository import find_test_commands

PYTEST = "python -m pytest --tb=short -q"
NODE = '{"scripts": {"test": "vitest"}}'

REPOSITORIES: list[tuple[dict[str, str], str, str]] = [
    ({"pytest.ini": ""}, "pytest", PYTEST),
    ({"conftest.py": ""}, "pytest", PYTEST),
    ({"pyproject.toml": "[tool.pytest.ini_options]\n"}, "pytest", PYTEST),
    ({"setup.cfg": "[tool:pytest]\n"}, "pytest", PYTEST),
    ({"tox.ini": "[tox]\n[pytest]\n"}, "pytest", PYTEST),
    ({"tests/test_a.py": "def test_a(): ...\n"}, "pytest", PYTEST),
    ({"src/deep/down/a_test.py": ""}, "pytest", PYTEST),
    ({"test_a.py": "import unittest\n"}, "unittest", "python -m unittest -q"),
    ({"test_a.py": "import unittest\nimport pytest\n"}, "pytest", PYTEST),
    ({"test_a.py": "import unittest\n", "requirements-dev.txt": "pytest\n"}, "pytest", PYTEST),
    (
        {"test_a.py": "import unittest\n", "pyproject.toml": "test = ['pytest>=8']\n"},
        "pytest",
        PYTEST,
    ),
    ({"tox.ini": "[testenv]\ncommands = pytest {posargs}\n"}, "tox", "tox -q -- --tb=short -q"),
    ({"tox.ini": "[testenv]\ncommands = nose2\n", "test_a.py": ""}, "tox", "tox -q"),
    ({"Cargo.toml": ""}, "cargo", "cargo test --quiet"),
    ({"go.mod": "module x\n"}, "go", "go test ./..."),
    ({"package.json": NODE}, "npm", "CI=true npm test --silent"),
    ({"package.json": NODE, "yarn.lock": ""}, "yarn", "CI=true yarn test"),
    ({"package.json": NODE, "pnpm-lock.yaml": ""}, "pnpm", "CI=true pnpm --silent test"),
    ({"gradlew": ""}, "gradle", "./gradlew --quiet test"),
    ({"pom.xml": ""}, "maven", "mvn --quiet test"),
    ({"pom.xml": "", "mvnw": ""}, "maven", "./mvnw --quiet test"),
    ({".rspec": ""}, "rspec", "bundle exec rspec --format progress"),
    ({"mix.exs": ""}, "mix", "mix test"),
    ({"Makefile": "all:\n\ntest: all\n\t./run\n"}, "make", "make --silent test"),
    ({"Makefile": "test:\n", "go.mod": ""}, "go", "go test ./..."),
]
WITHOUT: list[dict[str, str]] = [
    {},
    {"README.md": "pytest\n"},
    {"pyproject.toml": "[project]\n"},
    {"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'},
    {"package.json": '{"scripts": []}'},
    {"package.json": '{"scripts": {"test": 3}}'},
    {"package.json": "{"},
    {"package.json": "[" * 100_000},
    {"Makefile": "test := no\nlatest: x\n"},
    {"node_modules/x/test_a.py": "", ".venv/test_b.py": "", "venv/test_c.py": ""},
    {"testing.py": "", "contest.py": ""},
]


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("files", "runner", "command"), REPOSITORIES)
def test_the_tool_and_its_short_form_follow_from_the_files(
    tmp_path: Path, files: dict[str, str], runner: str, command: str
) -> None:
    """The likeliest command comes first, with the file that says so."""
    detected = find_test_commands(repository(tmp_path, files))[0]

    assert (detected.runner, detected.command) == (runner, command)
    assert any(Path(name).name in detected.evidence for name in files)


@pytest.mark.parametrize("files", WITHOUT)
def test_a_repository_without_tests_has_no_command(tmp_path: Path, files: dict[str, str]) -> None:
    """What only looks like tests, what others brought along and broken files say nothing."""
    assert find_test_commands(repository(tmp_path, files)) == ()


def test_all_kinds_are_found_the_likeliest_first(tmp_path: Path) -> None:
    """A repository in two languages has two commands."""
    files = {"Cargo.toml": "", "package.json": NODE, "tests/test_a.py": ""}
    commands = find_test_commands(repository(tmp_path, files))

    assert [command.runner for command in commands] == ["pytest", "cargo", "npm"]


def test_strange_files_are_passed_over(tmp_path: Path) -> None:
    """A pipe is not waited for, a folder of that name and a link to itself are no files."""
    os.mkfifo(tmp_path / "package.json")
    (tmp_path / "tox.ini").mkdir()
    (tmp_path / "Makefile").symlink_to("Makefile")
    (tmp_path / "pytest.ini").symlink_to("nowhere")
    (tmp_path / "setup.cfg").write_bytes(b"\xff\xfe[")

    assert find_test_commands(tmp_path) == ()


def test_a_huge_repository_is_not_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests beyond the first folders are not looked for: a guess must not take seconds."""
    monkeypatch.setattr("aider_guard.launch.repository._MOST_FOLDERS", 3)
    repository(tmp_path, {f"{letter}/x.py": "" for letter in "abc"} | {"z/test_a.py": ""})

    assert find_test_commands(tmp_path) == ()


def test_the_sample_repository_runs_as_its_readme_says(tmp_path: Path) -> None:
    """Pytest through Python, so that the package beside the tests is found."""
    assert find_test_commands(make_sample(tmp_path / "till"))[0].command == PYTEST
