"""The program that changes the code and looks whether a test notices."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from mutants.changes import changed_source, changes_in

CODE = """
LIMIT = 10


def fits(size: int) -> bool:
    return size < LIMIT


def double(size: int) -> int:
    return size * 2
"""
TESTS = """
import pytest
from tiny.part.sizes import fits


@pytest.mark.parametrize(("found", "expected"), [(fits(9), True), (fits(10), False)])
def test_sizes(found, expected):
    assert found is expected
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of one module, of which one function has tests."""
    for folder in ("tiny", "tiny/part", "tests/part"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tiny/__init__.py").touch()
    (tmp_path / "tiny/part/__init__.py").touch()
    (tmp_path / "tiny/part/sizes.py").write_text(CODE)
    (tmp_path / "tests/part/test_sizes.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mutants", "tiny/part", "--root", str(project), *arguments]
    tests = Path(__file__).resolve().parents[1]
    return subprocess.run(
        program, cwd=tests, capture_output=True, text=True, timeout=100, check=False
    )


def test_exactly_the_untested_line_is_listed(project: Path) -> None:
    """The changes that tests notice are not, and the code is left as it was."""
    result = run(project, "--seed", "3")
    alive = [line for line in result.stdout.splitlines() if line.startswith("NOT NOTICED ")]
    assert sorted(alive) == [
        "NOT NOTICED tiny/part/sizes.py:10: 2 → 3",
        "NOT NOTICED tiny/part/sizes.py:10: size * 2 → size / 2",
    ]
    assert "4 of 4 changes in tiny/part, seed 3\n" in result.stdout
    assert "2 of 4 changes were not noticed (50%); at most 1 in 20 may be." in result.stdout
    assert result.returncode == 1
    assert (project / "tiny/part/sizes.py").read_text() == CODE


def test_where_all_is_noticed_it_succeeds(project: Path) -> None:
    (project / "tiny/part/sizes.py").write_text(CODE.partition("def double")[0])
    result = run(project)
    assert "0 of 2 changes were not noticed" in result.stdout
    assert result.returncode == 0


def test_tests_that_fail_without_a_change_prove_nothing(project: Path) -> None:
    (project / "tests/part/test_sizes.py").write_text(TESTS.replace("(10), False", "(10), True"))
    result = run(project)
    assert "The tests must pass before anything is changed." in result.stdout
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("a < b", ["a <= b"]),
        ("a >= b", ["a > b"]),
        ("a == b != c", ["a != b != c", "a == b == c"]),
        ("a in b", ["a not in b"]),
        ("a is not b", ["a is b"]),
        ("a and b and c", ["a or (b and c)", "a and b or c"]),
        ("a or b", ["a and b"]),
        ("a + b", ["a - b"]),
        ("a * b", ["a / b"]),
        ("a // b % c", ["a // b // c", "a * b"]),
        ("not a", ["not not a"]),
        ("[True, 7, 0.5, 'text', None]", ["False", "8", "1.5"]),
        ("b if a else c", ["not a"]),
        ("[a for a in b if a]", ["not a"]),
        ("while a: pass", ["not a"]),
        ("if TYPE_CHECKING: pass", []),
        ("def f(a: Literal[1] = 2) -> Literal[3]: '''4'''", ["3"]),
        ("a: Literal[1]", []),
    ],
)
def test_what_is_changed(source: str, changes: list[str]) -> None:
    """Operators, numbers, truths and conditions; no annotation and no text."""
    found = changes_in(source, "file.py")
    assert [change.after for change in found] == changes
    assert [change.number for change in found] == list(range(len(changes)))


def test_one_change_is_made_and_the_rest_stays() -> None:
    source = dedent(
        """
        def first(a):
            if a:
                return 1
            return a < 2
        """
    )
    changed = [changed_source(source, change.number) for change in changes_in(source, "file.py")]
    rest = ast.unparse(ast.parse(source))
    assert changed == [
        rest.replace("if a", "if not a"),
        rest.replace("return 1", "return 2"),
        rest.replace("a < 2", "a <= 2"),
        rest.replace("a < 2", "a < 3"),
    ]
    with pytest.raises(IndexError, match="no change number 4"):
        changed_source(source, 4)


def test_a_change_knows_its_lines() -> None:
    """Those of its statement, without the block below it, and whether a function is around it."""
    source = "A = 1\ndef f(a):\n    if (a\n            and a):\n        return not a\n"
    outside, condition, inside = changes_in(source, "file.py")
    assert (outside.at_import, outside.lines) == (True, frozenset({1}))
    assert (condition.at_import, condition.lines) == (False, frozenset({3, 4}))
    assert (inside.at_import, inside.lines) == (False, frozenset({5}))
