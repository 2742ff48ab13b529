"""Adds missing settings to the text of Aider's settings files: every byte of the user's stays where it is.

All functions are pure: bytes in, bytes out. A new text is parsed again before it is returned: it has the old text's
settings and the new ones, nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import EVERY_MODEL, OLLAMA_PREFIXES, extra_params

CONF_NAME = ".aider.conf.yml"
SETTINGS_NAME = ".aider.model.settings.yml"
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError)
"""What PyYAML raises for a text that is not YAML: besides its own, errors of dates, numbers and nesting."""
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
    """A setting of the user's that differs from the suggestion: the key as they wrote it, the value, and its file.
    ``problem`` says why Aider will not take it as written, "" when it does.
    """

    key: str
    value: str
    suggested: str
    where: str
    problem: str = ""


@dataclass(frozen=True)
class Extended:
    """A file's new content, the names of the settings added to it, and the settings that were left as the user has
    them.
    """

    content: bytes
    added: tuple[str, ...]
    kept: tuple[Kept, ...]


# Lines in a YAML text


def with_lines(text: str, block: str) -> str | Unavailable:
    """Add the block's lines to the text's outermost mapping or list, with the text's own line ends.

    The text is valid YAML. The result has the content of both; ``Unavailable`` when no place for the lines gives that.
    """
    try:
        user_parts, added_parts = _parts(text), _parts(block)
        for candidate in _candidates(text, block):
            with contextlib.suppress(*UNREADABLE):
                if _parts(candidate) in (user_parts + added_parts, added_parts + user_parts):
                    return candidate
    except UNREADABLE as error:
        return Unavailable(f"cannot be extended: {' '.join(str(error).split())}")
    return Unavailable(
        "is in a form that cannot be extended without changing it (braces or brackets around it all?)"
    )


def _candidates(text: str, block: str) -> Iterator[str]:
    """The text with the block at each place that is tried: the end, before ``...``, the beginning."""
    newline = "\r\n" if "\r\n" in text else "\r" if "\r" in text and "\n" not in text else "\n"
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
    """The outermost node; None for a text of comments only, also when it begins with ``---``."""
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.ScalarNode) and root.start_mark.index == root.end_mark.index:
        return None
    return root


def _parts(text: str) -> list[str]:
    """The content of a text, part by part: serialised nodes, since a value need not be equal to itself (``.nan``)."""
    match _root(text):
        case None:
            return []
        case yaml.MappingNode(value=pairs):
            return [_serialise(key) + _serialise(value) for key, value in pairs]
        case yaml.SequenceNode(value=items):
            return [_serialise(item) for item in items]
        case root:
            return [_serialise(root)]


def _serialise(node: yaml.Node) -> str:
    return str(yaml.serialize(node, Dumper=yaml.SafeDumper))


# The two settings files


def sets(key: object, option: str) -> bool:
    """Whether a key in a user's file sets an option of Aider's.

    configargparse takes ``name``, ``--name`` and ``no-name``, and argparse any beginning that is no other option's
    name. ``auto_test`` counts for ``auto-test`` too, although Aider refuses it.
    """
    plain = str(key).strip().lstrip("-").replace("_", "-").lower().removeprefix("no-")
    if plain in (option, *_ALSO.get(option, ())):
        return True
    return len(plain) > 1 and plain not in _OTHER_OPTIONS and option.startswith(plain)


def read_conf(name: str, content: bytes | None) -> dict[object, Any] | Unavailable:
    """Read the settings of a ``.aider.conf.yml``, by the keys it uses; none for a file that is not there."""
    conf = _read(name, content)
    if isinstance(conf, Unavailable | dict):
        return conf
    return {} if conf is None else Unavailable(f"{name} has no settings in the form key: value")


def read_entries(name: str, content: bytes | None) -> list[dict[str, Any]] | Unavailable:
    """Read the entries of a ``.aider.model.settings.yml``; none for a file that is not there."""
    entries = _read(name, content)
    if entries is None or isinstance(entries, Unavailable):
        return entries or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        return Unavailable(f"{name} is not a list of entries that each have a name")
    return entries


def extend_conf(
    name: str,
    content: bytes | None,
    settings: Sequence[Setting],
    *,
    header: str,
    elsewhere: Sequence[tuple[str, Mapping[object, Any]]] = (),
) -> Extended | Unavailable:
    """Add to a ``.aider.conf.yml`` those *settings* that neither it nor a file *elsewhere* (name, keys) has."""
    own_keys = read_conf(name, content)
    if isinstance(own_keys, Unavailable):
        return own_keys
    user_values = {
        setting.key: (key, value, where)
        for where, keys in (*elsewhere, (name, own_keys))
        for key, value in keys.items()
        for setting in settings
        if sets(key, setting.key)
    }
    lines: dict[str, str] = {}
    kept: list[Kept] = []
    for setting in settings:
        if setting.key in user_values:
            kept += _kept_setting(setting, *user_values[setting.key])
        else:
            line = yaml.safe_dump({setting.key: setting.value}, width=10_000).rstrip("\n")
            lines[setting.key] = f"{line}  # {setting.why}\n" if setting.why else f"{line}\n"
    return _extended(name, content, header, lines, tuple(kept))


def extend_entries(
    name: str,
    content: bytes | None,
    entries: Sequence[Mapping[str, Any]],
    *,
    header: str,
    elsewhere: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (),
) -> Extended | Unavailable:
    """Add to a ``.aider.model.settings.yml`` those *entries* that the user decided nothing about, here or *elsewhere*.

    The user decided about an entry with one of the same name, since a later file's entry replaces it as a whole; and
    about the entry for every model with any entry that sets one of its parameters, which it would override (models.py,
    configure_model_settings).
    """
    own = read_entries(name, content)
    if isinstance(own, Unavailable):
        return own
    users = [(where, entry) for where, file in (*elsewhere, (name, own)) for entry in file]
    kept = tuple(
        Kept(str(user["name"]), _window_text(user), _window_text(entry), where)
        for entry in entries
        for where, user in users
        if _decides(user, entry) and not entry["extra_params"].items() <= extra_params(user).items()
    )
    lines = {
        str(entry["name"]): yaml.safe_dump([dict(entry)], sort_keys=False)
        for entry in entries
        if not any(_decides(user, entry) for _, user in users)
    }
    return _extended(name, content, header, lines, kept)


def pinned_windows(entries: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[int]:
    """The windows that entries fix for these Ollama models, by a model's own entry or the one for every model."""
    names = {EVERY_MODEL, *(prefix + model for prefix in OLLAMA_PREFIXES for model in models)}
    windows = [extra_params(entry).get("num_ctx") for entry in entries if entry["name"] in names]
    return [window for window in windows if type(window) is int and window > 0]


