"""Runs all checks, in the order in which their findings are shown within a severity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aider_guard.checks import aider, cloud, models, runtime, server, window
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
    models.other_servers,
    cloud.fallback,
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
    return worst_first(finding for check in CHECKS for finding in check(facts))
