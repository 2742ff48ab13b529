"""Writes the manual page from the declared commands: ``python -m release.man_page > release/aider-guard.1``.

click-man writes a page for each command and has no place for arguments after ``--``, variables, files and exit
statuses; this is one page with all of them. The page is kept in the repository, as the wheel is built without click.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from aider_guard import __version__, cli, config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "release" / "aider-guard.1"
_NAME = "aider-guard"
_FILES = (
    (".aider-guard.toml", "Settings of a repository, in its root."),
    (
        "~/.config/aider-guard/config.toml",
        "Settings of the user's; aider-guard config init writes it.",
    ),
    ("~/.local/state/aider-guard", "The journals of sessions; AIDER_GUARD_STATE_DIR moves it."),
    (
        "~/.cache/aider-guard",
        "Vocabularies, and what the demo installed; AIDER_GUARD_CACHE_DIR moves it.",
    ),
)
_EXAMPLES = (
    ("aider-guard -- --model ollama_chat/qwen3:8b", "A session with one model."),
    ("aider-guard --num-ctx 16384 -- --model ollama_chat/qwen3:8b", "With a window of this size."),
    (
        "aider-guard doctor -- --model ollama_chat/qwen3:8b",
        "What would keep that session from working.",
    ),
    ("aider-guard fit qwen3:14b --vram 16", "Whether a model fits, on any machine."),
)


def page() -> str:
    """The whole page, in the macros of man(7)."""
    main = cli.main
    context = click.Context(main, info_name=_NAME, help_option_names=["-h", "--help"])
    lines = [
        f'.TH AIDER\\-GUARD 1 "" "{_NAME} {__version__}" "User Commands"',
        ".SH NAME",
        f"aider\\-guard \\- {_text(_first_sentence(main))}",
        ".SH SYNOPSIS",
        *_synopsis(main, context),
    ]
    for name, command in sorted(main.commands.items()):
        if not command.hidden:
            lines += [".br", *_synopsis(command, click.Context(command, context, name))]
    lines += [".SH DESCRIPTION", *_paragraphs(main), ".SH OPTIONS", *_options(main, context)]
    lines.append(".SH COMMANDS")
    for name, command in sorted(main.commands.items()):
        if not command.hidden:
            inner = click.Context(command, context, name)
            lines += [f".SS {_text(name)}", *_paragraphs(command), *_options(command, inner)]
            if isinstance(command, click.Group):
                for part, below in sorted(command.commands.items()):
                    lines += _entry(f"{name} {part}", below.get_short_help_str(200))
                    lines += [".RS", *_options(below, click.Context(below, inner, part)), ".RE"]
    lines += [
        ".SH EXIT STATUS",
        "Aider's own, or 128 and the number of the signal that killed it; else:",
    ]
    for status, meaning in _statuses():
        lines += _entry(status, meaning)
    lines.append(".SH ENVIRONMENT")
    example = next(name for name in config.SETTINGS if "-" in name)
    lines += _entry(
        _variable(example), f"As --{example}, which is stronger; so for each option with a value."
    )
    lines += _entry("NO_COLOR", "Not empty: no colours.")
    for heading, rows in (("FILES", _FILES), ("EXAMPLES", _EXAMPLES)):
        lines.append(f".SH {heading}")
        for name, words in rows:
            lines += _entry(name, words)
    lines += [".SH SEE ALSO", "aider(1), ollama(1)"]
    return "".join(f"{line}\n" for line in lines)


def _synopsis(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context))
    return [f".B {_text(context.command_path)}", _text(words)]


def _paragraphs(command: click.Command) -> Iterator[str]:
    """A command's help, its paragraphs apart."""
    for paragraph in (command.help or "").split("\n\n"):
        yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _first_sentence(command: click.Command) -> str:
    sentence = (command.help or "").partition(".")[0]
    return sentence[:1].lower() + sentence[1:]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        is_told_above = context.parent is not None and "--help" in parameter.opts
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and not is_told_above:
            yield from _entry(record[0], re.sub(r"\s+", " ", record[1]))


def _entry(name: str, words: str) -> list[str]:
    """A name in bold, and below it, further in, what it is."""
    return [".TP", f".B {_text(name)}", _text(words)]


def _statuses() -> Iterator[tuple[str, str]]:
    """The exit statuses, from the table in docs/usage.md."""
    _, _, below = (ROOT / "docs/usage.md").read_text(encoding="utf-8").partition("\n| status |")
    for row in below.partition("\n\n")[0].splitlines()[2:]:
        status, meaning = (cell.strip() for cell in row.strip("|").split(" |"))
        yield status, re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", meaning)


def _variable(setting: str) -> str:
    return config.ENVIRONMENT_PREFIX + setting.upper().replace("-", "_")


def _text(words: str) -> str:
    """Text as roff prints it: its backslashes and hyphens as they are, and no line taken for a macro."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
