"""Findings before the first prompt: which are shown, how many, and how often."""

from __future__ import annotations

import pytest
from core.histories_of_events import Story

from aider_guard.core.actions import ShowNotice
from aider_guard.core.findings import Finding, Severity, doctor_status, worst_first


def warning(name: str, fix: str = "fix it") -> Finding:
    return Finding(name, "warn", f"{name} is wrong", "seen", fix)


def lines_after(story: Story, *findings: Finding) -> list[tuple[str, ...]]:
    return [a.notice.lines for a in story.tell(*findings) if isinstance(a, ShowNotice)]


def test_a_warning_is_said_with_its_fix_once() -> None:
    """Also when it is found again at a restart."""
    story = Story()
    assert lines_after(story, warning("a")) == [("a is wrong", "fix it")]
    assert lines_after(story, warning("a")) == []


def test_without_a_fix_there_is_one_line() -> None:
    """There is no empty line."""
    assert lines_after(Story(), warning("a", "")) == [("a is wrong",)]


def test_two_are_said_and_then_where_the_rest_is() -> None:
    """The third notice is the last."""
    story = Story()
    assert [lines_after(story, warning(name)) for name in "abcde"] == [
        [("a is wrong", "fix it")],
        [("b is wrong", "fix it")],
        [("there is more to know before you start: aider-guard doctor",)],
        [],
        [],
    ]


@pytest.mark.parametrize("severity", ["stop", "info", "unknown"])
def test_the_others_are_not_said(severity: Severity) -> None:
    """A stop has ended the launch, an info needs nothing, and an unknown would be repeated at every start."""
    assert lines_after(Story(), Finding("a", severity, "what")) == []


STATUSES: list[tuple[tuple[Severity, ...], int]] = [
    ((), 0),
    (("info",), 0),
    (("info", "unknown"), 2),
    (("unknown", "warn"), 1),
    (("stop",), 1),
]


@pytest.mark.parametrize(("severities", "status"), STATUSES)
def test_the_exit_status_is_that_of_the_worst(
    severities: tuple[Severity, ...], status: int
) -> None:
    """The status is 0 for fine, 1 for problems, 2 for unknown."""
    assert doctor_status(Finding("a", severity, "w") for severity in severities) == status


def test_the_worst_come_first_and_the_rest_keep_their_order() -> None:
    """The order within a severity stays."""
    severities: tuple[Severity, ...] = ("info", "stop", "info", "unknown")
    found = [
        Finding(name, severity, "w") for name, severity in zip("abcd", severities, strict=True)
    ]
    assert [one.id for one in worst_first(found)] == ["b", "d", "a", "c"]
