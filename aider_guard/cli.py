"""Declares the command line and runs its commands. Everything after ``--`` goes to Aider untouched."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aider_guard import __version__, config, paths, session_commands
from aider_guard.core.printable import printable
from aider_guard.errors import ConfigError, GuardError, LaunchError

_LINE_END = "\n"
_AIDERS_TOO = ("--help", "--version")


def load_settings(flags: Mapping[str, Any]) -> config.Config:
    """Read the settings for this folder; *flags* are by name, None where not given. Raises ConfigError."""
    return config.load(
        flags, project_file=config.project_file(Path.cwd()), user_file=paths.user_config_file()
    )


def settings_of(ctx: click.Context) -> config.Config:
    """Read the settings, with the flags before the command. Raises ConfigError."""
    return load_settings(ctx.find_root().obj or {})


def aiders_arguments(ctx: click.Context, before: Sequence[str] = ()) -> list[str]:
    """Aider's arguments: those before a ``--`` that are not ours, and those after it."""
    return [*before, *ctx.find_root().meta.get("aider_guard.after", ())]


@click.command(
    context_settings={"ignore_unknown_options": True},
    options_metavar="[-v] [--json] [--report]",
    short_help="Check what a session would use, where, and whether it fits.",
)
@click.option("--json", "as_json", is_flag=True, help="The findings, as JSON.")
@click.option(
    "--report", "as_report", is_flag=True, help="Versions and findings, without secrets, to paste."
)
@click.option("-v", "--verbose", is_flag=True, help="Notes, too: what needs nothing from you.")
@click.argument("aider_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- AIDER ARGS]")
@click.pass_context
def doctor(ctx: click.Context, /, *, aider_args: tuple[str, ...], **output: Any) -> int:
    """Check what a session would really run, where, and whether it fits.

    The exit status is 0 when no problem was found, 1 when one was, and 2 when something could not be checked.
    """
    from aider_guard.view.doctor import run_doctor

    _refuse_misspelt_options(aider_args, [*ctx.command.params, *ctx.find_root().command.params])
    return run_doctor(
        settings_of(ctx),
        aiders_arguments(ctx, aider_args),
        state_dir=paths.state_dir(),
        **output,
    )


_vram_option = click.option(
    "--vram", multiple=True, metavar="GIB", help="The card's memory; once for each card, or 2x24."
)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@_vram_option
@click.option("--num-ctx", type=click.IntRange(min=1), metavar="N", help="The window in tokens.")
@click.option(
    "--kv",
    type=click.Choice(["f16", "q8_0", "q4_0"]),
    help="The type of the KV cache.  [default: the server's, or f16]",
)
@click.option("--json", "as_json", is_flag=True, help="All numbers, as JSON.")
@click.pass_context
def fit(ctx: click.Context, /, **options: Any) -> int:
    """Show whether models fit into GPU memory, and the window.

    It answers for each model alone and for all together, with the largest window that fits.

    For example: aider-guard fit qwen3:14b --vram 16, or with a file: aider-guard fit model.gguf
    """
    from aider_guard.view.fit import run_fit

    return run_fit(settings_of(ctx), **options)


@click.command()
@_vram_option
@click.option("--write", is_flag=True, help="Write the files; your own lines are kept.")
@click.pass_context
def init(ctx: click.Context, *, vram: tuple[str, ...], write: bool) -> int:
    """Suggest an .aider.conf.yml for this card, or write it."""
    from aider_guard.view.init import run_init

    return run_init(settings_of(ctx), vram=vram, write=write)


