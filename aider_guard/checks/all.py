"""Runs all checks, in the order in which their findings are shown within a severity."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from aider_guard.checks import (
    aider,
    cloud,
    gpu,
    models,
    other_servers,
    runtime,
    server,
    window,
)
from aider_guard.core.findings import Finding, worst_first
from aider_guard.launch import ollama_address
from aider_guard.launch.facts import Facts

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    aider.aider_program,
    aider.settings_files,
    aider.air_gap_layer,
    server.availability,
    models.main_model,
    cloud.roles_in_cloud,
    cloud.redirected_requests,
    cloud.ollama_cloud,
    ollama_address.ollama,
    models.prefixes,
    models.invalid_names,
    models.installed_models,
    models.templates,
    other_servers.other_servers,
    cloud.fallback,
    gpu.gpus,
    window.memory_fit,
    window.same_for_one_model,
    window.contested,
    window.trained_context,
    window.window_pins,
    server.runtime_settings,
    runtime.reach,
    runtime.host_cache,
    runtime.without_effect,
    runtime.processor_quota,
    runtime.sampling,
    aider.repository_map,
    aider.large_repository,
    aider.chat_history,
    aider.test_output,
    cloud.cloud_keys,
    cloud.cloud_tokens,
    cloud.proxies,
    cloud.cloud_switch,
    cloud.typed_requests,
    cloud.own_programs,
    cloud.calls_home,
    cloud.certificates,
    cloud.disk_space,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """The findings about these facts, the worst first. A fact that could not be read never leads to a ``stop``."""
    found = (finding for check in CHECKS for finding in check(facts))
    return worst_first(
        replace(each, fix=with_arguments(each.fix, facts.arguments)) for each in found
    )


# A command that starts the guard repeats the user's own arguments before the new ones: Aider takes the last of each.
_START = re.compile(
    r"aider-guard(?P<options>(?: --(?:num-ctx|ollama) \S+)*)(?: --(?= |$)|(?!\S| ))"
)
_MAY_BE_SECRET = re.compile(r"key|token|secret|passw|set-env|@", re.IGNORECASE)


def with_arguments(fix: str, arguments: Sequence[str]) -> str:
    """The command of a fix with the user's own arguments for Aider. Where one of these may be a secret or is no line of
    text, the fix stays as it is.
    """
    may_be_shown = all(word.isprintable() and not _MAY_BE_SECRET.search(word) for word in arguments)
    match = _START.search(fix)
    if not arguments or match is None or not may_be_shown:
        return fix
    start = f"aider-guard{match['options']} -- {shlex.join(arguments)}"
    return f"{fix[: match.start()]}{start}{fix[match.end() :]}"
