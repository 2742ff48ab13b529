"""The text of Aider's settings files with what is missing added: every byte of the user's stays where it is.

Both functions are pure: bytes in, bytes out. What they return was parsed again, and says what the old text said and
the new settings, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import OLLAMA_PREFIXES
from aider_guard.launch.pins import EVERY_MODEL

# Adding lines to a YAML text without touching a byte of it. Pure.

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


CONF_NAME = ".aider.conf.yml"
SETTINGS_NAME = ".aider.model.settings.yml"

_ALSO = {
    "architect": ("edit-format", "chat-mode"),  # one destination in aider/args.py
    # aider/deprecated.py: they choose the model where none is named
    "model": (
        *("opus", "sonnet", "haiku", "4", "4o", "mini", "4-turbo", "35turbo", "35-turbo", "3"),
        *("deepseek", "o1-mini", "o1-preview"),
    ),
}
_OTHER_OPTIONS = ("test", "editor")
"""Options of Aider's own that are the beginning of one of ours, and no short form of it."""


@dataclass(frozen=True)
class Setting:
    """One setting to add: its key, its value, and why, in a few words for the end of its line."""

    key: str
    value: str | int | bool
    why: str = ""


@dataclass(frozen=True)
class Kept:
    """What the user has set otherwise than suggested: the key as they wrote it, the value, and in which file.
    ``problem`` says why Aider will not take it as written, "" when it does.
    """

    key: str
    value: str
    suggested: str
    where: str
    problem: str = ""


@dataclass(frozen=True)
class Extended:
    """A file's new content, which settings are new in it, and what was left as the user has it."""

    content: bytes
    added: tuple[str, ...]
    kept: tuple[Kept, ...]


def sets(theirs: object, ours: str) -> bool:
    """Whether a key in a user's file decides an option of Aider's.

    configargparse takes ``name``, ``--name`` and ``no-name``, and argparse any beginning that is no other option's
    name. ``auto_test`` for ``auto-test`` is meant as it too, although Aider refuses it.
    """
    plain = str(theirs).strip().lstrip("-").replace("_", "-").lower().removeprefix("no-")
    if plain in (ours, *_ALSO.get(ours, ())):
        return True
    return len(plain) > 1 and plain not in _OTHER_OPTIONS and ours.startswith(plain)


def read_conf(name: str, content: bytes | None) -> dict[object, Any] | Unavailable:
    """What a ``.aider.conf.yml`` sets, by the keys it uses; nothing for a file that is not there."""
    found = _read(name, content)
    if isinstance(found, Unavailable | dict):
        return found
    return {} if found is None else Unavailable(f"{name} has no settings in the form key: value")


def read_entries(name: str, content: bytes | None) -> list[dict[str, Any]] | Unavailable:
    """The entries of a ``.aider.model.settings.yml``; none for a file that is not there."""
    found = _read(name, content)
    if found is None or isinstance(found, Unavailable):
        return found or []
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in found
    ):
        return Unavailable(f"{name} is no list of entries that each have a name")
    return found


def extend_conf(
    name: str,
    content: bytes | None,
    settings: Sequence[Setting],
    *,
    header: str,
    elsewhere: Sequence[tuple[str, Mapping[object, Any]]] = (),
) -> Extended | Unavailable:
    """A ``.aider.conf.yml`` with those of *settings* that neither it nor a file *elsewhere* (name, keys) decides."""
    own = read_conf(name, content)
    if isinstance(own, Unavailable):
        return own
    theirs = {
        setting.key: (key, value, where)
        for where, keys in (*elsewhere, (name, own))
        for key, value in keys.items()
        for setting in settings
        if sets(key, setting.key)
    }
    missing = [setting for setting in settings if setting.key not in theirs]
    kept = tuple(
        _kept(setting, *theirs[setting.key])
        for setting in settings
        if setting.key in theirs and not _agrees(setting, *theirs[setting.key][:2])
    )
    extended = _extended(name, content, header, [_line(setting) for setting in missing])
    if isinstance(extended, Unavailable):
        return extended
    return Extended(extended, tuple(setting.key for setting in missing), kept)


