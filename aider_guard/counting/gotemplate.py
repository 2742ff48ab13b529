"""Parses and evaluates the part of Go's text/template that chat templates of Ollama's use.

Grammar and trim markers are those of https://pkg.go.dev/text/template. What is not known here (``define``, ``break``,
calls of methods) raises: a prompt that is rendered wrongly would be counted wrongly.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class TemplateError(ValueError):
    """A template uses or does something that is not known here."""


# The lexer (text/template/parse/lex.go).

_ACTION: Final = re.compile(
    r"""\{\{(?P<left>-(?=[ \t\r\n]))?(?P<inside>(?:/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`|[^"`}]|\}(?!\}))*?)"""
    r"""(?P<right>(?<=[ \t\r\n])-)?\}\}""",
    re.DOTALL,
)
_TOKEN: Final = re.compile(
    r"""(?P<blank>[ \t\r\n]+)|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<number>[+-]?[0-9][0-9.]*)"""
    r"""|(?P<path>\$\w*(?:\.\w+)*|(?:\.[^\W0-9]\w*)+|\.)|(?P<word>[^\W0-9]\w*)|(?P<sign>:=|[=|(),])"""
)
_BLANKS: Final = " \t\r\n"


def pieces(template: str) -> Iterator[tuple[bool, str]]:
    """Yield texts and actions in turn, each with whether it is an action.

    Blanks are trimmed as the markers say, comments are left out. Raises ``TemplateError``.
    """
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        yield False, _text(template[at : match.start()], trim, match["left"] is not None)
        inside = match["inside"].strip(_BLANKS)
        if not inside.startswith("/*"):
            yield True, inside
        at, trim = match.end(), match["right"] is not None
    yield False, _text(template[at:], trim, False)


def _text(text: str, trim_left: bool, trim_right: bool) -> str:
    if "{{" in text:
        raise TemplateError("an action without an end")
    text = text.lstrip(_BLANKS) if trim_left else text
    return text.rstrip(_BLANKS) if trim_right else text


def tokens(action: str) -> list[tuple[str, str]]:
    """Return the kinds and texts of the tokens in an action. Raises ``TemplateError``."""
    result, at = [], 0
    while at < len(action):
        match = _TOKEN.match(action, at)
        if match is None:
            raise TemplateError("a sign that is not known")
        result.append((match.lastgroup or "", match.group()))
        at = match.end()
    return result


def unquoted(text: str) -> str:
    """Return what a quoted string stands for. Raises ``TemplateError``."""
    try:
        return str(json.loads(text))
    except ValueError:
        raise TemplateError("a string that is not understood") from None


# The parser.


@dataclass(frozen=True)
class Constant:
    """A constant."""

    value: str | int | float | bool | None


@dataclass(frozen=True)
class FieldPath:
    """``.A.B``, ``$.A``, ``$x.A`` or ``(pipe).A``. ``start`` is "" for the dot, else a variable's name."""

    start: str | Pipe
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class FunctionCall:
    """A function by its name; its arguments are the rest of the command."""

    name: str


Operand = Constant | FieldPath | FunctionCall


@dataclass(frozen=True)
class Pipe:
    """Commands that hand their value on, and the variables that get the last one."""

    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    sign: str = ""
    """``:=`` where the variables are new, ``=`` where they are not."""


@dataclass(frozen=True)
class Text:
    """Text that is written as it is."""

    text: str


@dataclass(frozen=True)
class Action:
    """A value that is written."""

    pipe: Pipe


@dataclass(frozen=True)
class Branch:
    """``if``, ``with`` or ``range``."""

    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


Node = Text | Action | Branch

_BRANCHES: Final = ("if", "with", "range")
_CONSTANTS: Final = {"true": True, "false": False, "nil": None}
_UNKNOWN_WORDS: Final = ("define", "template", "block", "break", "continue")


def parse(template: str) -> tuple[Node, ...]:
    """Return the tree of a template. Raises ``TemplateError``."""
    parser = _Parser(pieces(template))
    nodes, end = parser.nodes()
    if end:
        raise TemplateError(f"{end} without a beginning")
    return nodes


