"""Declares the commands about sessions as a whole: what was open, opening it again, and what a session was like."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click

from aider_guard import config, paths
from aider_guard.errors import LaunchError, TerminalError


def _settings(ctx: click.Context) -> config.Config:
    """Read the settings for the working folder, with the flags before the command. Raises ConfigError."""
    folder = Path.cwd()
    return config.load(
        ctx.find_root().obj or {},
        project_file=config.project_file(folder),
        user_file=paths.user_config_file(),
    )


def _session_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Return the sessions whose names begin so, the newest first, for a shell; else it completes folders."""
    from click.shell_completion import CompletionItem

    names = sorted((path.name for path in paths.sessions_dir().glob("*-*")), reverse=True)
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


_place = click.argument(
    "place", required=False, metavar="[SESSION|FOLDER]", shell_complete=_session_names
)


@click.command()
@click.option("--all", "every", is_flag=True, help="Those of every folder.")
@click.option("--last", is_flag=True, help="Your last message of each, too.")
@click.option("--json", "as_json", is_flag=True, help="All facts, as JSON.")
@click.argument("folder", required=False, metavar="[FOLDER]")
@click.pass_context
def sessions(
    ctx: click.Context, *, every: bool, last: bool, as_json: bool, folder: str | None
) -> int:
    """Show what sessions had open in this repository."""
    from aider_guard.view.sessions import run_sessions

    return run_sessions(
        paths.sessions_dir(),
        folder,
        keep=_settings(ctx).keep_sessions,
        every=every,
        last=last,
        as_json=as_json,
        columns=shutil.get_terminal_size().columns,
    )


@click.command(short_help="Open an ended session again: files, mode, models.")
@_place
@click.pass_context
def resume(ctx: click.Context, place: str | None) -> int:
    """Open a session again that ended: its files, mode, models and last exchanges.

    Without a name it is the newest of this repository. Arguments behind a -- are added to those it had.
    """
    from aider_guard.launch.aider import find_aider
    from aider_guard.session import resuming
    from aider_guard.session.run import run_session

    folder = paths.sessions_dir()
    kept = resuming.choose(folder, place)
    if not (os.isatty(0) and os.isatty(1)):
        raise TerminalError("resume needs a terminal")
    try:
        os.chdir(kept.folder)
    except OSError as error:
        raise LaunchError(
            f"the folder of that session cannot be entered: {kept.folder}: {error.strerror}"
        ) from None
    settings = _settings(ctx)
    tokenizers = find_aider(settings.aider).likely_tokenizers()
    words, resumed = resuming.resume(folder, kept, keep=settings.keep, tokenizers=tokenizers)
    more = ctx.find_root().meta.get("aider_guard.after", ())
    return run_session(settings, [*words, *more], resumed=resumed)


@click.command(short_help="Write a page about a session: what it waited for, and why.")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@click.option("--text", "as_text", is_flag=True, help="Print it here, without charts.")
@click.option("--json", "as_json", is_flag=True, help="All facts, as JSON.")
@click.option("--names", is_flag=True, help="With the names of folder, files and programs.")
@click.option(
    "-o", "--output", metavar="FILE", help="Where to write it.  [default: where sessions are kept]"
)
@_place
def report(
    *, opens: bool, as_text: bool, as_json: bool, names: bool, output: str | None, place: str | None
) -> int:
    """Write a page about a session: what it waited for, its window, its memory, what to change.

    Without a name it is the newest of this repository. The page is one file, which needs no network; it has no text of
    yours, and names of files only with --names.
    """
    from aider_guard.view.report import run_report

    return run_report(
        paths.sessions_dir(),
        place,
        output=output,
        opens=opens,
        as_text=as_text,
        as_json=as_json,
        names=names,
        columns=shutil.get_terminal_size().columns,
    )


@click.command()
@click.option("--once", is_flag=True, help="Print it once, and end.")
@click.option("--json", "as_json", is_flag=True, help="All facts, as JSON.")
@_place
def top(*, once: bool, as_json: bool, place: str | None) -> int:
    """Watch the running sessions: window, speed, memory, notices.

    Keys: r restarts Aider at its next idle prompt, d copies the /drop that makes room, o writes the report, tab selects
    the next session, q ends.
    """
    from aider_guard.view.top import run_top

    return run_top(paths.sessions_dir(), place, once=once, as_json=as_json)


COMMANDS = (sessions, resume, report, top)
