"""The sandbox of a session: attempts from all its sources are reported, with their number."""

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
    """A sandbox that is served, and what it reported."""
    reported: list[Attempt] = []
    # On a machine with thousands of connections the usual time is over before the program is found.
    patient = functools.partial(proc.Peers, search_seconds=30)
    with (
        pytest.MonkeyPatch.context() as patch,
        open_sandbox(Unenforced(layer), [Place("github.com", 22)]) as sandbox,
        Loop() as loop,
    ):
        patch.setattr(proc, "Peers", patient)
        sandbox.watch(loop, reported.append, os.getpid)
        yield sandbox, loop, reported
        sandbox.close()


def ask(sandbox: Sandbox, place: str) -> socket.socket:
    """Ask the proxy for a connection to this place."""
    at = urlsplit(sandbox.proxy_url)
    client = socket.create_connection((at.hostname, at.port or 0))
    client.sendall(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
    return client


def test_attempts_at_the_proxy_and_in_aiders_python_are_reported() -> None:
    """In the same form; the proxy's client gets its answer, and its program is named."""
    with watched() as (sandbox, loop, reported), ask(sandbox, "host.example:443") as client:
        report = {"host": "other.example", "port": 80, "protocol": "tcp"}
        os.write(sandbox.report_fd, json.dumps(report).encode())
        while len(reported) < 2:
            loop.run_once(CAP_SECONDS)
        client.settimeout(CAP_SECONDS)
        assert client.recv(4096).startswith(b"HTTP/1.1 403 ")
    assert {(attempt.host, attempt.port) for attempt in reported} == {
        ("host.example", 443),
        ("other.example", 80),
    }
    programs = {attempt.host: bool(attempt.program) for attempt in reported}
    assert programs == {"host.example": sys.platform == "linux", "other.example": True}


def test_repetitions_are_reported_with_their_number() -> None:
    """The first at once, the rest when a second has passed, or at the end."""
    with watched() as (sandbox, loop, reported):
        report = json.dumps({"host": "host.example", "port": 80, "protocol": "tcp"}).encode()
        for _ in range(30):
            os.write(sandbox.report_fd, report)
        loop.run_once(CAP_SECONDS)
        sandbox.flush()
        assert [attempt.count for attempt in reported] == [1, 29]


def test_an_open_network_has_no_reports() -> None:
    """Aider's Python gets no descriptor to report on."""
    with watched("open") as (sandbox, _loop, _told):
        assert sandbox.report_fd == -1
        assert sandbox.choice.layer == "open"


def test_nothing_is_served_afterwards() -> None:
    """Closing twice is no error; the proxy answers no more."""
    with watched() as (sandbox, _loop, _told):
        sandbox.close()
        with ask(sandbox, "host.example:443") as client:
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
