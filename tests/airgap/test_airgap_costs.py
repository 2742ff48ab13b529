"""What measures the cost of the air gap: every layer that this system allows, each kind of call, and the table."""

from __future__ import annotations

from bench import inside
from bench.airgap import rows
from bench.asker import KINDS


def test_every_layer_is_measured() -> None:
    """A start in each, and calls of each kind, of which each is as it must be: reached, answered or refused."""
    starts = inside.measure_starts(count=1)
    assert {"open", "asked"} <= starts.keys() <= set(inside.LAYERS)
    calls = inside.measure_calls([*starts], rounds=1)
    assert tuple(calls) == KINDS
    for found, count in ((starts, 1), *((one, inside.BATCH) for one in calls.values())):
        assert found.keys() == starts.keys()
        assert {len(seconds) for seconds in found.values()} == {count}
        assert all(second > 0 for seconds in found.values() for second in seconds)


def test_what_is_added_is_beside_none() -> None:
    """The median of the differences of each turn; a layer that is not here has no number."""
    found: inside.Seconds = {"open": [0.1, 0.2, 0.3], "netns": [0.102, 0.201, 0.6]}
    table = [row.split() for row in rows("start, ms", found, 1e3, "small")]
    assert table == [
        ["start,", "ms,", "p50", "200.0", "201.0"],
        ["start,", "ms,", "p95", "290.0", "560.1"],
        ["added,", "median", "+2.0", "small"],
    ]
