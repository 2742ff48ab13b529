"""Runs Aider without a conversation: for one task, or without a terminal. It uses the user's own history files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from aider_guard.airgap.gap import Enter
from aider_guard.airgap.served import Sandbox, build_sandbox, choose
from aider_guard.config import Config
from aider_guard.core import messages
from aider_guard.core.actions import EndSession
from aider_guard.core.events import Event, LaunchForbidden, ServerSurveyed
from aider_guard.core.fit import Fit
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.lifecycle import exit_status
from aider_guard.core.server_report import ServerReport
from aider_guard.core.state import Limits
from aider_guard.errors import LaunchError, LaunchRefusedError
from aider_guard.launch import command, pins
from aider_guard.launch.aider import find_aider
from aider_guard.launch.aider_settings import AiderSettings, decode
from aider_guard.launch.door_settings import served_models
from aider_guard.launch.facts import NOT_ASKED
from aider_guard.launch.plan import Plan
from aider_guard.launch.start_command import aider_environment, serves_page
from aider_guard.process_starter import ProcessStarter
from aider_guard.session.launches import ollama_names
from aider_guard.session.loaded_code import finish_loading, helper_starter
from aider_guard.session.notices import print_notices
from aider_guard.session.planning import Planner, planner_behind
from aider_guard.session.start_aider import door_socket, entering, passed_fds, sandboxed_command
from aider_guard.session.startup import models_chosen
from aider_guard.session.unattended import Unattended
from aider_guard.signals import INHERITED, signals_as_wakeups

_SURVEY_SECONDS = 2.0
_MEMORY_SECONDS = 2.0


def run_one_shot(
    config: Config, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> int:
    """Run Aider with our own input and output, and return its exit status, or 128 + the signal that killed it.

    Raises LaunchError when it cannot or must not be started.
    """
    with ExitStack() as stack:
        is_page = serves_page(arguments, environment, Path.cwd())
        choosing = stack.enter_context(choose(config, environment, serves_page=is_page))
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
        ours, theirs = map(stack.enter_context, socket.socketpair())
        # The terminal sends Ctrl-C to both; Aider decides what it means, and we wait for that.
        stack.enter_context(signals_as_wakeups((signal.SIGINT, signal.SIGQUIT)))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="aider-guard-"))
        sandbox = stack.enter_context(build_sandbox(choosing, config))
        stack.enter_context(sandbox.reaping())
        listener = stack.enter_context(door_socket(sandbox.gap))
        planner = planner_behind(
            sandbox, listener, config=config, aider=aider, environment=environment
        )
        planner.arguments = tuple(arguments)
        with theirs:
            program = sandboxed_command(aider, theirs, arguments, sandbox)
            process = _start(program, aider_environment(config, environment), theirs, sandbox)
        stack.callback(_end, process)
        starter = stack.enter_context(helper_starter(sandbox))
        unattended = Unattended(
            listener,
            sandbox,
            aider_pid=process.pid,
            environment=environment,
            limits=Limits(max_turns=0, probe="never"),
        )
        with unattended, _forwarding(process):
            _answer(ours, planner, Path(folder), unattended, starter)
            status = process.wait()
            unattended.end(status)
        notices = unattended.all_notices(even_nothing=sys.stderr.isatty())
        print_notices(notices, shutil.get_terminal_size().columns)
    return exit_status(status)


def _start(
    program: Sequence[str], environment: Mapping[str, str], channel: socket.socket, sandbox: Sandbox
) -> subprocess.Popen[bytes]:
    """Start Aider, which then waits for our answer on the channel. Raises LaunchError when it cannot be started."""

    def prepare(enter: Enter | None) -> None:
        INHERITED.restore()
        if enter is not None:
            enter()

    try:
        with ExitStack() as unless_inside:
            with entering(sandbox.gap) as enter:
                process = subprocess.Popen(
                    program,
                    env=environment,
                    pass_fds=passed_fds(channel, sandbox),
                    preexec_fn=partial(prepare, enter),  # noqa: PLW1509  # no other thread runs Python code
                )
                unless_inside.callback(_end, process)
            unless_inside.pop_all()
            return process
    except subprocess.SubprocessError as error:
        raise LaunchError("Aider cannot be started in the air gap") from error
    except OSError as error:
        raise LaunchError(f"{program[0]} cannot be started: {error.strerror}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End an Aider that still waits for our answer, because it must not begin or we failed."""
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Forward signals to Aider, which ends by them; then we end with its status."""
    with ExitStack() as stack:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            before = signal.signal(signum, lambda number, _frame: process.send_signal(number))
            stack.callback(signal.signal, signum, before)
        yield


def _answer(
    channel: socket.socket,
    planner: Planner,
    folder: Path,
    unattended: Unattended,
    starter: ProcessStarter | None,
) -> None:
    """Answer Aider's question, so that it begins. Raises LaunchRefusedError when it must not."""
    from aider_guard.launch.gathering import read_memory

    memory = read_memory(  # while Aider imports what it needs
        patience_seconds=planner.patience_seconds(_MEMORY_SECONDS)
    )
    with channel.makefile("rb") as lines:
        question = lines.readline()
    if not question.endswith(b"\n"):
        return  # Aider ended before it asked: a wrong argument, or --help
    settings = decode(question)
    report = _survey(planner, settings)
    plan = planner.plan(settings, report, memory)
    if plan.is_forbidden:
        ended = EndSession(LaunchRefusedError.exit_code)
        unattended.journal(*plan.findings, LaunchForbidden(plan.stops, plan.leaks), ended)
        raise LaunchRefusedError("\n  ".join(messages.refused(plan.stops, leaks=plan.leaks).lines))
    _begin(unattended, planner, settings, plan, report)
    unattended.journal(*plan.findings)
    arguments: list[str] = []
    if plan.pins is not None:
        model_settings, metadata = pins.write_pins(plan.pins, folder)
        arguments = command.one_shot_arguments(model_settings, metadata)
    if starter is not None:
        starter.has_loaded(within_seconds=None)
    finish_loading(starter)
    with suppress(BrokenPipeError):  # Aider ended meanwhile; its status says so
        command.send_answer(channel, arguments, plan.environment)


