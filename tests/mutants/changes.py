"""Finds every operator, number and condition of a source file that can be changed, and writes the changed file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

COMPARISONS: Mapping[type[ast.cmpop], Callable[[], ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: Mapping[type[ast.operator], Callable[[], ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
ANNOTATIONS = frozenset({"annotation", "returns"})
# Their own operator is changed already.
CHANGED_ELSEWHERE = (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Constant)


@dataclass(frozen=True)
class Change:
    """One possible change: its place, what it says before and after, and which lines run it.

    ``at_import`` is set for code outside functions: it runs before any test, so no test is known to run it.
    """

    file: str
    number: int
    line: int
    before: str
    after: str
    lines: frozenset[int]
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Edit:
    """New values for fields of a node, and the part of it that is worth showing."""

    node: ast.AST
    fields: Mapping[str, object]
    shown: ast.expr


@dataclass(frozen=True)
class Place:
    """Where in the file the walk is: the statement's own lines, and whether a function is around it."""

    lines: frozenset[int] = frozenset()
    at_import: bool = True


def changes_in(source: str, file: str) -> list[Change]:
    """Every change that can be made to this source, in the order of the file."""
    found = []
    for number, (edit, place) in enumerate(_edits(ast.parse(source), Place())):
        shown = edit.shown
        own = frozenset(range(shown.lineno, (shown.end_lineno or shown.lineno) + 1))
        before = ast.unparse(shown)
        after = f"not {before}" if edit.node is not shown else _changed(edit)
        found.append(
            Change(file, number, shown.lineno, before, after, place.lines | own, place.at_import)
        )
    return found


def changed_source(source: str, number: int) -> str:
    """The source with the change of this number made. Comments and line breaks are not kept."""
    tree = ast.parse(source)
    for index, (edit, _) in enumerate(_edits(tree, Place())):
        if index == number:
            _make(edit)
            return ast.unparse(tree)
    message = f"there is no change number {number}"
    raise IndexError(message)


def _changed(edit: Edit) -> str:
    """What the node says after the edit; the node is left as it was."""
    kept = {name: getattr(edit.node, name) for name in edit.fields}
    _make(edit)
    text = ast.unparse(edit.node)
    for name, value in kept.items():
        setattr(edit.node, name, value)
    return text


def _make(edit: Edit) -> None:
    for name, value in edit.fields.items():
        setattr(edit.node, name, value)


def _edits(node: ast.AST, place: Place) -> Iterator[tuple[Edit, Place]]:
    """The edits of a node and of all below it, without annotations."""
    if isinstance(node, ast.stmt):
        place = Place(_own_lines(node), place.at_import)
    for edit in _edits_of(node):
        yield edit, place
    for name, value in ast.iter_fields(node):
        if name in ANNOTATIONS:
            continue
        inside = name == "body" and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        below = Place(place.lines, at_import=False) if inside else place
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _edits(child, below)


def _own_lines(node: ast.stmt) -> frozenset[int]:
    """The lines of a statement; of one with a block, those before the block."""
    last = node.end_lineno or node.lineno
    body = getattr(node, "body", getattr(node, "cases", None))
    if body:
        first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
        last = max(node.lineno, first.lineno - 1)
    return frozenset(range(node.lineno, last + 1))


def _edits_of(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Compare(ops=ops):
            for index, operator in enumerate(ops):
                if new := COMPARISONS.get(type(operator)):
                    changed = [*ops[:index], new(), *ops[index + 1 :]]
                    yield Edit(node, {"ops": changed}, node)
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            for index in range(1, len(values)):
                halves = [_joined(op, values[:index]), _joined(op, values[index:])]
                yield Edit(node, {"op": other, "values": halves}, node)
        case ast.BinOp(op=op):
            if make := ARITHMETIC.get(type(op)):
                yield Edit(node, {"op": make()}, node)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield Edit(node, {"operand": _negated(operand)}, node)
        case ast.Constant(value=bool() as truth):
            yield Edit(node, {"value": not truth}, node)
        case ast.Constant(value=int() | float() as number):
            yield Edit(node, {"value": number + 1}, node)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield from _negations(node, "test", test)
        case ast.match_case(guard=ast.expr() as guard):
            yield from _negations(node, "guard", guard)
        case ast.comprehension(ifs=tests):
            for index, test in enumerate(tests):
                changed_tests = [*tests[:index], _negated(test), *tests[index + 1 :]]
                if not isinstance(test, CHANGED_ELSEWHERE):
                    yield Edit(node, {"ifs": changed_tests}, test)


def _negations(node: ast.AST, name: str, test: ast.expr) -> Iterator[Edit]:
    typing_only = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
    if not typing_only and not isinstance(test, CHANGED_ELSEWHERE):
        yield Edit(node, {name: _negated(test)}, test)


def _joined(op: ast.boolop, values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.BoolOp(op, values)


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)
