"""Completes words in a shell: the guard's commands and options, and behind ``--`` Aider's options and files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from aider_guard import config, paths
from aider_guard.errors import ConfigError, LaunchError
from aider_guard.launch.aider import find_aider

PROGRAM = "aider-guard"
VARIABLE = "_AIDER_GUARD_COMPLETE"
"""Set by the shell's script: the program then prints completions (click, Shell Completion)."""
SHELLS = ("bash", "zsh", "fish")


def script(commands: click.Command, shell: str) -> str:
    """Return the script that has a shell, one of ``SHELLS``, ask this program for completions."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"there is no completion for {shell}; there is for {', '.join(SHELLS)}")
    return kind(commands, {}, PROGRAM, VARIABLE).source()


def complete(commands: click.Command, instruction: str) -> int:
    """Print the completions of the command line that the shell gives in its variables; the exit status."""
    shell, _, _ = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None:
        return ConfigError.exit_code
    before, _ = kind(commands, {}, PROGRAM, VARIABLE).get_completion_args()
    asked = _aiders_words() if "--" in before else commands
    return shell_complete(asked, {}, PROGRAM, VARIABLE, instruction)


def _aiders_words() -> click.Command:
    words = click.Argument(["words"], nargs=-1, shell_complete=_complete_aiders)
    settings = {"ignore_unknown_options": True}
    return click.Command(PROGRAM, params=[words], context_settings=settings, add_help_option=False)


def _complete_aiders(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    if not incomplete.startswith("-"):
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in _aiders_options() if name.startswith(incomplete)]


def _aiders_options() -> list[str]:
    """Return the options of the Aider that would run, in order; none where it is not found.

    They are read in the text of its parser: to import Aider takes a second.
    """
    try:
        settings = config.load(
            {}, project_file=config.project_file(Path.cwd()), user_file=paths.user_config_file()
        )
        interpreter = find_aider(settings.aider).interpreter[0]
    except (ConfigError, LaunchError, OSError):
        return []
    pattern = "lib/python3*/site-packages/aider/args.py"
    files = sorted(Path(interpreter).parent.parent.glob(pattern))
    return sorted({name for file in files for name in options_in(file.read_text("utf-8"))})


def options_in(source: str) -> Iterator[str]:
    """Yield the long options that a parser's source adds (argparse), with the ``--no-…`` of those that have one."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=names, keywords=more):
                for name in names:
                    if isinstance(name, ast.Constant) and str(name.value).startswith("--"):
                        yield str(name.value)
                        if any(_is_switch(keyword) for keyword in more):
                            yield f"--no-{str(name.value)[2:]}"


def _is_switch(keyword: ast.keyword) -> bool:
    match keyword:
        case ast.keyword(arg="action", value=ast.Attribute(attr="BooleanOptionalAction")):
            return True
    return False
