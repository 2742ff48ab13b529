"""Names the source of an option's value: a flag, a variable, a file."""

from __future__ import annotations

from typing import Any

from .environment import Origins


class ValueSources:
    """The sources of one parser's values, from what configargparse noted while it parsed.

    An option that is given in several places is noted once: the command line goes before a variable, that before a
    file, and the files in the order of their precedence (configargparse.py: parse_known_args).
    """

    def __init__(self, parser: Any, options: Any, arguments: list[str], origins: Origins) -> None:
        self._options = options
        self._actions = {action.dest: action for action in parser._actions}  # noqa: SLF001  # argparse has no other
        self._typed = _typed_flags(parser, arguments)
        self._variables: dict[str, str] = {}
        self._files: dict[str, str] = {}
        settings_by_source: dict[str, Any] = getattr(parser, "get_source_to_settings_dict", dict)()
        for source, settings in settings_by_source.items():
            for name, (action, _) in settings.items():
                if action is None:
                    continue
                if source == "environment_variables":
                    self._variables[action.dest] = f"{name} in {origins.of(name)}"
                elif source.startswith("config_file|"):
                    self._files.setdefault(action.dest, source.partition("|")[2])

    def at(self, dest: str) -> str:
        """The source of an option: ``--model on the command line``, ``AIDER_MODEL in /repo/.env``,
        ``/repo/.aider.conf.yml``; "" where the value is the default.
        """
        if dest in self._typed:
            return f"{self._typed[dest]} on the command line"
        return self._variables.get(dest) or self._files.get(dest, "")

    def option_at(self, dest: str) -> str:
        """The source as in :meth:`at`, with the option's name before a file: for what an option sets elsewhere."""
        if dest in self._files and dest not in self._typed and dest not in self._variables:
            return f"{dest.replace('_', '-')} in {self._files[dest]}"
        return self.at(dest)

    def is_default(self, dest: str) -> bool:
        """Whether the value is the option's default."""
        action = self._actions.get(dest)
        return action is None or getattr(self._options, dest, None) == action.default


def _typed_flags(parser: Any, arguments: list[str]) -> dict[str, str]:
    """The options on the command line, each as typed: argparse takes any unambiguous beginning."""
    before_end = arguments[: arguments.index("--")] if "--" in arguments else arguments
    flags = {
        flag: action.dest
        for action in parser._actions  # noqa: SLF001  # argparse has no other way to them
        for flag in action.option_strings
    }
    typed = {}
    for argument in before_end:
        name = argument.partition("=")[0]
        if name in flags:
            typed[flags[name]] = name
        elif name.startswith("--") and len(name) > 2:
            matches = {dest for flag, dest in flags.items() if flag.startswith(name)}
            if len(matches) == 1:
                typed[matches.pop()] = name
    return typed