def extend_entries(
    name: str,
    content: bytes | None,
    entries: Sequence[Mapping[str, Any]],
    *,
    header: str,
    elsewhere: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (),
) -> Extended | Unavailable:
    """A ``.aider.model.settings.yml`` with those *entries* that the user decided nothing about, here or *elsewhere*.

    Decided: by an entry of the same name, which a later file's replaces as a whole; and for an entry of every model by
    any that sets one of its parameters, which it would override (models.py, configure_model_settings).
    """
    own = read_entries(name, content)
    if isinstance(own, Unavailable):
        return own
    theirs = [(where, entry) for where, found in (*elsewhere, (name, own)) for entry in found]
    missing = [entry for entry in entries if not any(_decides(one, entry) for _, one in theirs)]
    kept = tuple(
        Kept(str(one["name"]), _flow(one), _flow(entry), where)
        for entry in entries
        for where, one in theirs
        if _decides(one, entry) and not entry["extra_params"].items() <= extra_params(one).items()
    )
    lines = [yaml.safe_dump([dict(entry)], sort_keys=False) for entry in missing]
    extended = _extended(name, content, header, lines)
    if isinstance(extended, Unavailable):
        return extended
    return Extended(extended, tuple(str(entry["name"]) for entry in missing), kept)


def extra_params(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that an entry sends with every request."""
    found = entry.get("extra_params")
    return found if isinstance(found, dict) else {}


def windows_pinned(entries: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[int]:
    """The windows that entries fix for these models of Ollama's, by their own entry or the one for every model."""
    names = {EVERY_MODEL, *(prefix + model for prefix in OLLAMA_PREFIXES for model in models)}
    windows = [extra_params(entry).get("num_ctx") for entry in entries if entry["name"] in names]
    return [window for window in windows if type(window) is int and window > 0]


def _decides(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    if theirs["name"] == ours["name"]:
        return True
    shared = extra_params(theirs).keys() & ours["extra_params"].keys()
    return ours["name"] == EVERY_MODEL and bool(shared)


def _read(name: str, content: bytes | None) -> Any:
    try:
        return yaml.safe_load((content or b"").decode("utf-8"))
    except UnicodeDecodeError:
        return Unavailable(f"{name} is not in UTF-8")
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return Unavailable(f"{name} is no valid YAML{line}: {error.problem or error.context}")
    except UNREADABLE as error:
        return Unavailable(f"{name} is no valid YAML: {' '.join(str(error).split())}")


def _line(setting: Setting) -> str:
    written = yaml.safe_dump({setting.key: setting.value}, width=10_000).rstrip("\n")
    return f"{written}  # {setting.why}\n" if setting.why else f"{written}\n"


def _flow(entry: Mapping[str, Any]) -> str:
    """An entry's window, the one parameter that is set here; others may be secret."""
    window = extra_params(entry).get("num_ctx")
    return "no num_ctx" if window is None else f"num_ctx {shown(window)}"


def _agrees(setting: Setting, key: object, value: object) -> bool:
    exact = str(key).lstrip("-") == setting.key
    return exact and str(value).lower() == str(setting.value).lower()


def _kept(setting: Setting, key: object, value: object, where: str) -> Kept:
    text = str(key)
    problem = ""
    if "_" in text or text != text.lower():
        problem = f"Aider refuses this spelling, write {setting.key}"
    return Kept(shown(text), shown(value), shown(setting.value), where, problem)


def shown(value: object) -> str:
    """A value as it is said in a sentence."""
    match value:
        case None:
            return "(empty)"
        case bool():
            return "true" if value else "false"
        case list() | dict():
            return "(several values)"
    text = str(value)
    return text if text.isprintable() else ascii(text)


def _extended(
    name: str, content: bytes | None, header: str, lines: Sequence[str]
) -> bytes | Unavailable:
    if not lines:
        return content or b""
    block = "".join([*(f"# {line}\n" for line in header.splitlines()), *lines])
    text = with_lines((content or b"").decode("utf-8"), block)
    if isinstance(text, Unavailable):
        return Unavailable(f"{name} {text.reason}")
    return text.encode("utf-8")
