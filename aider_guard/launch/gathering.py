"""Gathers the facts for ``doctor``, ``init`` and ``fit``: asks Aider and Ollama, and reads the memory.

What takes long is started first, and the rest is done meanwhile. Modules that are slow to import (the HTTP client, the
sensors) are imported in the functions that use them.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aider_guard import paths
from aider_guard.airgap.choose import find_layer
from aider_guard.config import Config
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import LaunchError
from aider_guard.launch.aider import Aider, find_aider
from aider_guard.launch.aider_settings import AiderSettings, decode
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.door_settings import served_models
from aider_guard.launch.facts import NOT_ASKED, NOT_TRIED, Facts
from aider_guard.launch.ollama_address import may_be_asked, ollama_access
from aider_guard.launch.places import with_ollama
from aider_guard.launch.plan import pin_window
from aider_guard.launch.repository import repository_facts
from aider_guard.launch.server_runtime import make_placement, read_corrections
from aider_guard.launch.start_command import INSIDE_AIDER, aider_environment

if TYPE_CHECKING:
    from aider_guard.line_process import LineProcess

ANSWER_SECONDS = 30.0
"""How long Aider may take to describe itself: importing it takes about a second, the rest is for a cold disk."""
MEMORY_SECONDS = 3.0
MOST_MODELS = 64
"""Of an Ollama with more models than these only the newest are looked at: each is a request."""
_EXIT_SECONDS = 2.0
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


def read_memory(
    start: Callable[[], LineProcess] | None = None,
    *,
    patience_seconds: float = 6.0,
    clock: Callable[[], float] = time.monotonic,
) -> MemoryReading:
    """Read GPUs and main memory. A driver that was asleep can take seconds to answer; after *patience_seconds* it is
    given up, and the GPUs are unavailable. *start* starts the process that reads GPUs.
    """
    from aider_guard.sidecar.gpu import NOT_YET, GpuSensor, start_worker
    from aider_guard.sidecar.memory import MemorySensor

    deadline = clock() + patience_seconds
    with closing(MemorySensor(GpuSensor(start or start_worker))) as sensor:
        reading = sensor.read()
        while reading.gpus == NOT_YET and clock() < deadline:
            reading = sensor.read()
    return reading


def gather(
    config: Config,
    aider_args: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    state_dir: Path,
    memory_reader: Callable[[], MemoryReading] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
    memory_seconds: float = MEMORY_SECONDS,
    held_windows: Mapping[str, int] | None = None,
) -> Facts:
    """Gather everything the checks look at. What is missing or broken outside raises nothing: it is a fact, too."""
    # Trying the air gap forks, so it is done before there are threads.
    is_offline = config.network == "offline"
    air_gap = find_layer(environment, config.allow) if is_offline else NOT_TRIED
    memory = _in_thread(memory_reader or partial(read_memory, patience_seconds=MEMORY_SECONDS))
    facts = Facts(
        config=config,
        settings=Unavailable("there is no Aider to ask"),
        server=NOT_ASKED,
        state_free_bytes=paths.free_bytes(state_dir),
        environment={name: environment.get(name, "") for name in OLLAMA_ADDRESSES},
        held_windows=held_windows or {},
        arguments=tuple(aider_args),
        air_gap=air_gap,
    )
    try:
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
    except LaunchError as error:
        facts = _with_server(replace(facts, aider_problem=str(error)), environment)
    else:
        facts = _with_aider(facts, aider, aider_args, environment, answer_seconds)
    try:
        facts = replace(facts, memory=memory.result(memory_seconds))
    except NotInTimeError:
        facts = replace(facts, memory=Unavailable("the memory could not be read in time"))
    return with_window(facts, read_corrections(state_dir))


def _in_thread(read: Callable[[], MemoryReading]) -> Future[MemoryReading]:
    """Read in a daemon thread: one that hangs does not keep the program from ending."""
    future: Future[MemoryReading] = Future()

    def run() -> None:
        try:
            future.set_result(read())
        except BaseException as error:  # noqa: BLE001  # a bug is raised where the answer is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="memory", daemon=True).start()
    return future


def _with_aider(
    facts: Facts,
    aider: Aider,
    aider_args: Sequence[str],
    environment: Mapping[str, str],
    answer_seconds: float,
) -> Facts:
    with AiderQuestion(aider, aider_args, aider_environment(facts.config, environment)) as question:
        # The HTTP client takes a fifth of a second to import: time in which Aider imports its own.
        import aider_guard.ollama.client
        import aider_guard.ollama.survey  # noqa: F401  # for its time only

        settings = question.result(answer_seconds)
        facts = replace(facts, settings=settings, aider_script=aider.script)
        return replace(_with_server(facts, environment), repo=repository_facts(settings))


def _with_server(facts: Facts, environment: Mapping[str, str] = os.environ) -> Facts:
    """Add what Ollama and the other servers of this machine say, where they may be asked."""
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    if not may_be_asked(facts.config, facts.settings, facts.environment):
        return facts
    names = dict.fromkeys(name for _, name in with_ollama(facts))
    server = ollama_access(facts.config, facts.settings, {**environment, **facts.environment})
    with closing(OllamaClient(server.base, headers=server.headers)) as client:
        others = () if isinstance(facts.settings, Unavailable) else served_models(facts.settings)
        return replace(facts, server=survey(client, names, others=others))


def with_window(facts: Facts, corrections: Mapping[str, int]) -> Facts:
    """Add the window that a session would take, and whether the models fit with it.

    *corrections* are bytes by canonical name, from launch/server_runtime.py. A file that cannot be merged leaves no
    window, and is one of the problems of Aider's settings.
    """
    settings = facts.settings
    if isinstance(settings, Unavailable):
        return replace(facts, fit=settings)
    placement = make_placement(facts.server, facts.memory, corrections)
    try:
        return pin_window(facts, settings, placement, {})[0]
    except LaunchError as error:
        problem = str(error)
    file = problem.split(" cannot be read", maxsplit=1)[0]
    if not any(file in other for other in settings.problems):
        settings = replace(settings, problems=(*settings.problems, problem))
    unknown = Unavailable(problem)
    return replace(facts, settings=settings, window_tokens=unknown, fit=unknown)


def ask_server(base: str) -> ServerReport:
    """Ask the server at this URL about itself and all its local models. Takes seconds at most; why a server does not
    answer is in the report.
    """
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    with closing(OllamaClient(base)) as client:
        report = survey(client, ())
        if isinstance(report.installed, Unavailable):
            return report
        local = [model.name for model in report.installed if not model.remote_host]
        return survey(client, local[:MOST_MODELS], within_seconds=6.0)


class AiderQuestion:
    """Asks Aider's own Python what Aider would use, without starting Aider. Other work can be done meanwhile; leaving
    the ``with`` ends the process.

    Aider's process gets no terminal: it shows nothing and cannot ask the user. What it prints when its parser refuses
    the arguments is the reason in the answer.
    """

    def __init__(
        self, aider: Aider, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._words = [str(INSIDE_AIDER), "", aider.script, *arguments]
        self._interpreter = aider.interpreter
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        self._wait_seconds = 0.0

    def __enter__(self) -> AiderQuestion:
        """Start the process. Where it cannot be started, ``result`` gives the reason."""
        self._channel, aiders_end = socket.socketpair()
        self._output: IO[bytes] = tempfile.TemporaryFile(prefix="aider-guard-")
        self._words[1] = f"only:{aiders_end.fileno()}"
        with aiders_end:
            try:
                self._process = subprocess.Popen(
                    [*self._interpreter, *self._words],
                    env=self._environment,
                    pass_fds=[aiders_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                )
            except OSError as error:
                self._problem = f"{self._interpreter[0]} cannot be started: {error.strerror}"
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""
        self._channel.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._wait_seconds)
            self._process.kill()
            self._process.wait()
        self._output.close()

    def result(self, timeout_seconds: float = ANSWER_SECONDS) -> AiderSettings | Unavailable:
        """Wait for the answer, at most this long. Without one: the reason."""
        if self._process is None:
            return Unavailable(self._problem)
        line = self._read_line(time.monotonic() + timeout_seconds)
        if line is None:
            seconds = f"{timeout_seconds:g} seconds"
            return Unavailable(f"Aider did not say within {seconds} what it will use")
        self._wait_seconds = _EXIT_SECONDS
        return decode(line) if line.endswith(b"\n") else Unavailable(self._last_output())

    def _read_line(self, deadline: float) -> bytes | None:
        """Read until the channel is closed; None when the time is up."""
        content = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = self._channel.recv(65536)
                content += data
                if not data or len(content) > _MAX_ANSWER_BYTES:
                    return bytes(content)
        return None

    def _last_output(self) -> str:
        """What Aider printed before it ended without an answer: the last line, or all lines of argparse's ``error:``.

        Values that argparse did not recognise are left out: a key in a configuration file with a wrong name may be one.
        """
        assert self._process is not None
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_SECONDS)
        self._output.seek(0)
        output = self._output.read().decode("utf-8", "replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        starts = [index for index, line in enumerate(lines) if ": error: " in line]
        complaint = " ".join(lines[starts[-1] :] if starts else lines[-1:])
        if status == 0 or not complaint:
            return f"Aider ended at once, with status {status}, without saying what it would use"
        start, unrecognized, values = complaint.partition("unrecognized arguments: ")
        flags = [word.partition("=")[0] for word in values.split() if word.startswith("-")]
        return f"{start}{unrecognized}{' '.join(flags)}"
