"""Aider without a conversation: one thing done, or no terminal. It gets our files as they are, and the pins."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aider_guard.config import Config
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch import command, pins
from aider_guard.launch.aider import find_aider
from aider_guard.launch.settings import AiderSettings, decode, ollama_name
from aider_guard.launch.starting import aider_command, aider_environment
from aider_guard.session.assembly import ollama_address
from aider_guard.session.signals import INHERITED, signals_as_wakeups

_DESCRIBE_SECONDS = 2.0


def run_one_shot(
    config: Config, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> int:
    """Run Aider with our own input and output; its exit status, or 128 + the signal that killed it.

    Raises LaunchError when it cannot be started.
    """
    aider = find_aider(config.aider, search_path=environment.get("PATH"))
    ours, theirs = socket.socketpair()
    program = aider_command(aider, theirs, arguments)
    # The terminal sends Ctrl-C to both; Aider decides what it means, and we wait for that.
    deaf = signals_as_wakeups((signal.SIGINT, signal.SIGQUIT))
    with tempfile.TemporaryDirectory(prefix="aider-guard-") as folder, ours, theirs, deaf:
        try:
            process = subprocess.Popen(
                program,
                env=aider_environment(config, environment),
                pass_fds=[theirs.fileno()],
                preexec_fn=INHERITED.restore,  # noqa: PLW1509  # single-threaded, and only signal calls
            )
        except OSError as error:
            raise LaunchError(f"{program[0]} cannot be started: {error.strerror}") from error
        theirs.close()
        with _forwarded(process, (signal.SIGTERM, signal.SIGHUP)):
            _answer(ours, config, environment, Path(folder))
            status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _forwarded(
    process: subprocess.Popen[bytes], signums: Sequence[signal.Signals]
) -> Iterator[None]:
    """Signals to us go to Aider, who ends by them; then we end with its status."""
    with ExitStack() as stack:
        for signum in signums:
            before = signal.signal(signum, lambda number, _frame: process.send_signal(number))
            stack.callback(signal.signal, signum, before)
        yield


def _answer(
    channel: socket.socket, config: Config, environment: Mapping[str, str], folder: Path
) -> None:
    with channel.makefile("rb") as lines:
        question = lines.readline()
    if not question.endswith(b"\n"):
        return  # Aider ended before it asked: a wrong argument, or --help
    settings = decode(question)
    arguments: list[str] = []
    if isinstance(settings, AiderSettings):
        chosen = pins.make_pins(settings, config.num_ctx, _trained(settings, config, environment))
        model_settings, metadata = pins.write_pins(chosen, folder)
        arguments = command.one_shot_arguments(model_settings, metadata)
    with suppress(BrokenPipeError):  # Aider ended meanwhile; its status says so
        command.send_answer(channel, arguments)


def _trained(
    settings: AiderSettings, config: Config, environment: Mapping[str, str]
) -> dict[str, int | Unavailable]:
    from aider_guard.sidecar.ollama import OllamaClient

    names = [name for name in map(ollama_name, settings.models) if name is not None]
    client = OllamaClient(
        ollama_address(config, settings, environment), answer_seconds=_DESCRIBE_SECONDS
    )
    try:
        return {name: client.trained_tokens(name) for name in names}
    finally:
        client.close()
