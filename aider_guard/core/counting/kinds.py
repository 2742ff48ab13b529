"""What kind of text a piece of a prompt is: how far cl100k is from another vocabulary depends on it."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

Kind = Literal["code", "prose", "data", "wide", "strange"]
"""``data`` is mostly digits, ``wide`` Chinese, Japanese or Korean, ``strange`` other signs beyond ASCII."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_WIDE: Final = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_DIGITS, _CODE = "0123456789", "{}()[]<>=;_/\\#\"'`*+|&$:"


def kind_of(text: str) -> Kind:
    """The kind of most of a text."""
    size = len(text)
    beyond = size - len(text.encode("ascii", "ignore"))
    if beyond > 0.2 * size:
        return "wide" if 2 * len(_WIDE.findall(text)) > beyond else "strange"
    blank = sum(map(text.count, " \n\t"))
    signs = max(1, size - blank)
    if sum(map(text.count, _DIGITS)) > 0.3 * signs:
        return "data"
    return "code" if sum(map(text.count, _CODE)) > 0.08 * signs else "prose"
