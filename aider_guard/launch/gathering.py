"""Gathering the facts for ``doctor``: what takes long begins first, and the rest is done meanwhile."""

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
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, TypeVar

from aider_guard import paths
from aider_guard.airgap.choose import find_layer
from aider_guard.config import Config
from aider_guard.core.egress import LayerChoice, Place
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import LaunchError
from aider_guard.launch import plan
from aider_guard.launch.aider import Aider, find_aider
from aider_guard.launch.aider_settings import AiderSettings, decode
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.door_settings import served_models
from aider_guard.launch.facts import NOT_ASKED, NOT_TRIED, Facts
from aider_guard.launch.learned import read_corrections
from aider_guard.launch.ollama_address import may_be_asked
from aider_guard.launch.places import base_url, with_ollama
from aider_guard.launch.repository import repository_facts
from aider_guard.launch.start_command import INSIDE_AIDER, aider_environment

if TYPE_CHECKING:
    from aider_guard.line_process import LineProcess

# Asking Aider what it would use, without starting it: its own Python describes, and ends.

DESCRIPTION_SECONDS = 30.0
"""Importing Aider takes about a second; the rest is for a cold disk."""
_EXIT_SECONDS = 2.0
_UNRECOGNIZED = "unrecognized arguments: "
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


def ask_aider(
    aider: Aider,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout_seconds: float = DESCRIPTION_SECONDS,
) -> AiderSettings | Unavailable:
    """What Aider would use if it were started in this folder with these arguments and this environment."""
    with AiderQuestion(aider, arguments, environment) as asking:
        return asking.result(timeout_seconds)


class AiderQuestion:
    """One question that is under way, so that other work can be done meanwhile. Leaving the ``with`` ends it.

    Aider's process gets no terminal: nothing is shown, and it can ask nothing. What it says when its parser refuses
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
        """Start the process. One that cannot be started is told by ``result``."""
        self._channel, theirs = socket.socketpair()
        self._said: IO[bytes] = tempfile.TemporaryFile(prefix="aider-guard-")
        self._words[1] = f"only:{theirs.fileno()}"
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self._interpreter, *self._words],
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                )
            except OSError as error:
                self._problem = f"{self._interpreter[0]} cannot be started: {error.strerror}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave nothing running."""
        self._channel.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._wait_seconds)
            self._process.kill()
            self._process.wait()
        self._said.close()

    def result(self, timeout_seconds: float = DESCRIPTION_SECONDS) -> AiderSettings | Unavailable:
        """The answer, waited for at most so long; else why there is none."""
        if self._process is None:
            return Unavailable(self._problem)
        line = self._read_line(time.monotonic() + timeout_seconds)
        if line is None:
            return Unavailable(
                f"Aider did not say within {timeout_seconds:g} seconds what it will use"
            )
        self._wait_seconds = _EXIT_SECONDS
        return decode(line) if line.endswith(b"\n") else Unavailable(self._last_words())

    def _read_line(self, deadline: float) -> bytes | None:
        """All until the channel is closed; None when the time is up."""
        read = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = self._channel.recv(65536)
                read += data
                if not data or len(read) > _MAX_ANSWER_BYTES:
                    return bytes(read)
        return None

    def _last_words(self) -> str:
        """The last line that Aider printed before it ended without an answer."""
        assert self._process is not None
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_SECONDS)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        last = _complaint([line.strip() for line in lines if line.strip()])
        if status == 0 or not last:
            return (
                f"Aider ended at once, with status {status}, and said nothing of what it will use"
            )
        return last


def _complaint(lines: list[str]) -> str:
    """What a program printed last; of argparse's ``error:`` all lines, but no value that was not recognised: a key
    in a configuration file with a wrong name would be one.
    """
    began = [index for index, line in enumerate(lines) if ": error: " in line]
    said = " ".join(lines[began[-1] :] if began else lines[-1:])
    start, unrecognized, values = said.partition(_UNRECOGNIZED)
    if not unrecognized:
        return said
    flags = [word.partition("=")[0] for word in values.split() if word.startswith("-")]
    return f"{start}{unrecognized}{' '.join(flags)}"


ANSWER_SECONDS = 30.0
MEMORY_SECONDS = 3.0

T = TypeVar("T")


