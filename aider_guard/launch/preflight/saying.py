"""How findings are made and worded."""

from __future__ import annotations

from collections.abc import Iterable

from aider_guard.core.findings import Finding, Severity

GUARDED = "in a guarded session"


def stop(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """Code would leave the machine, or nothing could work."""
    return _found(id, "stop", what, evidence, fix)


def warn(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """Something to look at."""
    return _found(id, "warn", what, evidence, fix)


def info(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """Something to know."""
    return _found(id, "info", what, evidence, fix)


def unknown(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """Something that could not be checked, and why."""
    return _found(id, "unknown", what, evidence, fix)


def _found(id: str, severity: Severity, what: str, evidence: str, fix: str) -> Finding:  # noqa: A002  # likewise
    return Finding(id, severity, what, evidence, fix)


def listed(words: Iterable[str], at_most: int = 4) -> str:
    """Words in a row, each once: ``a, b and c``; of a long row the first ones and how many more there are."""
    row = list(dict.fromkeys(words))
    if len(row) > at_most:
        row = [*row[:at_most], f"{len(row) - at_most} more"]
    return " and ".join(part for part in (", ".join(row[:-1]), row[-1]) if part) if row else ""


def verb(words: Iterable[str], one: str, several: str) -> str:
    """The form of a verb for so many."""
    return one if len(set(words)) == 1 else several