class _Parser:
    """Reads nodes from pieces, and pipes from the tokens of an action."""

    def __init__(self, pieces: Iterator[tuple[bool, str]]) -> None:
        self._pieces = pieces
        self._tokens: list[tuple[str, str]] = []

    def nodes(self) -> tuple[tuple[Node, ...], str]:
        """Read nodes up to an ``end`` or ``else`` (or the end of the template, ""); return them, and which it was."""
        nodes: list[Node] = []
        for is_action, piece in self._pieces:
            if not is_action:
                nodes += [Text(piece)] if piece else []
                continue
            self._tokens = tokens(piece)
            word = self._keyword()
            if word in ("end", "else"):
                return tuple(nodes), word
            nodes.append(self._branch(word) if word else Action(self._whole_pipe()))
        return tuple(nodes), ""

    def _keyword(self) -> str:
        kind, text = self._tokens[0] if self._tokens else ("", "")
        if kind != "word" or text not in (*_BRANCHES, "end", "else", *_UNKNOWN_WORDS):
            return ""
        if text in _UNKNOWN_WORDS:
            raise TemplateError(f"{text} is not known")
        del self._tokens[0]
        self._skip_blank()
        return text

    def _branch(self, kind: str) -> Branch:
        pipe = self._whole_pipe()
        body, end = self.nodes()
        otherwise: tuple[Node, ...] = ()
        if end == "else":
            again = self._keyword()
            if again in ("if", "with"):
                return Branch(kind, pipe, body, (self._branch(again),))
            otherwise, end = self.nodes()
        if end != "end":
            raise TemplateError(f"{kind} without an end")
        return Branch(kind, pipe, body, otherwise)

    def _whole_pipe(self) -> Pipe:
        pipe = self._pipe()
        if self._tokens:
            raise TemplateError("an action that is not understood")
        return pipe

    def _pipe(self) -> Pipe:
        variables, sign = self._variables()
        commands = [self._command()]
        while self._take("|"):
            commands.append(self._command())
        return Pipe(tuple(commands), variables, sign)

    def _variables(self) -> tuple[tuple[str, ...], str]:
        """Read ``$a, $b :=`` at the beginning of a pipe."""
        signs = [token for token in self._tokens if token[0] != "blank"]
        names = [text for kind, text in signs if kind == "path"]
        for count in (1, 2):
            expected = [*names[:1], *([",", *names[1:2]] if count == 2 else [])]
            sign = signs[len(expected)][1] if len(signs) > len(expected) else ""
            if sign in (":=", "=") and [text for _, text in signs[: len(expected)]] == expected:
                while self._tokens[0][1] != sign:
                    del self._tokens[0]
                self._take(sign)
                return tuple(names[:count]), sign
        return (), ""

    def _command(self) -> tuple[Operand, ...]:
        self._skip_blank()
        operands: list[Operand] = []
        while self._tokens and self._tokens[0][1] not in ("|", ")"):
            operands.append(self._operand())
            self._skip_blank()
        if not operands:
            raise TemplateError("a command is missing")
        return tuple(operands)

    def _operand(self) -> Operand:
        kind, text = self._tokens.pop(0)
        match kind:
            case "string":
                return Constant(unquoted(text))
            case "raw":
                return Constant(text[1:-1].replace("\r", ""))
            case "number":
                return Constant(float(text) if "." in text else int(text))
            case "word":
                return Constant(_CONSTANTS[text]) if text in _CONSTANTS else FunctionCall(text)
            case "path":
                start, *fields = text.split(".")
                return FieldPath(start, tuple(filter(None, fields)))
        if text != "(":
            raise TemplateError(f"{text} where a value belongs")
        inner = self._pipe()
        if not self._take(")"):
            raise TemplateError("a parenthesis is open")
        after = self._tokens[0] if self._tokens else ("", "")
        if after[0] == "path" and after[1].startswith(".") and after[1] != ".":
            del self._tokens[0]
            return FieldPath(inner, tuple(after[1][1:].split(".")))
        return FieldPath(inner)

    def _take(self, sign: str) -> bool:
        self._skip_blank()
        if not self._tokens or self._tokens[0] != ("sign", sign):
            return False
        del self._tokens[0]
        return True

    def _skip_blank(self) -> None:
        while self._tokens and self._tokens[0][0] == "blank":
            del self._tokens[0]


