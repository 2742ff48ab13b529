"""Go's text/template, evaluated: tree and values → text. See gotemplate_tree.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aider_guard.core.counting.gotemplate_text import TemplateError
from aider_guard.core.counting.gotemplate_tree import (
    Action,
    Branch,
    Call,
    Literal,
    Node,
    Operand,
    Pipe,
    Text,
)

ABSENT: Final = None
"""What a key that is not there is: false, and written as ``<no value>``."""


class Record(dict[str, Any]):
    """A struct of Go's: a field that it does not have is an error."""


def evaluate(nodes: Sequence[Node], values: Mapping[str, Any]) -> str:
    """The text that a template becomes with these values. Raises ``TemplateError``."""
    evaluation = _Evaluation(values)
    evaluation.walk(nodes, values)
    return "".join(evaluation.written)


class _Evaluation:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._variables: list[tuple[str, Any]] = [("$", values)]
        self.written: list[str] = []

    def walk(self, nodes: Sequence[Node], dot: Any) -> None:
        """Write nodes."""
        for node in nodes:
            match node:
                case Text(text):
                    self.written.append(text)
                case Action(pipe):
                    value = self._pipe(pipe, dot)
                    if not pipe.variables:
                        self.written.append(written(value))
                case Branch():
                    self._branch(node, dot)

    def _branch(self, node: Branch, dot: Any) -> None:
        """One branch; variables declared in it end with it."""
        mark = len(self._variables)
        if node.kind == "range":
            self._range(node, dot)
        else:
            value = self._pipe(node.pipe, dot)
            inner = value if node.kind == "with" and truth(value) else dot
            self.walk(node.body if truth(value) else node.otherwise, inner)
        del self._variables[mark:]

    def _range(self, node: Branch, dot: Any) -> None:
        items = self._value(node.pipe, dot)
        if items is not ABSENT and not isinstance(items, list | tuple):
            raise TemplateError("a range over what is no list")
        mark = len(self._variables)
        for index, item in enumerate(items or ()):
            self._variables += zip(
                node.pipe.variables, (index, item)[-len(node.pipe.variables) :], strict=False
            )
            self.walk(node.body, item)
            del self._variables[mark:]
        if not items:
            self.walk(node.otherwise, dot)

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value = self._value(pipe, dot)
        for name in pipe.variables:
            if pipe.declares:
                self._variables.append((name, value))
            else:
                self._variables[self._index(name)] = (name, value)
        return value

    def _value(self, pipe: Pipe, dot: Any) -> Any:
        value = self._command(pipe.commands[0], dot, ())
        for command in pipe.commands[1:]:
            value = self._command(command, dot, (value,))
        return value

    def _command(self, command: tuple[Operand, ...], dot: Any, piped: tuple[Any, ...]) -> Any:
        first, *rest = command
        if isinstance(first, Call):
            return self._call(first.name, rest, dot, piped)
        if rest or piped:
            raise TemplateError("a value is no function")
        return self._operand(first, dot)

    def _call(self, name: str, rest: Sequence[Operand], dot: Any, piped: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            return self._first(rest, dot, piped, true=name == "or")
        function = FUNCTIONS.get(name)
        if function is None:
            raise TemplateError(f"the function {name} is not known")
        arguments = [*(self._operand(one, dot) for one in rest), *piped]
        try:
            return function(*arguments)
        except (TypeError, LookupError, AttributeError):
            raise TemplateError(f"{name} of what it is not for") from None

    def _first(
        self, operands: Sequence[Operand], dot: Any, piped: tuple[Any, ...], *, true: bool
    ) -> Any:
        """The first value that decides; no more of them are evaluated."""
        value: Any = ABSENT
        for operand in operands:
            value = self._operand(operand, dot)
            if truth(value) == true:
                return value
        return piped[0] if piped else value

    def _operand(self, operand: Operand, dot: Any) -> Any:
        match operand:
            case Literal(value):
                return value
            case Call(name):
                return self._call(name, (), dot, ())
        start = operand.start
        if isinstance(start, Pipe):
            value = self._value(start, dot)
        else:
            value = self._variables[self._index(start)][1] if start else dot
        for field in operand.fields:
            value = _field(value, field)
        return value

    def _index(self, name: str) -> int:
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                return index
        raise TemplateError(f"{name} is not declared")


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Mapping) and (name in value or not isinstance(value, Record)):
        return value.get(name, ABSENT)
    raise TemplateError(f"there is no {name}")


def truth(value: Any) -> bool:
    """Whether Go's templates take a value as true: not empty, and not zero."""
    return bool(value)


def written(value: Any) -> str:
    """A value as it is written."""
    match value:
        case str():
            return value
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
    raise TemplateError("a value that is not written here")


def _equal(first: Any, *others: Any) -> bool:
    if not others or isinstance(first, list | dict):
        raise TypeError
    for other in others:
        if None not in (first, other) and type(first) is not type(other):
            raise TypeError
    return first in others


def _length(value: Any) -> int:
    return len(value.encode() if isinstance(value, str) else value)


def _slice(value: Any, *bounds: int) -> Any:
    start, end = (*bounds, 0)[0] if bounds else 0, bounds[1] if len(bounds) > 1 else _length(value)
    if not 0 <= start <= end <= _length(value):
        raise LookupError
    if isinstance(value, str):
        return value.encode()[start:end].decode("utf-8", "replace")
    return value[start:end]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, list | tuple) and not 0 <= key < len(value):
            raise LookupError
        value = value.get(key, ABSENT) if isinstance(value, dict) else value[key]
    return value


def _json(value: Any) -> str:
    if not isinstance(value, str | int | float | None):
        raise TypeError
    text = json.dumps(value, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda first, other: not _equal(first, other),
    "lt": lambda first, other: first < other,
    "le": lambda first, other: first <= other,
    "gt": lambda first, other: first > other,
    "ge": lambda first, other: first >= other,
    "len": _length,
    "slice": _slice,
    "index": _index,
    "json": _json,
    # A date has as many tokens on any day, where digits come alone or in threes.
    "currentDate": lambda: "2026-01-01",
}
"""Those of Go's own and of Ollama's (template/template.go) that chat templates use."""
