"""The commands beside the session itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aider_guard import config, paths
from aider_guard.errors import ConfigError

if TYPE_CHECKING:
    from aider_guard.core.fit import KvType


def load_settings(flags: Mapping[str, Any]) -> config.Config:
    """The settings here, with these flags by name, None where not given. Raises ConfigError."""
    return config.load(
        flags, project_file=config.project_file(Path.cwd()), user_file=paths.user_config_file()
    )


def settings_of(ctx: click.Context) -> config.Config:
    """The settings, with the flags before the command. Raises ConfigError."""
    return load_settings(ctx.find_root().obj or {})


def aiders_arguments(ctx: click.Context, before: Sequence[str] = ()) -> list[str]:
    """Aider's arguments: what came before a ``--``, and what came after it."""
    return [*before, *ctx.find_root().meta.get("aider_guard.after", ())]


@click.command(context_settings={"ignore_unknown_options": True}, options_metavar="[--json]")
@click.option("--json", "as_json", is_flag=True, help="The findings, as JSON.")
@click.argument("aider_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- AIDER ARGS]")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool, aider_args: tuple[str, ...]) -> int:
    """Check what a session would really run, where, and whether it fits.

    The exit status is 0 when all is fine, 1 when something should be looked at, and 2 when something could not be
    checked.
    """
    from aider_guard.view.doctor import run_doctor

    return run_doctor(
        settings_of(ctx),
        aiders_arguments(ctx, aider_args),
        state_dir=paths.state_dir(),
        as_json=as_json,
    )


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--vram", multiple=True, metavar="GIB", help="The card's memory; once for each card, or 2x24."
)
@click.option("--num-ctx", type=click.IntRange(min=1), metavar="N", help="The window in tokens.")
@click.option(
    "--kv",
    type=click.Choice(["f16", "q8_0", "q4_0"]),
    help="The type of the KV cache.  [default: the server's, or f16]",
)
@click.option("--json", "as_json", is_flag=True, help="All numbers, as JSON.")
@click.pass_context
def fit(
    ctx: click.Context,
    *,
    models: tuple[str, ...],
    vram: tuple[str, ...],
    num_ctx: int | None,
    kv: KvType | None,
    as_json: bool,
) -> int:
    """Say whether models fit into GPU memory, alone and together, and the largest window that does.

    For example: aider-guard fit qwen3:14b --vram 16
    """
    from aider_guard.view.fit import run_fit

    return run_fit(settings_of(ctx), models, vram=vram, num_ctx=num_ctx, kv=kv, as_json=as_json)


@click.command()
@click.option(
    "--vram", multiple=True, metavar="GIB", help="The card's memory; once for each card, or 2x24."
)
@click.option("--write", is_flag=True, help="Write the files; your own lines are kept.")
@click.pass_context
def init(ctx: click.Context, *, vram: tuple[str, ...], write: bool) -> int:
    """Show the .aider.conf.yml for this card, and write it when told to."""
    from aider_guard.view.init import run_init

    return run_init(settings_of(ctx), vram=vram, write=write)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All facts, as JSON.")
@click.option("--line", "as_line", is_flag=True, help="One line, for a status bar.")
def status(*, as_json: bool, as_line: bool) -> int:
    """Show the sessions that run."""
    from aider_guard.view import status as view

    facts = [_ask(session.socket, "status") for session in _running()]
    found = [fact for fact in facts if fact is not None and "error" not in fact]
    if as_json:
        click.echo(json.dumps({"sessions": found}, indent=2))
    else:
        click.echo(view.line(found) + "\n" if as_line else view.table(found), nl=False)
    return 0


@click.command()
@click.argument("session_id", required=False, metavar="[SESSION]")
def restart(session_id: str | None) -> int:
    """Restart Aider in a running session, at its next idle prompt. Nothing is lost."""
    sessions = [session for session in _running() if session_id in (None, session.id)]
    if len(sessions) > 1:
        here = [session for session in sessions if session.working_directory == os.getcwd()]
        sessions = here if len(here) == 1 else sessions
    if not sessions:
        raise ConfigError("no such session is running" if session_id else "no session is running")
    if len(sessions) > 1:
        raise ConfigError(
            f"several sessions are running; name one: {', '.join(session.id for session in sessions)}"
        )
    if _ask(sessions[0].socket, "restart") is None:
        raise ConfigError(f"the session {sessions[0].id} does not answer")
    click.echo(f"Aider restarts at its next idle prompt ({sessions[0].id})")
    return 0


@click.command()
@click.option("--remove", is_flag=True, help="Take away all that the demo installed and left.")
def demo(*, remove: bool) -> int:
    """Try it: a private Aider, Ollama and small model, and a guarded session on a sample repository."""
    if remove:
        from aider_guard.demo.removal import run_removal

        return run_removal()
    from aider_guard.demo.demo import run_demo

    return run_demo()


def _running() -> list[Any]:
    from aider_guard.session import registry

    return list(registry.running(paths.sessions_dir()))


def _ask(socket_path: str, question: str) -> dict[str, Any] | None:
    from aider_guard.session.control import ask

    try:
        return ask(socket_path, question)
    except (OSError, ValueError):
        return None  # it ended just now, or is stopped


COMMANDS = (doctor, fit, init, status, restart, demo)
