"""Thousands of attempts: none is lost, and few are reported."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.served import EACH_SECONDS, MOST_KINDS, AttemptBuffer
from aider_guard.core.egress import Attempt

ATTEMPT = Attempt("host.example", 443, "tcp")


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.7)), max_size=60))
def test_every_attempt_is_reported_once(happened: list[tuple[int, float]]) -> None:
    """Each kind at once when it is new, at most once a second, and the numbers add up."""
    buffer, now, reported = AttemptBuffer(), 0.0, list[tuple[float, Attempt]]()
    for port, later in happened:
        now += later
        is_new = not any(attempt.port == port for _, attempt in reported)
        at_once = buffer.add(replace(ATTEMPT, port=port), now)
        assert not is_new or port in {attempt.port for attempt in at_once}
        reported += [(now, attempt) for attempt in at_once]
    rest = buffer.flush()
    for port in range(4):
        times = [at for at, attempt in reported if attempt.port == port]
        assert all(b - a >= EACH_SECONDS - 1e-6 for a, b in itertools.pairwise(times))
        both = (*(attempt for _, attempt in reported), *rest)
        assert sum(attempt.count for attempt in both if attempt.port == port) == sum(
            1 for attempt, _ in happened if attempt == port
        )
    assert buffer.flush() == ()


def test_random_names_cost_no_memory() -> None:
    """From some number on they are summed as others."""
    buffer = AttemptBuffer()
    reported = [
        attempt
        for n in range(MOST_KINDS + 50)
        for attempt in buffer.add(replace(ATTEMPT, host=f"h{n}"), 0.0)
    ]
    reported += buffer.flush()
    assert len({attempt.host for attempt in reported}) == MOST_KINDS + 1
    assert sum(attempt.count for attempt in reported) == MOST_KINDS + 50
