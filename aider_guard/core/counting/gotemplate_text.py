"""Go's text/template, cut up: texts and actions in turn, and the tokens of an action (text/template/parse/lex.go)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final


class TemplateError(ValueError):
    """A template, or what it does, is not of the part that is known here."""


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
    """Texts and actions in turn: each with whether it is an action. Blanks are trimmed as the markers say, comments
    are left out. Raises ``TemplateError``.
    """
    at, trim = 0, False
    for found in _ACTION.finditer(template):
        yield False, _text(template[at : found.start()], trim, found["left"] is not None)
        inside = found["inside"].strip(_BLANKS)
        if not inside.startswith("/*"):
            yield True, inside
        at, trim = found.end(), found["right"] is not None
    yield False, _text(template[at:], trim, False)


def _text(text: str, trim_left: bool, trim_right: bool) -> str:
    if "{{" in text:
        raise TemplateError("an action without an end")
    text = text.lstrip(_BLANKS) if trim_left else text
    return text.rstrip(_BLANKS) if trim_right else text


def tokens(action: str) -> list[tuple[str, str]]:
    """The kinds and texts of the tokens in an action. Raises ``TemplateError``."""
    result, at = [], 0
    while at < len(action):
        found = _TOKEN.match(action, at)
        if found is None:
            raise TemplateError("a sign that is not known")
        result.append((found.lastgroup or "", found.group()))
        at = found.end()
    return result


def unquoted(text: str) -> str:
    """What a quoted string stands for. Raises ``TemplateError``."""
    try:
        return str(json.loads(text))
    except ValueError:
        raise TemplateError("a string that is not understood") from None
