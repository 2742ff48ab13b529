"""Runs all checks, in the order in which their findings are shown within a severity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aider_guard.checks import aider, cloud, models, server, window
from aider_guard.core.findings import Finding, worst_first
from aider_guard.launch import ollama_address
from aider_guard.launch.facts import Facts

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    aider.aider_program,
    aider.readable,
    aider.air_gap_layer,
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
    window.fits,
    window.same_for_one_model,
    window.trained,
    window.pinned,
    server.runs,
    aider.repository_map,
    aider.history,
    aider.tests,
    cloud.keys,
    cloud.tokens,
    cloud.proxies,
    cloud.switch,
    cloud.typed,
    cloud.programs,
    cloud.home,
    cloud.certificates,
    cloud.disk,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """The findings about these facts, the worst first. A fact that could not be read never leads to a ``stop``."""
    return worst_first(finding for check in CHECKS for finding in check(facts))
