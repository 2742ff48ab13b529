"""The finding about the air gap: its layer, why no better one, and when a launch must not be."""

from __future__ import annotations

import pytest
from checks.worlds import by_id, finding_of, world

from aider_guard.checks.cloud import own_programs
from aider_guard.config import Config
from aider_guard.core.egress import ENFORCED, Layer, LayerChoice
from aider_guard.core.findings import LEAVES, Severity
from aider_guard.core.readings import Unavailable
from aider_guard.launch.facts import NOT_TRIED, Facts

REQUIRED = Config(require_airgap=True)
USERNS = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
LAYERS: list[tuple[LayerChoice, Severity, str, str, str]] = [
    (LayerChoice("netns"), "info", "the kernel blocks: ", "", ""),
    (
        LayerChoice("seccomp", "apparmor"),
        "info",
        "the kernel blocks: ",
        "AppArmor keeps user",
        USERNS,
    ),
    (LayerChoice("asked", "not-linux"), "warn", "nothing is blocked: ", "only Linux has such", ""),
    (
        LayerChoice("asked", "apparmor; no-notify"),
        "warn",
        "nothing is blocked: ",
        "; this kernel",
        USERNS,
    ),
    (LayerChoice("asked", "it failed"), "warn", "nothing is blocked: ", "it failed", ""),
]


@pytest.mark.parametrize(
    ("air_gap", "severity", "what", "evidence", "fix"), LAYERS, ids=lambda part: str(part)[:30]
)
def test_the_layer_is_shown_with_why_no_better_one(
    air_gap: LayerChoice, severity: Severity, what: str, evidence: str, fix: str
) -> None:
    """What only asks is to be looked at; the setting that would change it is a line to paste."""
    finding = finding_of(world(air_gap=air_gap), "air-gap")
    assert (finding.severity, finding.fix) == (severity, fix)
    assert finding.what.startswith(what)
    assert evidence in finding.evidence
    assert bool(finding.evidence) is bool(air_gap.because)


@pytest.mark.parametrize(
    "air_gap",
    [LayerChoice("asked", "apparmor"), LayerChoice("open"), Unavailable("it hung"), NOT_TRIED],
)
def test_a_required_gap_that_is_not_enforced_stops(air_gap: LayerChoice | Unavailable) -> None:
    """Also when it is not known: the user wants certainty. It is no leak that could be overridden."""
    finding = finding_of(world(air_gap=air_gap, config=REQUIRED), "air-gap")
    assert finding.severity == "stop"
    assert finding.id not in LEAVES
    assert finding.what.startswith("require-airgap is set")


def test_the_stop_says_what_would_change_it() -> None:
    """Why, and the setting."""
    finding = finding_of(
        world(air_gap=LayerChoice("asked", "apparmor"), config=REQUIRED), "air-gap"
    )
    assert "AppArmor" in finding.evidence
    assert finding.fix == USERNS


@pytest.mark.parametrize("layer", ENFORCED)
def test_a_required_gap_that_is_enforced_is_fine(layer: Layer) -> None:
    """Either layer of the kernel's."""
    assert (
        finding_of(world(air_gap=LayerChoice(layer), config=REQUIRED), "air-gap").severity == "info"
    )


def test_what_was_not_tried_is_not_said_and_what_failed_is_unknown() -> None:
    """Checks of a session that has chosen already have nothing to add."""
    assert by_id(world(air_gap=NOT_TRIED), "air-gap") == []
    failed = finding_of(world(air_gap=Unavailable("it hung")), "air-gap")
    assert (failed.severity, failed.evidence) == ("unknown", "it hung")


def test_an_open_network_is_said() -> None:
    """Whatever the system would allow."""
    finding = finding_of(
        world(air_gap=LayerChoice("netns"), config=Config(network="open")), "air-gap"
    )
    assert (finding.severity, finding.what) == ("info", "the network is open: nothing is blocked")


HELD: list[tuple[Facts, bool]] = [
    (world(lint_cmd=("x",), air_gap=LayerChoice("netns")), True),
    (world(lint_cmd=("x",), air_gap=LayerChoice("seccomp", "apparmor")), True),
    (world(lint_cmd=("x",), air_gap=LayerChoice("asked", "apparmor")), False),
    (world(lint_cmd=("x",)), False),
    (world(lint_cmd=("x",), air_gap=LayerChoice("netns"), config=Config(network="open")), False),
]


@pytest.mark.parametrize(("facts", "is_held"), HELD, ids=range(len(HELD)))
def test_the_users_programs_are_held_where_the_kernel_does(facts: Facts, *, is_held: bool) -> None:
    """What they may do depends on the layer."""
    (finding,) = own_programs(facts)
    assert ("inside the air gap" in finding.what) is is_held
    assert ("connect to any address" in finding.what) is not is_held
