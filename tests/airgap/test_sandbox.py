"""What stands between Aider and everything else: one number for each attempt, whoever heard of it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from aider_guard.airgap import proc
from aider_guard.airgap.gap import Unenforced
from aider_guard.airgap.served import Sandbox, open_sandbox
from aider_guard.core.egress import Attempt, Layer, Place
from aider_guard.loop import Loop

CAP_SECONDS = 10.0


@contextlib.contextmanager
def watched(layer: Layer = "asked") -> Iterator[tuple[Sandbox, Loop, list[Attempt]]]:
    """A border that is served, and what it reported."""
    told: list[Attempt] = []
    # On a machine with thousands of connections the usual time is over before the program is found.
    patient = functools.partial(proc.Peers, search_seconds=30)
    with (
        pytest.MonkeyPatch.context() as patch,
        open_sandbox(Unenforced(layer), [Place("github.com", 22)]) as border,
        Loop() as loop,
    ):
        patch.setattr(proc, "Peers", patient)
        border.watch(loop, told.append, os.getpid)
        yield border, loop, told
        border.close()


def ask(border: Sandbox, place: str) -> socket.socket:
    """Ask the proxy for a way there."""
    at = urlsplit(border.refusing)
    one = socket.create_connection((at.hostname, at.port or 0))
    one.sendall(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
    return one


def test_the_proxy_and_aider_s_python_are_heard() -> None:
    """Both by the same words; the proxy's guest gets its answer, and its program is named."""
    with watched() as (border, loop, told), ask(border, "host.example:443") as guest:
        tells = {"host": "other.example", "port": 80, "protocol": "tcp"}
        os.write(border.mouth_fd, json.dumps(tells).encode())
        while len(told) < 2:
            loop.run_once(CAP_SECONDS)
        guest.settimeout(CAP_SECONDS)
        assert guest.recv(4096).startswith(b"HTTP/1.1 403 ")
    assert {(one.host, one.port) for one in told} == {("host.example", 443), ("other.example", 80)}
    programs = {one.host: bool(one.program) for one in told}
    assert programs == {"host.example": sys.platform == "linux", "other.example": True}


def test_repetitions_are_told_with_their_number() -> None:
    """The first at once, the rest when a second has passed, or at the end."""
    with watched() as (border, loop, told):
        tells = json.dumps({"host": "host.example", "port": 80, "protocol": "tcp"}).encode()
        for _ in range(30):
            os.write(border.mouth_fd, tells)
        loop.run_once(CAP_SECONDS)
        border.look()
        assert [one.count for one in told] == [1, 29]


def test_nothing_is_asked_of_an_open_network() -> None:
    """Aider's Python is given nothing to tell by."""
    with watched("open") as (border, _loop, _told):
        assert border.mouth_fd == -1
        assert border.found.layer == "open"


def test_nothing_is_served_afterwards() -> None:
    """Closing twice is no error; nobody answers any more."""
    with watched() as (border, _loop, _told):
        border.close()
        with ask(border, "host.example:443") as guest:
            guest.settimeout(0.05)
            with pytest.raises(TimeoutError):
                guest.recv(1)
