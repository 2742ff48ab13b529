"""Measures how the package is built: sizes of modules, depth of imports, cycles of packages, helpers used once.

``python -m bench.structure [CHECKOUT]`` prints one row for the table in docs/development.md.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "aider_guard"


def module_of(path: Path, root: Path) -> str:
    """A file's dotted name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it that is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def reach(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything that is imported from there on, directly or by way of others; itself where that comes back."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def depth(graph: Mapping[str, set[str]]) -> int:
    """The longest chain of imports; modules that import each other count once."""
    reached = {module: reach(graph, module) for module in graph}

    @cache
    def longest(module: str) -> int:
        below = (found for found in reached[module] if module not in reached[found])
        return 1 + max(map(longest, below), default=0)

    return max(map(longest, graph))


def in_cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """The packages that import themselves by way of others."""
    packages: dict[str, set[str]] = {}
    for module, found in graph.items():
        packages.setdefault(first(module), set()).update({*map(first, found)} - {first(module)})
    packages.pop(PACKAGE, None)
    packages = {
        name: {other for other in found if other in packages} for name, found in packages.items()
    }
    return sorted(name.partition(".")[2] for name in packages if name in reach(packages, name))


def first(module: str) -> str:
    """The package, or the module of the first level, that a module belongs to."""
    return ".".join(module.split(".")[:2])


def used_once(trees: Mapping[str, ast.Module]) -> tuple[int, int]:
    """Private functions that are named once beside their definition, and how many of them have six lines or fewer."""
    all_of_them, short = 0, 0
    for tree in trees.values():
        names: Counter[str] = Counter()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                names[node.id] += 1
            elif isinstance(node, ast.Attribute):
                names[node.attr] += 1
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if re.match(r"_[a-z]", node.name) and names[node.name] == 1:
                all_of_them += 1
                short += (node.end_lineno or 0) - node.lineno < 6
    return all_of_them, short


def main(root: Path) -> None:
    """Print the row of a checkout."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    trees = {module_of(path, root): ast.parse(path.read_text("utf-8")) for path in files}
    graph = {module: {*imports(tree, {*trees})} - {module} for module, tree in trees.items()}
    graph = {
        module: {found for found in others if found in graph} for module, others in graph.items()
    }
    lines = [len(path.read_text("utf-8").splitlines()) for path in files]
    sizes = sorted(
        count for path, count in zip(files, lines, strict=True) if path.name != "__init__.py"
    )
    once, short = used_once(trees)
    print(
        "| modules | median | p90 | largest | lines | import depth | packages in cycles | private functions used once |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {len(sizes)} | {statistics.median(sizes):.0f} | {sizes[len(sizes) * 9 // 10]} | {sizes[-1]}"
        f" | {sum(lines):,} | {depth(graph)} | {len(in_cycles(graph))} | {once} ({short} of six lines or fewer) |"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
