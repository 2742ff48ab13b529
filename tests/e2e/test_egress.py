"""Tests the air gap: without it programs reach the outside, with it none does, and each attempt is named.

The box's witness decides, never a program's output. A gap that does nothing, and one that only reports, fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.egress import PYTHON, WAYS, Way, check
from e2e.gapped import LAYERS, USERS, Lab, lab
from e2e.inside_gap import DOOR_SAYS

from aider_guard.demo.layout import Rig

CASES = [
    (way, layer, user)
    for way in WAYS
    for layer in LAYERS
    for user in USERS
    if user == "user" or not way.is_slow
]
every_layer = pytest.mark.parametrize("layer", LAYERS)
every_user = pytest.mark.parametrize("user", USERS)
CHEAP = [way for way in WAYS if way.id in {"tcp", "udp", "dns", "curl", "service", "daemon"}]

_AT_THE_DOOR = """
import os, socket
print(socket.create_connection(("127.0.0.1", int(os.environ["DOOR"])), 5).recv(99))
"""
_BETWEEN_THEMSELVES = """
import os, socket
for host, family in (("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET)):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not os.fork():
            socket.create_connection((host, port), 5).sendall(b"to each other")
            os._exit(0)
        print(server.accept()[0].recv(99))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(("127.0.0.1", 0))
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"a datagram", one.getsockname())
    print(one.recv(99))
"""


@pytest.fixture(scope="module")
def here(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One box for these tests."""
    with lab(tmp_path_factory.mktemp("box"), str(rig.aider / "bin" / "python")) as one:
        yield one


def test_there_are_enough_ways() -> None:
    """The table is as long as was promised, and no two have a name in common."""
    assert len({way.id for way in WAYS}) == len(WAYS) >= 20


@pytest.mark.parametrize(
    ("way", "layer", "user"), CASES, ids=[f"{way.id}-{layer}-{user}" for way, layer, user in CASES]
)
def test_nothing_leaves_and_every_attempt_is_named(
    way: Way, layer: str, user: str, here: Lab
) -> None:
    """The way leads out; in the air gap it does not, and it is reported by its host and port."""
    assert way.reached(here.alone(way)), "the way leads nowhere: it proves nothing"
    ran = here.gapped(way, layer, user)
    check(way, ran.seen, ran.attempts)


@every_user
@pytest.mark.parametrize("layer", ["open", "words"])
@pytest.mark.parametrize("way", CHEAP, ids=lambda way: way.id)
def test_a_gap_that_lets_out_is_found_out(way: Way, layer: str, user: str, here: Lab) -> None:
    """One that does nothing, and one that reports the very attempt but blocks nothing, count as leaking."""
    ran = here.gapped(way, layer, user, CLAIMED=way.named)
    assert bool(ran.attempts) is (layer == "words")
    with pytest.raises(AssertionError, match="got out"):
        check(way, ran.seen, ran.attempts)


@pytest.mark.parametrize("way", CHEAP, ids=lambda way: way.id)
def test_a_gap_that_says_nothing_is_found_out(way: Way) -> None:
    """One that blocks and does not say whom is not taken for a good one."""
    with pytest.raises(AssertionError, match="is not in"):
        check(way, (), ())


@every_user
@every_layer
def test_the_door_is_open(layer: str, user: str, here: Lab) -> None:
    """Who is inside reaches the door, and that is no attempt."""
    ran = here.gapped(Way("door", [PYTHON, "-c", _AT_THE_DOOR], ""), layer, user)
    assert repr(DOOR_SAYS) in ran.said
    assert ran.attempts == ()


@every_user
@every_layer
def test_programs_inside_reach_each_other(layer: str, user: str, here: Lab) -> None:
    """A server that a program inside starts is reached by another one inside, by address, name and datagram."""
    ran = here.gapped(Way("own", [PYTHON, "-c", _BETWEEN_THEMSELVES], ""), layer, user)
    assert (ran.status, ran.said.count("to each other"), ran.said.count("a datagram")) == (
        0,
        2,
        1,
    ), ran.said
    assert ran.attempts == ()
