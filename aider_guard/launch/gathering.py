"""Gathering the facts for ``doctor``: what takes long begins first, and the rest is done meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from aider_guard import paths
from aider_guard.airgap.choose import find_layer
from aider_guard.config import Config
from aider_guard.core.egress import Found, Place
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch import plan
from aider_guard.launch.addresses import may_be_asked
from aider_guard.launch.aider import Aider, find_aider
from aider_guard.launch.asking import Asking
from aider_guard.launch.cloud import OLLAMA_ADDRESSES
from aider_guard.launch.door import served_models
from aider_guard.launch.learned import read_corrections
from aider_guard.launch.preflight.facts import NOT_ASKED, NOT_TRIED, Facts
from aider_guard.launch.preflight.places import base_url, with_ollama
from aider_guard.launch.repository import repository_facts
from aider_guard.launch.settings import AiderSettings
from aider_guard.launch.starting import aider_environment

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
    layer_finder: Callable[[Mapping[str, str], Sequence[Place]], Found] | None = None,
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
    with Asking(aider, aider_args, aider_environment(facts.config, environment)) as asking:
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
    from aider_guard.launch import surroundings

    return surroundings.read_memory(patience_seconds=MEMORY_SECONDS)


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
