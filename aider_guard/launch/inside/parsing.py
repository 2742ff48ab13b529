"""Runs Aider's own parser as the first steps of Aider's main() do (aider/main.py 449-640, 0.86.2)."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import Origins
from .files import readable_config_files, watch_dotenv
from .value_sources import ValueSources

# What Aider copies from options to the environment after --set-env and --api-key, in its order.
_TO_ENVIRONMENT = (
    ("anthropic_api_key", "ANTHROPIC_API_KEY"),
    ("openai_api_key", "OPENAI_API_KEY"),
    ("openai_api_base", "OPENAI_API_BASE"),
    ("openai_api_version", "OPENAI_API_VERSION"),
    ("openai_api_type", "OPENAI_API_TYPE"),
    ("openai_organization_id", "OPENAI_ORGANIZATION"),
)


class Quiet:
    """Replaces Aider's InputOutput and prints nothing: Aider prints the same when it starts."""

    def tool_output(self, *words: Any, **options: Any) -> None:
        """Print nothing."""

    tool_error = tool_warning = tool_output


@dataclass
class Parsed:
    """What Aider's parser made of all settings, and what could not be read on the way."""

    options: Any
    git_root: str | None
    origins: Origins
    sources: ValueSources
    config_files: list[str]
    env_files: list[str]
    problems: list[str]
    chosen_by: str = ""
    """Where the main model was chosen, when it was by one of the old flags (``--4o``)."""


def parse(aider_main: Any, arguments: list[str]) -> Parsed:
    """Parse as Aider will, and leave the environment as Aider will have it. Raises SystemExit where its parser does."""
    origins = Origins()
    git_root = aider_main.get_git_root() if aider_main.git is not None else None
    parsed = _parse_in(aider_main, arguments, git_root, origins)
    right_root = _right_root(aider_main, parsed)
    if right_root:  # as main() calls itself again; what the first .env files set stays
        _apply_flags(parsed)
        parsed = _parse_in(aider_main, arguments, right_root, origins)
    _apply_flags(parsed)
    _apply_old_flags(aider_main, parsed)
    return parsed


def _parse_in(
    aider_main: Any, arguments: list[str], git_root: str | None, origins: Origins
) -> Parsed:
    problems: list[str] = []
    env_files: list[str] = []
    defaults = readable_config_files(_config_files(git_root), problems)
    parser = aider_main.get_parser(defaults, git_root)
    options_so_far, _ = parser.parse_known_args(arguments)
    with watch_dotenv(aider_main, origins, env_files, problems):
        aider_main.load_dotenv_files(git_root, options_so_far.env_file, options_so_far.encoding)
    options = parser.parse_args(arguments)
    sources = ValueSources(parser, options, arguments, origins)
    named = getattr(options, "config", None)
    config_files = [path for path in (*defaults, named) if path and os.path.exists(path)]
    return Parsed(options, git_root, origins, sources, config_files, env_files, problems)


def _config_files(git_root: str | None) -> list[str]:
    """Home, git root, working folder: a later one goes before an earlier one (main.py 465-497)."""
    name = ".aider.conf.yml"
    files = [os.path.realpath(name)]
    if git_root and os.path.join(git_root, name) not in files:
        files.append(os.path.join(git_root, name))
    files.append(str(Path.home() / name))
    return files[::-1]


def _right_root(aider_main: Any, parsed: Parsed) -> str | None:
    """The repository that Aider will work in when the files on the command line belong to another (main.py 690-722)."""
    options = parsed.options
    files = [*(getattr(options, "files", None) or ()), *(getattr(options, "file", None) or ())]
    guess = getattr(aider_main, "guessed_wrong_repo", None)
    if not files or guess is None or aider_main.git is None or not getattr(options, "git", True):
        return None
    folder = os.path.realpath(files[0]) if len(files) == 1 and os.path.isdir(files[0]) else None
    names = [] if folder else [os.path.realpath(name) for name in files]
    root = guess(Quiet(), parsed.git_root, names, folder)
    return str(root) if root else None


def _apply_flags(parsed: Parsed) -> None:
    """Set what Aider sets from options (main.py 584-635)."""
    options, sources, origins = parsed.options, parsed.sources, parsed.origins
    for setting in getattr(options, "set_env", None) or ():
        _assign(parsed, setting, "set_env", "{}")
    for setting in getattr(options, "api_key", None) or ():
        _assign(parsed, setting, "api_key", "{}_API_KEY")
    for dest, name in _TO_ENVIRONMENT:
        value = getattr(options, dest, None)
        if value:
            os.environ[name] = value
            origins.note(name, sources.option_at(dest))


def _assign(parsed: Parsed, setting: str, dest: str, pattern: str) -> None:
    name, mark, value = setting.partition("=")
    source = parsed.sources.option_at(dest)
    name = pattern.format(name.strip().upper() if dest == "api_key" else name.strip())
    if not mark or not name:
        parsed.problems.append(f"{source} is not of the form NAME=value, and Aider ends with it")
        return
    os.environ[name] = value.strip()
    parsed.origins.note(name, source)
    if dest == "api_key":
        parsed.origins.by_flag.append(name)


def _apply_old_flags(aider_main: Any, parsed: Parsed) -> None:
    """``--4o`` and its like name the main model where nothing else does (aider/deprecated.py)."""
    handle = getattr(aider_main, "handle_deprecated_model_args", None)
    if handle is None or getattr(parsed.options, "model", None):
        return
    before = copy.copy(parsed.options)
    handle(parsed.options, Quiet())
    if not parsed.options.model:
        return
    for dest, value in vars(before).items():
        if value is True:  # the flag that chose it is the one without which another model comes out
            without = copy.copy(before)
            setattr(without, dest, False)
            handle(without, Quiet())
            if without.model != parsed.options.model:
                parsed.chosen_by = parsed.sources.option_at(dest)
                return
