"""What a check found: something that is wrong, could go wrong, is worth knowing, or could not be found out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["stop", "warn", "info", "unknown"]
SEVERITIES: tuple[Severity, ...] = ("stop", "warn", "unknown", "info")


@dataclass(frozen=True)
class Finding:
    """One finding. ``id`` is stable; ``fix`` is a line to paste, or a sentence when no command helps.

    A ``stop`` ends a launch: code would leave the machine, or nothing could work. A ``warn`` should be looked at,
    an ``info`` needs nothing, and ``unknown`` says what could not be checked, and why.
    """

    id: str
    severity: Severity
    what: str = field(metadata={"journal": False})
    evidence: str = field(default="", metadata={"journal": False})
    fix: str = field(default="", metadata={"journal": False})


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings by severity, in the order they were made within each."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def exit_status(findings: Iterable[Finding]) -> int:
    """0: all fine; 1: something to stop for or to look at; 2: nothing wrong, but something could not be checked."""
    severities = {finding.severity for finding in findings}
    if severities & {"stop", "warn"}:
        return 1
    return 2 if "unknown" in severities else 0