# The evaluator. Go's templates take a value as true when Python does: it is not empty, and not zero.

ABSENT: Final = None
"""The value of a missing key: false, and written as ``<no value>``."""


class Record(dict[str, Any]):
    """A struct of Go's: a field that it does not have is an error."""


def evaluate(nodes: Sequence[Node], values: Mapping[str, Any]) -> str:
    """Return the text that a template becomes with these values. Raises ``TemplateError``."""
    evaluation = _Evaluation(values)
    evaluation.walk(nodes, values)
    return "".join(evaluation.written)


class _Evaluation:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._variables: list[tuple[str, Any]] = [("$", values)]
        self.written: list[str] = []

    def walk(self, nodes: Sequence[Node], dot: Any) -> None:
        """Write the text of nodes."""
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
        """Write one branch; variables declared in it end with it."""
        mark = len(self._variables)
        if node.kind == "range":
            self._range(node, dot)
        else:
            value = self._pipe(node.pipe, dot)
            inner = value if node.kind == "with" and value else dot
            self.walk(node.body if value else node.otherwise, inner)
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
            if pipe.sign == ":=":
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
        if isinstance(first, FunctionCall):
            return self._call(first.name, rest, dot, piped)
        if rest or piped:
            raise TemplateError("a value is no function")
        return self._operand(first, dot)

    def _call(self, name: str, rest: Sequence[Operand], dot: Any, piped: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            value: Any = ABSENT
            for operand in rest:  # up to the first one that decides
                value = self._operand(operand, dot)
                if bool(value) == (name == "or"):
                    return value
            return piped[0] if piped else value
        function = FUNCTIONS.get(name)
        if function is None:
            raise TemplateError(f"the function {name} is not known")
        arguments = [*(self._operand(operand, dot) for operand in rest), *piped]
        try:
            return function(*arguments)
        except (TypeError, LookupError, AttributeError):
            raise TemplateError(f"{name} of what it is not for") from None

    def _operand(self, operand: Operand, dot: Any) -> Any:
        match operand:
            case Constant(value):
                return value
            case FunctionCall(name):
                return self._call(name, (), dot, ())
        start = operand.start
        if isinstance(start, Pipe):
            value = self._value(start, dot)
        else:
            value = self._variables[self._index(start)][1] if start else dot
        for field in operand.fields:
            if not isinstance(value, Mapping) or (isinstance(value, Record) and field not in value):
                raise TemplateError(f"there is no {field}")
            value = value.get(field, ABSENT)
        return value

    def _index(self, name: str) -> int:
        places = [index for index, (known, _) in enumerate(self._variables) if known == name]
        if not places:
            raise TemplateError(f"{name} is not declared")
        return places[-1]


def written(value: Any) -> str:
    """Return a value as it is written."""
    if value is ABSENT:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
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
    start, end = (*bounds, *(0, _length(value))[len(bounds) :])[:2]
    if not 0 <= start <= end <= _length(value):
        raise LookupError
    if isinstance(value, str):
        return value.encode()[start:end].decode("utf-8", "replace")
    return value[start:end]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, list | tuple) and key < 0:
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
    "not": operator.not_,
    "eq": _equal,
    "ne": lambda first, other: not _equal(first, other),
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "len": _length,
    "slice": _slice,
    "index": _index,
    "json": _json,
    # A date has as many tokens on any day, where digits come alone or in threes.
    "currentDate": lambda: "2026-01-01",
}
"""The functions of Go's and of Ollama's (template/template.go) that chat templates use."""
