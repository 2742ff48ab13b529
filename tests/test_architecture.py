"""The rules for how the package is built: the way imports go, the size of a file, one class a name, no code twice."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "aider_guard"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    ("errors", "loop", "signals", "process_starter"),
    ("core",),
    ("paths", "line_process", "journal", "proc_net"),
    ("ollama",),
    ("config", "catalogue", "counting"),
    ("airgap",),
    ("door",),
    ("sidecar",),
    ("launch",),
    ("checks",),
    ("session",),
    ("view",),
    ("demo",),
    ("completion", "session_commands"),
    ("cli",),
    ("__main__",),
)
"""From the bottom to the top. A module imports from its own package and from layers below."""

MOST_LINES = 500
FEW_LINES = 60
SMALL_FILES = {
    "__main__.py": "the entry point of a program",
    "errors.py": "the lowest layer: every package raises from it",
    "core/printable.py": "the one place that makes text printable, for every package and the status bar",
    "core/wire.py": "the one file that knows every event and request; codec.py below it knows none",
    "core/rules/sidecar.py": "one rule of the policy; the others are about other things",
}
"""Why each file of fewer than 60 lines is a file of its own."""

REPEATED_LINES = 6
REPEATED: dict[frozenset[str], str] = {}
"""Why the same six lines may stand in two files."""


def name_of(path: Path) -> str:
    """A file's path in the package."""
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    """The package or module of the first level that a file belongs to."""
    return name_of(path).split("/", maxsplit=1)[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    """A file, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """The parts of the package that a file imports from, also inside functions and for types only."""
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.ImportFrom(module="aider_guard", names=names):
                yield from (alias.name for alias in names if alias.name != "__version__")
            case ast.ImportFrom(module=str(module), level=0) if module.startswith("aider_guard."):
                yield module.split(".")[1]
            case ast.Import(names=names):
                dotted = (alias.name.split(".") for alias in names)
                yield from (parts[1] for parts in dotted if parts[0] == "aider_guard" and parts[1:])


def test_packages_import_downwards_only() -> None:
    """To read a package it is enough to know those below it, and none is part of a cycle."""
    level = {part: height for height, layer in enumerate(LAYERS) for part in layer}
    upwards = {
        f"{name_of(path)} imports {part}"
        for path in FILES
        if (here := part_of(path)) != "__init__"
        for part in imports_of(path)
        if part != here and level[part] >= level[here]
    }
    assert not upwards


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_one_concern(path: Path) -> None:
    """At most 500 lines; fewer than 60 need a reason here. What a package's ``__init__`` says is not code."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES
    if path.name not in ("__init__.py", "__main__.py") and "data" not in path.parts:
        assert (lines < FEW_LINES) == (name_of(path) in SMALL_FILES)


def test_a_class_name_stands_for_one_class() -> None:
    """The same word in two packages is two things to learn."""
    names = Counter(
        node.name for path in FILES for node in tree_of(path).body if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1 and not name.startswith("_")]


def test_a_test_file_has_a_name_of_its_own() -> None:
    """pytest imports test files by their name alone, and refuses a second one of a name when both run."""
    count = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, times in count.items() if times > 1] == []


def test_no_code_stands_twice() -> None:
    """Six lines of code in a row that stand in two places are one function, or have a reason above."""
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in FILES:
        lines = [line.strip() for line in code_lines(path)]
        for start in range(len(lines) - REPEATED_LINES + 1):
            run = tuple(lines[start : start + REPEATED_LINES])
            if places[run] != {name_of(path)} or lines.count(run[0]) > 1:
                places[run].add(name_of(path))
    twice = {frozenset(names) for names in places.values() if len(names) > 1}
    assert twice <= set(REPEATED)


def code_lines(path: Path) -> list[str]:
    """The lines that do something: no imports, no text, no comments, no lone brackets, no declared parameters."""
    tree = tree_of(path)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_text:
            assert isinstance(node, ast.stmt)
            assert node.end_lineno is not None
            skipped |= {*range(node.lineno, node.end_lineno + 1)}
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = (line for number, line in enumerate(lines, 1) if number not in skipped)
    return [
        line for line in kept if any(map(str.isalnum, line)) and not line.lstrip().startswith("#")
    ]
