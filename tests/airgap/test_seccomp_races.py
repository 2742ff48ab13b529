"""Programs inside the seccomp layer that exchange a socket for another one while a call with it is judged.

60 rounds of each way, with a witness: servers of the host, which the guard must not let a program reach. What the
program is told is no evidence. Each way gets out where the guard lets a call go on after it has judged it.
"""

from __future__ import annotations

import os

import pytest
from airgap.seccomp_world import HostServers, World, compiled, ended

ROUNDS = 60
TIMES = 150
OTHER_USER = 65534

ROUND = """
import subprocess
for _ in range(arguments[0]):
    tell(subprocess.run(arguments[1], check=True).returncode)
"""


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of swapping.c."""
    return compiled("swapping", tmp_path_factory.mktemp("swapping"))


def rounds_that_got_out(here: World, host: HostServers, command: list[str]) -> list[int]:
    """In which rounds something came to the host's servers."""
    found = []
    with ended(here.start(ROUND, [ROUNDS, command])) as program:
        for number in range(ROUNDS):
            assert here.next(program) == 0
            if host.seen():
                found.append(number)
    return found


@pytest.mark.timeout(300)  # a busy machine
@pytest.mark.parametrize("how", ["fastopen", "sendmsg", "rights", "many"])
def test_a_socket_that_is_exchanged_meanwhile(
    here: World, host: HostServers, swapping: str, how: str
) -> None:
    """A Unix socket is judged, and one of the internet stands in its place a moment later."""
    command = [swapping, how, str(host.port), str(TIMES)]

    assert rounds_that_got_out(here, host, command) == []
    assert {(attempt.host, attempt.port) for attempt in here.attempts} == {("127.0.0.1", host.port)}


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_socket_and_its_address_as_another_user(
    here: World, host: HostServers, swapping: str
) -> None:
    """Root inside may become any user, and the guard must connect for that one, too."""
    command = [swapping, "connect", str(host.port), str(TIMES), str(OTHER_USER)]

    assert rounds_that_got_out(here, host, command) == []
