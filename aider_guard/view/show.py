"""Runs ``--show``: prints what would be run, in which environment and with which files, without running it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aider_guard import paths
from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core import messages
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError, LaunchRefusedError
from aider_guard.launch import command, pins
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.door_settings import DoorAddresses
from aider_guard.launch.environment import NOWHERE, LocalEnvironment
from aider_guard.launch.facts import Facts
from aider_guard.launch.gathering import gather
from aider_guard.launch.ollama_address import ollama_address
from aider_guard.launch.plan import Plan, make_plan
from aider_guard.launch.routes import DoorAddress
from aider_guard.launch.server_runtime import read_corrections
from aider_guard.launch.start_command import aider_environment, is_one_shot, serves_page
from aider_guard.ollama.names import display_base
from aider_guard.session.registry import windows_of_others
from aider_guard.view.settings import setting_lines

SESSION = Path("SESSION")
"""Stands for the session's own folder, which is created when a session starts."""
DOOR = DoorAddress(0, "TOKEN")
"""Stands for the address of the session's door, which is new in each session."""


def run_show(
    config: Config, aider_args: Sequence[str], environment: Mapping[str, str] = os.environ
) -> int:
    """Print what would be run, and return the exit status 0.

    Raises LaunchError when there is no Aider, LaunchRefusedError when it would not be started.
    """
    state_dir = paths.state_dir(environment)
    held = windows_of_others(state_dir / "sessions", os.getpid())
    facts = gather(
        config, aider_args, environment=environment, state_dir=state_dir, held_windows=held
    )
    if facts.aider_problem:
        raise LaunchError(facts.aider_problem)
    if isinstance(facts.settings, Unavailable):
        raise LaunchError(f"what Aider will use is not known: {facts.settings.reason}")
    base = ollama_address(config, facts.settings, environment)
    plan = make_plan(
        facts,
        ollama=base,
        refusing_proxy=NOWHERE,
        corrections=read_corrections(state_dir),
        examine=examine,
        door_addresses=DoorAddresses(DOOR, state_dir),
    )
    if plan.is_forbidden:
        raise LaunchRefusedError("\n  ".join(messages.refused(plan.stops, leaks=plan.leaks).lines))
    lines = description(facts, facts.settings, plan, aider_args, environment)
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return 0


def description(
    facts: Facts,
    settings: AiderSettings,
    plan: Plan,
    aider_args: Sequence[str],
    environment: Mapping[str, str],
) -> Iterator[str]:
    """The command, the environment and the generated files, line by line."""
    is_page = serves_page(aider_args, environment, Path.cwd())
    arguments = _arguments(settings, is_page or is_one_shot(aider_args))
    yield "command (your own arguments, then those of the guard):"
    yield "  " + shlex.join([facts.aider_script, *aider_args])
    yield from (f"    {line}" for line in _by_option(arguments))
    if plan.door is not None:
        yield ""
        yield "requests go through the guard's door, whose port and token are new in each session:"
        for upstream in plan.door.upstreams:
            url = DOOR.url(f"/{upstream.path}" if upstream.path else "")
            yield f"  {url} forwards to {display_base(upstream.base)}"
    yield ""
    yield "environment:"
    yield from (f"  {line}" for line in _environment(facts.config, plan.environment, environment))
    if plan.pins is not None:
        yield ""
        yield f"{SESSION / 'model.settings.yml'}:"
        yield from (f"  {line}" for line in pins.settings_text(plan.pins).splitlines())
        yield ""
        yield f"{SESSION / 'model.metadata.json'}:"
        yield from (f"  {line}" for line in pins.metadata_text(plan.pins).splitlines())
    yield ""
    yield "the guard's settings (aider-guard config show has their sources):"
    yield from (f"  {line}" for line in setting_lines(facts.config))


def _arguments(settings: AiderSettings, one_shot: bool) -> list[str]:
    files = command.LaunchFiles(
        chat_history=SESSION / "chat.md",
        input_history=SESSION / "input",
        analytics_log=Path(settings.analytics_log or SESSION / "analytics.jsonl"),
        bell=SESSION / "bell",
        commands=SESSION / "load.commands",
        model_settings=SESSION / "model.settings.yml",
        model_metadata=SESSION / "model.metadata.json",
    )
    if one_shot:
        return command.one_shot_arguments(files.model_settings, files.model_metadata)
    return command.session_arguments(files, settings)


def _by_option(arguments: Sequence[str]) -> Iterator[str]:
    """One option a line, with its value."""
    starts = [index for index, argument in enumerate(arguments) if argument.startswith("--")]
    for start, end in zip(starts, [*starts[1:], len(arguments)], strict=True):
        yield shlex.join(arguments[start:end])


def _environment(
    config: Config, local: LocalEnvironment, environment: Mapping[str, str]
) -> Iterator[str]:
    addresses = {name: environment[name] for name in OLLAMA_ADDRESSES if environment.get(name)}
    variables = aider_environment(config, addresses)
    variables.pop("OLLAMA_HOST", None)
    yield from (f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items()))
    if local.set or local.unset:
        yield "set after Aider has read every .env, so that none can change it:"
    yield from (f"  {name}={shlex.quote(value)}" for name, value in sorted(local.set.items()))
    yield from (f"  {name} removed" for name in local.unset)
