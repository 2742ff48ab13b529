"""How far a count of tokens reaches."""

from __future__ import annotations

import pytest

from aider_guard.core.chat.types import Count


@pytest.mark.parametrize(
    ("count", "at_least", "at_most"),
    [
        (Count(1000, exact=True), 1000, 1000),
        (Count(1000, exact=True, error_percent=10.0), 1000, 1000),
        (Count(1000, exact=False), 1000, 1001),
        (Count(1000, exact=False, error_percent=10.0), 900, 1101),
        (Count(999, exact=False, error_percent=35.0), 649, 1349),
        (Count(0, exact=False, error_percent=60.0), 0, 1),
    ],
)
def test_an_estimate_reaches_as_far_as_its_error(count: Count, at_least: int, at_most: int) -> None:
    """An exact count is itself, whatever error an estimate would have."""
    assert (count.at_least, count.at_most) == (at_least, at_most)
