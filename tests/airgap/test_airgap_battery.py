"""The battery of ways out of the air gap: nothing comes out, and every attempt is named, in both layers, for two users.

``PYTHONPATH=tests python -m airgap.battery`` prints the same as a table.
"""

from __future__ import annotations

import pytest
from airgap.battery.results import Battery, Outcome, run_battery
from airgap.battery.way import LAYERS, USERS

LEAST_WAYS = 120
"""So many must work without a guard, or the battery says little."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # a minute or two, unless the machine is busy
    pytest.mark.xdist_group("battery"),  # the boxes are run once
]
every_layer = pytest.mark.parametrize("layer", LAYERS)
every_user = pytest.mark.parametrize("user", USERS)


@pytest.fixture(scope="module")
def battery() -> Battery:
    """All ways tried, without a guard and in each layer, by each user."""
    made = run_battery()
    if made.no_box:
        pytest.skip(made.no_box)
    counted = [one for one in made.outcomes() if not one.lacks]
    if any(one.fails for one in counted) and not any(one.out for one in counted):
        # A report may come too late on a machine with much else to do; what came out is never tried again.
        made = run_battery()
    return made


def of(battery: Battery, layer: str, user: str) -> list[Outcome]:
    """What came of those that work without a guard."""
    those = [one for one in battery.outcomes() if (one.layer, one.user) == (layer, user)]
    return [one for one in those if not one.lacks]


@every_user
@every_layer
def test_nothing_comes_out(battery: Battery, layer: str, user: str) -> None:
    """The witness sees no packet, connection, byte or typed key of any way."""
    out = {one.way.way.id: one.out for one in of(battery, layer, user) if one.out}
    assert out == {}


@every_user
@every_layer
def test_what_is_left_behind_does_nothing_at_the_next_start(
    battery: Battery, layer: str, user: str
) -> None:
    """But where the way says why: a folder that is not the guard's, and in seccomp files that can be written."""
    those = [one for one in of(battery, layer, user) if one.out_later]
    assert [one.way.way.id for one in those if not one.way.way.why_later(layer)] == []


@every_user
@every_layer
def test_every_attempt_is_named(battery: Battery, layer: str, user: str) -> None:
    """By host and port, the path of a socket, or the model; but for those with a reason why it cannot be."""
    those = of(battery, layer, user)
    assert [one.way.way.id for one in those if not (one.is_named or one.silent)] == []


@every_user
def test_enough_ways_work_without_a_guard(battery: Battery, user: str) -> None:
    """Each way that counts was seen by the same witness."""
    assert len(of(battery, LAYERS[0], user)) >= LEAST_WAYS


@every_user
@pytest.mark.parametrize("layer", ["open", *LAYERS])
def test_the_boxes_are_sound(battery: Battery, layer: str, user: str) -> None:
    """The sessions had the layer, nothing was seen that no way sent, and no way had a fault of its own."""
    run = battery.runs[layer, user]
    assert run.problem == ""
    assert run.layers == {layer}
    assert run.seen.get(-1) is None
    assert [what["said"] for what in run.tried.values() if what["fault"]] == []