def _begin(
    unattended: Unattended,
    planner: Planner,
    settings: AiderSettings | Unavailable,
    plan: Plan,
    report: ServerReport | Unavailable,
) -> None:
    """Serve the door and the air gap for an Aider that begins, and add the notices of its start."""
    needs = plan.fit.needs if isinstance(plan.fit, Fit) else ()
    events: list[Event] = [models_chosen(settings, plan.window_tokens, os.getcwd(), needs)]
    # Without a message it is not certain that Aider will use the model at all: then the policy is not told of the
    # server, so that no model is loaded ahead.
    sends = isinstance(settings, AiderSettings) and settings.sends_message
    if sends and not isinstance(report, Unavailable):
        events.insert(0, ServerSurveyed(report))
    if plan.door is not None and isinstance(settings, AiderSettings):
        # A script may run many of these: the model stays loaded as long as Ollama keeps it, as with Aider alone.
        door = replace(plan.door, user_keep_alive=True)
        unattended.begin(planner.access(settings), door.tokenizers, door, events)
    else:
        unattended.begin(planner.first_access(), planner.aider.likely_tokenizers(), None, events)
    for text in plan.start_messages:
        unattended.say("another_machine", text)


def _survey(planner: Planner, settings: AiderSettings | Unavailable) -> ServerReport | Unavailable:
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    if isinstance(settings, Unavailable) or not planner.may_ask(settings):
        return NOT_ASKED
    names, others = ollama_names(settings), served_models(settings)
    seconds = planner.patience_seconds(_SURVEY_SECONDS)
    server = planner.access(settings)
    with closing(OllamaClient(server.base, headers=server.headers)) as client:
        return survey(client, names, others=others, within_seconds=seconds)