def gather(
    config: Config,
    aider_args: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    state_dir: Path,
    memory_reader: Callable[[], MemoryReading] | None = None,
    layer_finder: Callable[[Mapping[str, str], Sequence[Place]], LayerChoice] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
    memory_seconds: float = MEMORY_SECONDS,
) -> Facts:
    """Everything the checks look at. Never raises for what is missing or broken outside: that is a fact, too."""
    find = layer_finder or find_layer
    # It forks: done before there are threads.
    air_gap = find(environment, config.allow) if config.network == "offline" else NOT_TRIED
    memory = _begin(memory_reader or read_memory)
    facts = Facts(
        config=config,
        settings=Unavailable("there is no Aider to ask"),
        server=NOT_ASKED,
        state_free_bytes=paths.free_bytes(state_dir),
        environment={name: environment.get(name, "") for name in OLLAMA_ADDRESSES},
        air_gap=air_gap,
    )
    try:
        aider = find_aider(config.aider, search_path=environment.get("PATH"))
    except LaunchError as error:
        facts = _with_server(replace(facts, aider_problem=str(error)))
    else:
        facts = _with_aider(facts, aider, aider_args, environment, answer_seconds)
    return settled(replace(facts, memory=_got(memory, memory_seconds)), read_corrections(state_dir))


def _with_aider(
    facts: Facts,
    aider: Aider,
    aider_args: Sequence[str],
    environment: Mapping[str, str],
    answer_seconds: float,
) -> Facts:
    with AiderQuestion(aider, aider_args, aider_environment(facts.config, environment)) as asking:
        _import_client()
        settings = asking.result(answer_seconds)
        facts = replace(facts, settings=settings, aider_script=aider.script)
        return replace(_with_server(facts), repo=repository_facts(settings))


def _import_client() -> None:
    """The HTTP client takes a fifth of a second to import: time in which Aider imports its own."""
    import aider_guard.ollama.client
    import aider_guard.ollama.survey  # noqa: F401  # for its time only


def _with_server(facts: Facts) -> Facts:
    """What Ollama says, where it may be asked."""
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    if not may_be_asked(facts.config, facts.settings, facts.environment):
        return facts
    names = dict.fromkeys(name for _, name in with_ollama(facts))
    with closing(OllamaClient(base_url(facts))) as client:
        others = () if isinstance(facts.settings, Unavailable) else served_models(facts.settings)
        return replace(facts, server=survey(client, names, others=others))


def settled(facts: Facts, corrections: Mapping[str, int]) -> Facts:
    """The facts with the window that a session would take, and whether the models fit with it."""
    if isinstance(facts.settings, Unavailable):
        return replace(facts, fit=facts.settings)
    try:
        return plan.settled(facts, facts.settings, corrections)[0]
    except LaunchError as error:
        return _unsettled(facts, facts.settings, str(error))


def _unsettled(facts: Facts, settings: AiderSettings, problem: str) -> Facts:
    """Without a window: a file that could not be merged is one of the problems of Aider's settings."""
    known = any(
        problem.split(" cannot be read", maxsplit=1)[0] in other for other in settings.problems
    )
    problems = settings.problems if known else (*settings.problems, problem)
    unavailable = Unavailable(problem)
    return replace(
        facts,
        settings=replace(settings, problems=problems),
        window_tokens=unavailable,
        fit=unavailable,
    )


def read_memory() -> MemoryReading:
    """GPUs and main memory now; a driver that does not answer is given up after 3 seconds."""
    return read_memory_within(patience_seconds=MEMORY_SECONDS)


def _begin(work: Callable[[], T]) -> Future[T]:
    """Do something in a thread that nobody has to wait for."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # a bug is raised where the answer is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="memory", daemon=True).start()
    return done


def _got(reading: Future[MemoryReading], within_seconds: float) -> MemoryReading | Unavailable:
    try:
        return reading.result(within_seconds)
    except NotInTimeError:
        return Unavailable("the memory could not be read in time")


# What there is to choose from: Ollama's models and settings, and the memory, each asked once.

MOST_MODELS = 64
"""Of an Ollama with more models than these only the newest are looked at: each is a request."""


def ask_server(base: str) -> ServerReport:
    """The server at this URL with the facts of all its models. Takes seconds at most; silence is in the report."""
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.ollama.survey import survey

    with closing(OllamaClient(base)) as client:
        report = survey(client, ())
        if isinstance(report.installed, Unavailable):
            return report
        local = [model.name for model in report.installed if not model.remote_host]
        return survey(client, local[:MOST_MODELS], within_seconds=6.0)


def read_memory_within(
    start: Callable[[], LineProcess] | None = None,
    *,
    patience_seconds: float = 6.0,
    clock: Callable[[], float] = time.monotonic,
) -> MemoryReading:
    """GPUs and main memory now. The first answer of a driver that was asleep can take seconds."""
    from aider_guard.sidecar.gpu import NOT_YET, GpuSensor, start_worker
    from aider_guard.sidecar.memory import MemorySensor

    deadline = clock() + patience_seconds
    with closing(MemorySensor(GpuSensor(start or start_worker))) as sensor:
        reading = sensor.read()
        while reading.gpus == NOT_YET and clock() < deadline:
            reading = sensor.read()
    return reading
