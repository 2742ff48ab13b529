"""All checks, in the order in which their findings are shown within a severity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aider_guard.checks import aider, cloud, models, server, window
from aider_guard.checks import aider as checks_aider
from aider_guard.checks import cloud as checks_cloud
from aider_guard.checks import window as checks_window
from aider_guard.core.findings import Finding, worst_first
from aider_guard.launch import ollama_address
from aider_guard.launch.facts import Facts

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    aider.aider_program,
    aider.readable,
    checks_aider.air_gap_layer,
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
    checks_window.fits,
    window.same_for_one_model,
    window.trained,
    window.pinned,
    server.runs,
    checks_aider.repository_map,
    checks_aider.history,
    checks_aider.tests,
    checks_cloud.keys,
    checks_cloud.tokens,
    checks_cloud.proxies,
    cloud.switch,
    checks_cloud.typed,
    checks_cloud.programs,
    checks_cloud.home,
    checks_cloud.certificates,
    checks_cloud.disk,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """What is worth saying about these facts, worst first. What could not be read is never a reason to stop."""
    return worst_first(finding for check in CHECKS for finding in check(facts))
