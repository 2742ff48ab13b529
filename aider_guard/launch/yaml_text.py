"""Adding lines to a YAML text without touching a byte of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from aider_guard.core.readings import Unavailable

UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError)
"""What PyYAML raises for a text that is none: besides its own, errors of dates, numbers and nesting."""


def with_lines(text: str, block: str) -> str | Unavailable:
    """The text with the block's lines added to its outermost mapping or list, in the text's own kind of new line.

    The result was parsed again: it says what the text said and what the block says. ``Unavailable`` when there is no
    place for which that holds; the text is valid YAML.
    """
    try:
        before, ours = _parts(text), _parts(block)
        for candidate in _candidates(text, block):
            if _says(candidate, before, ours):
                return candidate
    except UNREADABLE as error:
        return Unavailable(f"cannot be extended: {' '.join(str(error).split())}")
    return Unavailable(
        "is in a form that cannot be extended without changing it (braces or brackets around it all?)"
    )


def _candidates(text: str, block: str) -> Iterator[str]:
    """The text with the block at each place where it may belong: the end, before ``...``, the beginning."""
    newline = _newline(text)
    root = _root(text)
    column = root.start_mark.column if root else 0
    block = "".join(" " * column + line + newline for line in block.splitlines())
    has_lines = bool(text.strip("\ufeff"))
    closed = text if not has_lines or text.endswith(("\n", "\r")) else text + newline
    if has_lines:
        yield closed + newline + block
    yield closed + block
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentEndEvent) and event.explicit and event.start_mark:
            yield text[: event.start_mark.index] + block + text[event.start_mark.index :]
    if root:
        start = root.start_mark.index - column
        yield text[:start] + block + text[start:]


def _root(text: str) -> yaml.Node | None:
    """The outermost node; None for a text of comments only, also when ``---`` begins it."""
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.ScalarNode) and root.start_mark.index == root.end_mark.index:
        return None
    return root


def _newline(text: str) -> str:
    if "\r\n" in text:
        return "\r\n"
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _says(candidate: str, before: list[str], ours: list[str]) -> bool:
    try:
        return _parts(candidate) in (before + ours, ours + before)
    except UNREADABLE:
        return False


def _parts(text: str) -> list[str]:
    """What a text says, part by part: compared as nodes, since a value need not be equal to itself (``.nan``)."""
    match _root(text):
        case None:
            return []
        case yaml.MappingNode(value=pairs):
            return [_written(key) + _written(value) for key, value in pairs]
        case yaml.SequenceNode(value=items):
            return [_written(item) for item in items]
        case root:
            return [_written(root)]


def _written(node: yaml.Node) -> str:
    return str(yaml.serialize(node, Dumper=yaml.SafeDumper))