@click.group(
    invoke_without_command=True,
    subcommand_metavar="show | init",
    short_help="Show the settings with their sources, or write a file.",
)
@click.pass_context
def config_group(ctx: click.Context) -> None:
    """Show the settings with their sources, or write a file for them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@config_group.command("show")
@click.option("--json", "as_json", is_flag=True, help="The settings, as JSON.")
@click.pass_context
def config_show(ctx: click.Context, *, as_json: bool) -> int:
    """Show each setting, its value here, and where that comes from."""
    from aider_guard.view.settings import run_show_settings

    settings, sources = config.load_with_sources(
        ctx.find_root().obj or {},
        project_file=config.project_file(Path.cwd()),
        user_file=paths.user_config_file(),
    )
    return run_show_settings(settings, sources, as_json=as_json)


@config_group.command("init")
def config_init() -> int:
    """Write a settings file of your own, with every setting commented out."""
    from aider_guard.view.settings import run_write_settings

    return run_write_settings(paths.user_config_file())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All facts, as JSON.")
@click.option("--line", "as_line", is_flag=True, help="One line, for a status bar.")
@click.argument("place", required=False, metavar="[SESSION|FOLDER]")
def status(*, as_json: bool, as_line: bool, place: str | None) -> int:
    """Show the running sessions, or those of a folder."""
    from aider_guard.session import registry
    from aider_guard.view import status as view
    from aider_guard.view.page import columns_of

    found = _running(place)
    answers = [_status_of(session) for session in found]
    sessions = [answer for answer in answers if answer is not None and view.is_answer(answer)]
    if as_json:
        click.echo(json.dumps({"sessions": sessions}, indent=2))
    elif as_line:
        click.echo(view.line(sessions))
    elif not found:
        click.echo(registry.none_at(_running(), place))
    else:
        click.echo(view.table(sessions, columns_of(sys.stdout)), nl=False)
    return 0


@click.command()
@click.argument("place", required=False, metavar="[SESSION|FOLDER]")
def restart(place: str | None) -> int:
    """Restart Aider in a running session, at its next idle prompt. Nothing is lost."""
    from aider_guard.session import registry

    sessions = _running(place)
    if len(sessions) > 1:
        here = [session for session in sessions if session.working_directory == os.getcwd()]
        sessions = here if len(here) == 1 else sessions
    if not sessions:
        raise ConfigError(registry.none_at(_running(), place))
    if len(sessions) > 1:
        ids = ", ".join(session.id for session in sessions)
        raise ConfigError(f"several sessions are running; name one: {ids}")
    if _is_stopped(sessions[0]):
        raise ConfigError(
            f"the session {sessions[0].id} is stopped; fg in its terminal continues it"
        )
    answer = _ask(sessions[0].socket, "restart")
    if answer is None or "error" in answer:
        problem = answer and answer["error"]
        raise ConfigError(problem or f"the session {sessions[0].id} does not answer")
    click.echo(f"Aider restarts at its next idle prompt ({printable(sessions[0].id)})")
    return 0


@click.command(short_help="Try it with a private Aider, Ollama and small model.")
@click.option("--remove", is_flag=True, help="Remove everything that the demo installed and left.")
def demo(*, remove: bool) -> int:
    """Try it: a private Aider, Ollama and small model, and a guarded session on a sample repository."""
    if remove:
        from aider_guard.demo.removal import run_removal

        return run_removal()
    from aider_guard.demo.demo import run_demo

    return run_demo(guarded_session)


@click.command(short_help="Print what makes a shell complete commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> int:
    """Print what makes a shell complete commands, options and Aider's own.

    For example, in ~/.bashrc: eval "$(aider-guard completion bash)"
    """
    from aider_guard.completion import script

    click.echo(script(main, shell))
    return 0


def _running(place: str | None = None) -> list[Any]:
    from aider_guard.session import registry

    return registry.at(registry.running(paths.sessions_dir()), place)


def _is_stopped(session: Any) -> bool:
    from aider_guard.session import registry

    return registry.is_stopped(session)


def _status_of(session: Any) -> dict[str, Any] | None:
    from aider_guard.session.control import stopped_facts

    return stopped_facts(session) if _is_stopped(session) else _ask(session.socket, "status")


def _ask(socket_path: str, question: str) -> dict[str, Any] | None:
    from aider_guard.session.control import ask

    try:
        return ask(socket_path, question)
    except (OSError, ValueError, RecursionError):
        return None  # it ended just now, or is stopped


def _refuse_misspelt(words: Sequence[str], group: click.Group) -> None:
    """Refuse what is nearly a command or an option of ours, among the words before a ``--``. Raises ConfigError.

    Aider would create a file for the one, and print its 80 lines of usage for the other.
    """
    first = words[0]
    if first.isalpha() and not os.path.lexists(first):
        shown = [name for name, command in group.commands.items() if not command.hidden]
        if meant := config.nearest(first, shown):
            raise ConfigError(
                f"no such command: {first}; did you mean {meant}? A file of that name: aider-guard -- {first}"
            )
    _refuse_misspelt_options(words, group.params)


def _refuse_misspelt_options(words: Sequence[str], params: Sequence[click.Parameter]) -> None:
    """Refuse what is, or nearly is, one of these options, among the words before a ``--``. Raises ConfigError."""
    ours = [option for parameter in params for option in parameter.opts if option[:2] == "--"]
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        meant = config.nearest(option, ours)
        if meant == option and option not in _AIDERS_TOO:
            raise ConfigError(
                f"{option} is an option of aider-guard: it goes before Aider's arguments"
            )
        if meant and meant != option:
            raise ConfigError(
                f"no such option: {option}; did you mean {meant}? One of Aider's goes behind a --"
            )


class _Group(click.Group):
    """Takes a first word that names none of the commands as the first of Aider's arguments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            _refuse_misspelt(args, self)
            return "session", _session, args
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete files, too: Aider's may follow without a ``--``."""
        from click.shell_completion import CompletionItem

        files = [] if incomplete.startswith("-") else [CompletionItem(incomplete, type="file")]
        return [*files, *super().shell_complete(ctx, incomplete)]


