"""Go's text/template, parsed: the part of the language that chat templates of Ollama's use.

Grammar and trim markers are those of https://pkg.go.dev/text/template. What is not known here (``define``, ``break``,
calls of methods) raises: a prompt that is rendered wrongly would be counted wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aider_guard.core.counting.gotemplate_text import TemplateError, pieces, tokens, unquoted


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: str | int | float | bool | None


@dataclass(frozen=True)
class Path:
    """``.A.B``, ``$.A``, ``$x.A`` or ``(pipe).A``. ``start`` is "" for the dot, else a variable's name."""

    start: str | Pipe
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function by its name; its arguments are the rest of the command."""

    name: str


Operand = Literal | Path | Call


@dataclass(frozen=True)
class Pipe:
    """Commands that hand their value on, and the variables that get the last one."""

    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


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
    """The tree of a template. Raises ``TemplateError``."""
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
        """Nodes up to an ``end`` or ``else`` (or the end of it all, ""), and which of them it was."""
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
        variables, declares = self._variables()
        commands = [self._command()]
        while self._take("|"):
            commands.append(self._command())
        return Pipe(tuple(commands), variables, declares)

    def _variables(self) -> tuple[tuple[str, ...], bool]:
        """``$a, $b :=`` at the beginning of a pipe."""
        signs = [token for token in self._tokens[:6] if token[0] != "blank"]
        names = [text for kind, text in signs if kind == "path"]
        for count in (1, 2):
            wanted = [*names[:1], *([",", *names[1:2]] if count == 2 else [])]
            sign = signs[len(wanted)][1] if len(signs) > len(wanted) else ""
            if sign in (":=", "=") and [text for _, text in signs[: len(wanted)]] == wanted:
                while self._tokens[0][1] != sign:
                    del self._tokens[0]
                self._take(sign)
                return tuple(names[:count]), sign == ":="
        return (), False

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
                return Literal(unquoted(text))
            case "raw":
                return Literal(text[1:-1].replace("\r", ""))
            case "number":
                return Literal(float(text) if "." in text else int(text))
            case "word":
                return Literal(_CONSTANTS[text]) if text in _CONSTANTS else Call(text)
            case "path":
                start, *fields = text.split(".")
                return Path(start, tuple(filter(None, fields)))
        if text != "(":
            raise TemplateError(f"{text} where a value belongs")
        inner = self._pipe()
        if not self._take(")"):
            raise TemplateError("a parenthesis is open")
        after = self._tokens[0] if self._tokens else ("", "")
        if after[0] == "path" and after[1].startswith(".") and after[1] != ".":
            del self._tokens[0]
            return Path(inner, tuple(after[1][1:].split(".")))
        return Path(inner)

    def _take(self, sign: str) -> bool:
        self._skip_blank()
        if not self._tokens or self._tokens[0] != ("sign", sign):
            return False
        del self._tokens[0]
        return True

    def _skip_blank(self) -> None:
        while self._tokens and self._tokens[0][0] == "blank":
            del self._tokens[0]
