"""The command line. Everything after ``--`` is Aider's, untouched."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aider_guard import __version__, paths
from aider_guard.commands import COMMANDS, aiders_arguments, load_settings
from aider_guard.errors import ConfigError, GuardError


class _Group(click.Group):
    """A first word that names no command of ours begins Aider's arguments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return "session", _session, args
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    options_metavar="[OPTIONS]",
    subcommand_metavar="[--] [AIDER ARGS] | COMMAND",
)
@click.option("--aider", metavar="PATH", help="Which Aider to run.  [default: aider on PATH]")
@click.option("--ollama", metavar="URL", help="Where Ollama is.  [default: where Aider looks]")
@click.option(
    "--num-ctx",
    metavar="N",
    help="The window for every model, in tokens.  [default: auto, the largest that fits]",
)
@click.option(
    "--warn-at", metavar="PERCENT", help="Warn when the window is this full.  [default: 80]"
)
@click.option(
    "--max-turns", metavar="N", help="Restart Aider after so many turns; 0: never.  [default: 20]"
)
@click.option(
    "--vram-warn-at", metavar="PERCENT", help="Warn when GPU memory is this full.  [default: 90]"
)
@click.option(
    "--probe",
    metavar="WHEN",
    help="Ask Aider for its token table: auto, always, never.  [default: auto]",
)
@click.option(
    "--keep",
    metavar="SHARE",
    help="Share of the window for what was said last, at a restart.  [default: 0.1]",
)
@click.option(
    "--network",
    metavar="offline|open",
    help="Whether anything may leave this machine.  [default: offline]",
)
@click.option(
    "--allow",
    metavar="HOST:PORT",
    multiple=True,
    help="Let this through the air gap; once for each place.",
)
@click.option(
    "--require-airgap",
    is_flag=True,
    default=None,
    help="Start only where the kernel enforces the air gap.",
)
@click.option(
    "--on-overflow",
    metavar="refuse|warn",
    help="What becomes of a request that does not fit the window.  [default: refuse]",
)
@click.option(
    "--ollama-log",
    metavar="PATH",
    help="The file with Ollama's log.  [default: auto, where it usually is]",
)
@click.option("--show", is_flag=True, help="Show what would be run, and do not run it.")
@click.version_option(__version__, prog_name="aider-guard")
@click.pass_context
def main(
    ctx: click.Context, /, *, show: bool, allow: tuple[str, ...], **flags: str | bool | None
) -> object:
    """Run Aider on local Ollama models, guarded.

    For example: aider-guard -- --model ollama_chat/qwen3:8b

    The guard checks what will really run, fixes the window, warns before it is full with the /drop that helps,
    watches memory, and restarts Aider after some turns without losing anything. Options must come before Aider's
    arguments.
    """
    ctx.obj = {name.replace("_", "-"): value for name, value in flags.items()}
    ctx.obj["allow"] = ",".join(allow) if allow else None
    ctx.meta["aider_guard.show"] = show
    if ctx.invoked_subcommand is None:
        return ctx.invoke(_session, aider_args=())
    return None


@main.command("session", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("aider_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _session(ctx: click.Context, aider_args: tuple[str, ...]) -> int:
    words = aiders_arguments(ctx, aider_args)
    return guarded_session(words, ctx.obj or {}, show=bool(ctx.meta.get("aider_guard.show")))


for _command in COMMANDS:
    main.add_command(_command)


def guarded_session(
    aider_args: Sequence[str], flags: Mapping[str, Any], *, show: bool = False
) -> int:
    """Run Aider under guard; its exit status. *flags* are settings by name, None where not given. Raises GuardError.

    With *show* it is only said what would be run.
    """
    from aider_guard.launch.page import serves_page
    from aider_guard.launch.starting import is_one_shot

    settings = load_settings(flags)
    if show:
        from aider_guard.view.show import run_show

        return run_show(settings, aider_args)
    is_alone = is_one_shot(aider_args) or serves_page(aider_args, os.environ, Path.cwd())
    if is_alone or not (os.isatty(0) and os.isatty(1)):
        from aider_guard.session.oneshot import run_one_shot

        return run_one_shot(settings, aider_args)
    from aider_guard.session.run import run_session

    return run_session(settings, aider_args)


def _kept(error: Exception) -> str:
    """A sentence about a fault of ours, whose details are kept in a file for a report."""
    import traceback

    what = f"it failed by a fault of its own ({type(error).__name__}: {error})"
    try:
        folder = paths.state_dir()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "fault.txt"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return what
    return f"{what}; the details are in {path}"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit status. What goes wrong is said in one sentence on standard error."""
    ours, after = list(arguments), []
    if "--" in ours:
        at = ours.index("--")
        ours, after = ours[:at], ours[at + 1 :]
    try:
        with main.make_context("aider-guard", ours) as context:
            context.meta["aider_guard.after"] = after
            status = main.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return ConfigError.exit_code
    except GuardError as error:
        sys.stderr.write(f"aider-guard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # a fault of ours; the terminal is restored by now
        sys.stderr.write(f"aider-guard: {_kept(error)}\n")
        return GuardError.exit_code
    return status if isinstance(status, int) else 0
