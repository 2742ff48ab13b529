"""Attempts by the thousand: nothing is lost, and little is told."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.served import EACH_SECONDS, MOST_KINDS, AttemptBuffer
from aider_guard.core.egress import Attempt

ONE = Attempt("host.example", 443, "tcp")


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.7)), max_size=60))
def test_every_attempt_is_told_once(happened: list[tuple[int, float]]) -> None:
    """Each kind at once when it is new, at most once a second, and the numbers add up."""
    buffer, now, told = AttemptBuffer(), 0.0, list[tuple[float, Attempt]]()
    for port, later in happened:
        now += later
        is_new = not any(one.port == port for _, one in told)
        at_once = buffer.add(replace(ONE, port=port), now)
        assert not is_new or port in {one.port for one in at_once}
        told += [(now, one) for one in at_once]
    rest = buffer.flush()
    for port in range(4):
        times = [at for at, one in told if one.port == port]
        assert all(b - a >= EACH_SECONDS - 1e-6 for a, b in itertools.pairwise(times))
        both = (*(one for _, one in told), *rest)
        assert sum(one.count for one in both if one.port == port) == sum(
            1 for one, _ in happened if one == port
        )
    assert buffer.flush() == ()


def test_random_names_cost_no_memory() -> None:
    """From some number on they are many others."""
    buffer = AttemptBuffer()
    told = [
        one for n in range(MOST_KINDS + 50) for one in buffer.add(replace(ONE, host=f"h{n}"), 0.0)
    ]
    told += buffer.flush()
    assert len({one.host for one in told}) == MOST_KINDS + 1
    assert sum(one.count for one in told) == MOST_KINDS + 50
