"""A program that attacks the air gap stays inside: its namespaces, the guard's memory, the daemons outside.

Each escape is tried without an air gap first: there it gains something, as root, or the test says nothing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.egress import NOT_HERE
from e2e.escapes import ESCAPES, ROUNDS, Escape
from e2e.gapped import LAYERS, USERS, Lab, Ran, lab
from e2e.world import DAEMON

from aider_guard.demo.layout import Rig

_CAP_SECONDS = 60.0
_MANY_ROUNDS = 25

every_layer = pytest.mark.parametrize("layer", LAYERS)
every_user = pytest.mark.parametrize("user", USERS)


@pytest.fixture(scope="module")
def here(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One box for these tests."""
    with lab(tmp_path_factory.mktemp("box"), str(rig.aider / "bin" / "python")) as one:
        yield one


@pytest.fixture(scope="module")
def free(here: Lab) -> dict[str, Ran]:
    """What each escape gained where there was nothing to escape from."""
    del here
    return {}


def gains(ran: Ran) -> list[str]:
    """What the witness saw of a program, and what it says that it gained."""
    said = [line for line in ran.said.splitlines() if line.startswith("gained")]
    return [*map(str, ran.seen), *said]


@every_user
@every_layer
@pytest.mark.parametrize("escape", ESCAPES, ids=lambda one: one.id)
def test_nobody_escapes(
    escape: Escape,
    layer: str,
    user: str,
    here: Lab,
    free: dict[str, Ran],
) -> None:
    """It gains something without an air gap; in one it is tried to its end, and gains nothing."""
    # A race may be lost a few times, too, where nothing is in its way.
    for _ in range(5):
        if escape.id not in free or not any(
            escape.shows in gain for gain in gains(free[escape.id])
        ):
            free[escape.id] = here.gapped(escape.way, "open", "root")
        if escape.may_lack and free[escape.id].status == NOT_HERE:
            break
    if escape.may_lack and free[escape.id].status == NOT_HERE:
        pytest.skip(f"this system has no {escape.id}")
    assert any(escape.shows in gain for gain in gains(free[escape.id])), free[escape.id].said
    ran = here.gapped(escape.way, layer, user)
    assert gains(ran) == []
    assert "tried" in ran.said or ran.status == NOT_HERE, ran.said


@every_user
@pytest.mark.parametrize("layer", LAYERS)
def test_a_daemon_is_named(layer: str, user: str, here: Lab) -> None:
    """Its socket is reported by its path."""
    (escape,) = (one for one in ESCAPES if one.id == "daemon-socket")
    attempts = here.gapped(escape.way, layer, user).attempts
    assert (DAEMON, 0, "unix") in {(one.host, one.port, one.protocol) for one in attempts}


@pytest.mark.parametrize("killer", ["itself", "another"])
@every_user
@pytest.mark.parametrize("layer", [*LAYERS, "open"])
def test_a_killed_guard_lets_nobody_out(
    layer: str, user: str, killer: str, here: Lab, tmp_path: Path
) -> None:
    """A program goes on to try while its guard is killed and afterwards: nothing leaves, at no time."""
    since = here.box.mark()
    with rounds_in(here, layer, user, killer, here.home / f"rounds-{tmp_path.name}") as (
        guard,
        pipe,
    ):
        wait_for_rounds(pipe, 5)
        if killer == "another":
            guard.kill()
        assert guard.wait(_CAP_SECONDS) == -signal.SIGKILL
        killed = here.box.mark()
        drain(pipe)
        wait_for_rounds(pipe, _MANY_ROUNDS)
        afterwards = here.box.mark()
    seen = [here.box.seen(since, killed), here.box.seen(killed, afterwards)]
    if layer == "open":
        assert all(seen), "the program leads nowhere: it proves nothing"
    else:
        assert seen == [[], []]


@contextmanager
def rounds_in(
    here: Lab, layer: str, user: str, killer: str, path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program in a gap that tries and tries, and the end of its pipe. It has ended afterwards: what
    it sends later would count for another test.
    """
    os.mkfifo(path)
    path.chmod(0o666)
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    command = here.driver(layer, user, [here.python, "-c", ROUNDS, str(path), killer])
    try:
        guard = subprocess.Popen(
            here.box.inside(command, here.home),
            env=here.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        yield guard, pipe
    finally:
        path.unlink()
        while select.select([pipe], [], [], _CAP_SECONDS)[0] and os.read(pipe, 4096):
            pass
        os.close(pipe)


def wait_for_rounds(pipe: int, count: int) -> None:
    """Read so many rounds from the pipe."""
    while count > 0:
        assert select.select([pipe], [], [], _CAP_SECONDS)[0], "no more rounds"
        count -= len(os.read(pipe, count))


def drain(pipe: int) -> None:
    """Read what was written before."""
    while select.select([pipe], [], [], 0)[0]:
        os.read(pipe, 4096)
