"""All checks, in the order in which their findings are shown within a severity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aider_guard.core.findings import Finding, worst_first
from aider_guard.launch import ollama_address
from aider_guard.launch.facts import Facts
from aider_guard.launch.preflight import (
    aider,
    air_gap,
    calls,
    cloud,
    habits,
    leaks,
    memory,
    models,
    server,
    window,
)

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    aider.found,
    aider.readable,
    air_gap.found,
    server.answers,
    models.chosen,
    cloud.by_role,
    cloud.redirected,
    cloud.through_ollama,
    ollama_address.ollama,
    models.prefixed,
    models.installed,
    models.elsewhere,
    cloud.fallback,
    memory.fits,
    window.same_for_one_model,
    window.trained,
    window.pinned,
    server.runs,
    habits.repository_map,
    habits.history,
    habits.tests,
    leaks.keys,
    leaks.tokens,
    leaks.proxies,
    cloud.switch,
    leaks.typed,
    leaks.programs,
    calls.home,
    calls.certificates,
    calls.disk,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """What is worth saying about these facts, worst first. What could not be read is never a reason to stop."""
    return worst_first(finding for check in CHECKS for finding in check(facts))
