"""Declares every setting once, and reads their values.

The strongest source first: flags, ``AIDER_GUARD_*`` variables, ``.aider-guard.toml`` in the git root, the user's file,
defaults. Every value is checked here, once, and an error says which setting, from where, and what it takes.
"""

from __future__ import annotations

import os
import re
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from aider_guard.core.egress import Allowed, parse_allowed
from aider_guard.errors import ConfigError
from aider_guard.paths import work_tree

ENVIRONMENT_PREFIX = "AIDER_GUARD_"
_OTHER_VARIABLES = ("AIDER_GUARD_CACHE_DIR", "AIDER_GUARD_STATE_DIR")
_NEAR = 0.8
"""How alike two names are, from 0 to 1, when one is taken for the other misspelt; no flag of Aider's is so near."""
_MAX_DIGITS = 12  # Python refuses to read numbers of thousands


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        text = "" if isinstance(value, bool) else str(value).strip()
        if not text.isdecimal() or len(text) > _MAX_DIGITS or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return check


def _window(value: Any) -> int | None:
    if str(value).strip() == "auto":
        return None
    try:
        return _integer(512, 1 << 24)(value)
    except ValueError:
        raise ValueError("auto, or a number of tokens from 512 on") from None


def _share(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if isinstance(value, bool) or not 0.0 <= share <= 0.5:
        raise ValueError("a share of the window from 0 to 0.5")
    return share


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value.strip()


def _command(value: Any) -> str:
    """``bell``, or a command with its arguments as a shell would split it."""
    try:
        command_words(text := _text(value))
    except ValueError:
        raise ValueError("bell, or a command with its quotes closed") from None
    return text


def command_words(command: str) -> tuple[str, ...]:
    """Return the words of ``notify-command``, none for ``bell``. Raises ValueError for an open quote."""
    import shlex

    words = () if command == "bell" else shlex.split(command)
    return tuple(map(os.path.expanduser, words))


def _server(value: Any) -> str:
    """An address as ``OLLAMA_HOST`` takes it, also without scheme or port."""
    from urllib.parse import urlsplit

    from aider_guard.ollama.names import connectable_base

    text = value.strip() if isinstance(value, str) else ""
    try:
        address = urlsplit(connectable_base(text))
        host = address.hostname if address.scheme in ("http", "https") and address.port else ""
    except ValueError:  # a port that is none, half an IPv6 address
        host = ""
    if not (text and re.fullmatch(r"[\w.:%-]+", host or "")):
        raise ValueError("the address of a server, such as http://127.0.0.1:11434")
    return text


def _log(value: Any) -> str | None:
    """A file's path; None for ``auto``, the log that is found."""
    text = value.strip() if isinstance(value, str) else ""
    if text == "auto":
        return None
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        raise ValueError("auto, or the complete path of a file")
    return path


def _allowed(value: Any) -> tuple[Allowed, ...]:
    """A list of texts, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(
            dict.fromkeys(parse_allowed(os.path.expanduser(part.strip())) for part in parts)
        )
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            "places as HOST:PORT, such as github.com:22, and complete paths of sockets"
        ) from None


def _switch(value: Any) -> bool:
    switch = {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())
    if switch is None:
        raise ValueError("true or false")
    return switch


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join((", ".join(allowed[:-1]), allowed[-1])))
        return str(value)

    return check


def _setting(default: Any, check: Callable[[Any], Any], metavar: str, help_text: str) -> Any:
    """Declare one setting: the check, the flag, the help and the table in docs/settings.md follow from it.

    A settings library (pydantic-settings, dynaconf) would take longer to import than the whole guard does.
    """
    return field(default=default, metadata={"check": check, "metavar": metavar, "help": help_text})


@dataclass(frozen=True)
class Config:
    """The values of all settings. Percentages are of the window and of the memory; None means automatic."""

    aider: str = _setting("aider", _text, "PATH", "Which Aider to run.  [default: aider on PATH]")
    ollama: str = _setting("", _server, "URL", "Where Ollama is.  [default: where Aider looks]")
    num_ctx: int | None = _setting(
        None,
        _window,
        "N",
        "The window for every model, in tokens.  [default: auto, the largest that fits]",
    )
    warn_at: int = _setting(
        80, _integer(10, 99), "PERCENT", "Warn when the window is this full.  [default: 80]"
    )
    max_turns: int = _setting(
        20, _integer(0, 100_000), "N", "Restart Aider after so many turns; 0: never.  [default: 20]"
    )
    vram_warn_at: int = _setting(
        90, _integer(10, 100), "PERCENT", "Warn when GPU memory is this full.  [default: 90]"
    )
    probe: Literal["auto", "always", "never"] = _setting(
        "auto",
        _one_of("auto", "always", "never"),
        "WHEN",
        "Ask Aider for its token table: auto, always, never.  [default: auto]",
    )
    keep: float = _setting(
        0.1,
        _share,
        "SHARE",
        "Share of the window for the last exchanges, at a restart.  [default: 0.1]",
    )
    keep_sessions: int = _setting(
        20,
        _integer(0, 1000),
        "N",
        "How many sessions are kept, to resume them; 0: none.  [default: 20]",
    )
    network: Literal["offline", "open"] = _setting(
        "offline",
        _one_of("offline", "open"),
        "offline|open",
        "Whether anything may leave this machine.  [default: offline]",
    )
    allow: tuple[Allowed, ...] = _setting(
        (),
        _allowed,
        "HOST:PORT|SOCKET",
        "Let this through the air gap, a place or the path of a socket; repeat it for each.",
    )
    require_airgap: bool = _setting(
        False, _switch, "", "Start only where the kernel enforces the air gap."
    )
    on_overflow: Literal["refuse", "warn"] = _setting(
        "refuse",
        _one_of("refuse", "warn"),
        "refuse|warn",
        "What happens to a request that does not fit the window.  [default: refuse]",
    )
    read_ahead: Literal["auto", "on", "off"] = _setting(
        "auto",
        _one_of("auto", "on", "off"),
        "auto|on|off",
        "Read the next prompt while you type; auto: where it is of use.  [default: auto]",
    )
    think_for_side_work: bool = _setting(
        False, _switch, "", "Let models think for commit messages and summaries."
    )
    progress: Literal["on", "off"] = _setting(
        "on",
        _one_of("on", "off"),
        "on|off",
        "Tell how far a long prompt is read.  [default: on]",
    )
    greeting: Literal["on", "off"] = _setting(
        "on",
        _one_of("on", "off"),
        "on|off",
        "Say at the first prompt what holds.  [default: on]",
    )
    notify_after: int = _setting(
        0,
        _integer(0, 86_400),
        "SECONDS",
        "Ring when a turn took so long; 0: never.  [default: 0]",
    )
    notify_command: str = _setting(
        "bell", _command, "COMMAND", "What rings: bell, or a command.  [default: bell]"
    )
    ollama_log: str | None = _setting(
        None, _log, "PATH", "The file with Ollama's log.  [default: auto, where it usually is]"
    )


SETTINGS: Mapping[str, Field[Any]] = {
    declared.name.replace("_", "-"): declared for declared in fields(Config)
}
"""Every setting by its name as flags and files write it, in the order of the help."""


def check(name: str, value: Any) -> Any:
    """Convert the value of a setting to its type. Raises ValueError with what the setting takes."""
    return SETTINGS[name].metadata["check"](value)


def load(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    project_file: Path | None = None,
    user_file: Path | None = None,
) -> Config:
    """Read the settings from all sources, strongest first. A flag that is None was not given.

    Raises ConfigError for a value or a name that cannot be used, and for a file that cannot be read.
    """
    config, _ = load_with_sources(
        flags, environment=environment, project_file=project_file, user_file=user_file
    )
    return config


def load_with_sources(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    project_file: Path | None = None,
    user_file: Path | None = None,
) -> tuple[Config, dict[str, str]]:
    """Read the settings as ``load`` does, and say in words where the value of each comes from, by its name."""
    variables = {name: ENVIRONMENT_PREFIX + name.replace("-", "_").upper() for name in SETTINGS}
    set_here = {name: environment[key] for name, key in variables.items() if environment.get(key)}
    sources = [
        ("the flag --{}", {name: value for name, value in flags.items() if value is not None}),
        ("the variable AIDER_GUARD_{}", set_here),
        (f"{{}} in {project_file}", _from_file(project_file)),
        (f"{{}} in {user_file}", _from_file(user_file)),
    ]
    _refuse_misspelt(environment, variables)
    checked = [
        {name: _checked(where, name, value) for name, value in values.items()}
        for where, values in sources
    ]
    _refuse_from_a_repository(checked[2], project_file)
    values = ChainMap(*checked)
    config = Config(**{key.replace("-", "_"): value for key, value in values.items()})
    if config.network == "open" and config.require_airgap:
        raise ConfigError("network is open and require-airgap is set: only one of them can hold")
    shown = ("the flag --{}", "AIDER_GUARD_{}", str(project_file), str(user_file))
    found = {
        name: _named(where, name)
        for where, given in reversed([*zip(shown, checked, strict=True)])
        for name in given
    }
    return config, {name: found.get(name, "default") for name in SETTINGS}


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name that a word was probably meant to be, "" where none is near."""
    import difflib

    plain = {name.replace("-", "").replace("_", "").lower(): name for name in names}
    found = difflib.get_close_matches(
        word.replace("-", "").replace("_", "").lower(), plain, n=1, cutoff=_NEAR
    )
    return plain[found[0]] if found else ""


def _refuse_misspelt(environment: Mapping[str, str], variables: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly one of a setting: it would be without effect, and unnoticed."""
    known = {*variables.values(), *_OTHER_VARIABLES}
    for key in environment:
        if key.startswith(ENVIRONMENT_PREFIX) and key not in known:
            names = {variable.removeprefix(ENVIRONMENT_PREFIX): variable for variable in known}
            meant = nearest(key.removeprefix(ENVIRONMENT_PREFIX), names)
            if meant:
                raise ConfigError(
                    f"the variable {key} is not one of the guard's; did you mean {names[meant]}?"
                )


def _refuse_from_a_repository(values: Mapping[str, Any], path: Path | None) -> None:
    """Refuse settings in a repository's file that could send code away, run a program or remove sessions.

    It may be a stranger's.
    """
    from aider_guard.ollama.names import connectable_base, is_this_machine

    ollama = connectable_base(values.get("ollama", ""))
    dangers = (
        (values.get("network") == "open", "network is open"),
        (bool(values.get("allow")), "allow names places"),
        (values.get("require-airgap") is False, "require-airgap is false"),
        (not is_this_machine(ollama), "ollama is on another machine"),
        ("keep-sessions" in values, "keep-sessions is set"),
        ("aider" in values, "aider names a program to run"),
        ("notify-command" in values, "notify-command names a program to run"),
    )
    what = next((words for is_so, words in dangers if is_so), "")
    if what:
        raise ConfigError(
            f"{what} in {path}: a repository cannot decide that; set it in your own settings or by a flag"
        )


def _named(where: str, name: str) -> str:
    """Return the words for a source, with the name of a setting as it stands there."""
    is_variable = ENVIRONMENT_PREFIX in where
    return where.format(name.replace("-", "_").upper() if is_variable else name)


def _checked(where: str, name: str, value: Any) -> Any:
    source = _named(where, name)
    if name not in SETTINGS:
        meant = nearest(name, SETTINGS)
        helps = f"did you mean {meant}?" if meant else f"the settings are {', '.join(SETTINGS)}"
        raise ConfigError(f"{source} is not a setting; {helps}")
    try:
        return check(name, value)
    except ValueError as allowed:
        written = str(value).lower() if isinstance(value, bool) else repr(value)  # as in TOML
        raise ConfigError(f"{source} is {written}: it takes {allowed}") from None


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: broken TOML, other bytes, endless numbers
        raise ConfigError(f"{path} cannot be read as settings: {error}") from error
    return values


def project_file(start: Path) -> Path | None:
    """``.aider-guard.toml`` of the git work tree that *start* lies in, whether it exists or not; None outside one."""
    root = work_tree(start)
    return root / ".aider-guard.toml" if root else None