def _decides(user: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    if user["name"] == entry["name"]:
        return True
    shared = extra_params(user).keys() & entry["extra_params"].keys()
    return entry["name"] == EVERY_MODEL and bool(shared)


def _read(name: str, content: bytes | None) -> Any:
    try:
        return yaml.safe_load((content or b"").decode("utf-8"))
    except UnicodeDecodeError:
        return Unavailable(f"{name} is not in UTF-8")
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return Unavailable(f"{name} is not valid YAML{line}: {error.problem or error.context}")
    except UNREADABLE as error:
        return Unavailable(f"{name} is not valid YAML: {' '.join(str(error).split())}")


def _window_text(entry: Mapping[str, Any]) -> str:
    """Show an entry's window, the only parameter that is suggested; others may be secret."""
    window = extra_params(entry).get("num_ctx")
    return "no num_ctx" if window is None else f"num_ctx {value_text(window)}"


def _kept_setting(setting: Setting, key: object, value: object, where: str) -> list[Kept]:
    """The user's setting, where it differs from the suggestion."""
    text, suggested = str(key), setting.value
    if text.lstrip("-") == setting.key and str(value).lower() == str(suggested).lower():
        return []
    is_refused = "_" in text or text != text.lower()
    problem = f"Aider refuses this spelling, write {setting.key}" if is_refused else ""
    return [Kept(value_text(text), value_text(value), value_text(suggested), where, problem)]


def value_text(value: object) -> str:
    """A value as it is shown in a sentence."""
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
    name: str, content: bytes | None, header: str, lines: Mapping[str, str], kept: tuple[Kept, ...]
) -> Extended | Unavailable:
    """The file with new lines, by what they add, below the header."""
    if not lines:
        return Extended(content or b"", (), kept)
    block = "".join([*(f"# {line}\n" for line in header.splitlines()), *lines.values()])
    text = with_lines((content or b"").decode("utf-8"), block)
    if isinstance(text, Unavailable):
        return Unavailable(f"{name} {text.reason}")
    return Extended(text.encode("utf-8"), tuple(lines), kept)