def _setting_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command a flag for each setting, as config.py declares it."""
    for name, declared in reversed([*config.SETTINGS.items()]):
        described: dict[str, Any] = {"help": declared.metadata["help"]}
        if declared.default is False:
            described |= {"is_flag": True, "default": None}
        else:
            described |= {"metavar": declared.metadata["metavar"], "multiple": name == "allow"}
        command = click.option(f"--{name}", **described)(command)
    return command


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    options_metavar="[OPTIONS]",
    subcommand_metavar="[--] [AIDER ARGS] | COMMAND",
)
@_setting_options
@click.option("--show", is_flag=True, help="Show what would be run, without running it.")
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
    _check_place()
    ctx.obj = {name.replace("_", "-"): value for name, value in flags.items()}
    ctx.obj["allow"] = ",".join(allow) if allow else None
    ctx.meta["aider_guard.show"] = show
    if ctx.invoked_subcommand is None:
        return ctx.invoke(_session, aider_args=())
    return None


def _check_place() -> None:
    """Refuse to run in a folder that is gone, and with folders of another user's. Raises LaunchError."""
    try:
        os.getcwd()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        what = "was removed" if gone else f"cannot be read ({error.strerror})"
        raise LaunchError(f"the folder you are in {what}; cd to one that exists") from None
    paths.check_folders()


@main.command("session", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("aider_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _session(ctx: click.Context, aider_args: tuple[str, ...]) -> int:
    arguments = aiders_arguments(ctx, aider_args)
    return guarded_session(arguments, ctx.obj or {}, show=bool(ctx.meta.get("aider_guard.show")))


for _command in (doctor, fit, init, status, restart, demo, completion, *session_commands.COMMANDS):
    main.add_command(_command)
main.add_command(config_group, "config")


def guarded_session(
    aider_args: Sequence[str], flags: Mapping[str, Any], *, show: bool = False
) -> int:
    """Run Aider under guard; its exit status. *flags* are settings by name, None where not given. Raises GuardError.

    With *show*, print what would be run instead.
    """
    from aider_guard.launch.start_command import is_one_shot, serves_page

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


def _fault_message(error: Exception) -> str:
    """A sentence about a fault of the guard's own; the traceback goes into a file, for a report."""
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


def _sentence(error: click.ClickException) -> str:
    """Return the words of an error of click's as those of ours, with where the usage is."""
    words = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    usage = f"{context.command_path} --help shows what it takes" if context else ""
    between = "" if not usage else " " if words.endswith("?") else "; "
    return f"{words[:1].lower()}{words[1:]}{between}{usage}"


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status. An error is one sentence on standard error."""
    status = _run(arguments)
    return _lost_output() or status


def _lost_output() -> int:
    """Write what was printed and is still kept; 0, or the exit status where standard output does not take it.

    A reader that left (``| head``) is no error: the status is that of a program which SIGPIPE ended.
    """
    if sys.__stdout__ is None:  # it was closed before the start
        return 0
    try:
        sys.__stdout__.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:  # for what Python flushes when it ends
            os.dup2(nowhere.fileno(), sys.__stdout__.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        sys.stderr.write(f"aider-guard: the output cannot be written: {error.strerror}\n")
        return GuardError.exit_code
    return 0


def _run(arguments: Sequence[str]) -> int:
    if instruction := os.environ.get("_AIDER_GUARD_COMPLETE"):
        from aider_guard.completion import complete

        return complete(main, instruction)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        with main.make_context("aider-guard", list(arguments[:end])) as context:
            context.meta["aider_guard.after"] = list(arguments[end + 1 :])
            status = main.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        sys.stderr.write(f"aider-guard: {printable(_sentence(error), kept=_LINE_END)}\n")
        return ConfigError.exit_code
    except GuardError as error:
        sys.stderr.write(f"aider-guard: {printable(str(error), kept=_LINE_END)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # a fault of ours; the terminal is restored by now
        if isinstance(error, OSError) and (lost := _lost_output()):
            return lost
        sys.stderr.write(f"aider-guard: {printable(_fault_message(error), kept=_LINE_END)}\n")
        return GuardError.exit_code
    return status if isinstance(status, int) else 0
