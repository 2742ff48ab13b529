"""What Aider's Python tells of itself: datagrams that are attempts, garbage, and a flood."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.served import AuditReports, attempt_of
from aider_guard.core.egress import Attempt
from aider_guard.loop import Loop

TOLD = {"host": "example.org", "port": 443, "protocol": "tcp"}
GARBAGE: list[Any] = [
    {**TOLD, "host": ""},
    {**TOLD, "host": "x" * 254},
    {**TOLD, "host": "a b"},
    {**TOLD, "host": "\x1b[31m"},
    {**TOLD, "host": "exämple.org"},
    {**TOLD, "host": None},
    {**TOLD, "port": -1},
    {**TOLD, "port": 65536},
    {**TOLD, "port": True},
    {**TOLD, "port": 443.0},
    {**TOLD, "port": "443"},
    {**TOLD, "protocol": "unix"},
    {**TOLD, "protocol": ["tcp"]},
    {**TOLD, "program": "another"},
    {"host": "example.org", "port": 443},
    [TOLD],
    "",
    None,
]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "dns", "other"])
def test_an_attempt_is_told_by_aider(protocol: Any) -> None:
    """Host, port and protocol as told."""
    told = {**TOLD, "protocol": protocol}
    assert attempt_of(json.dumps(told).encode()) == Attempt("example.org", 443, protocol, "aider")


@pytest.mark.parametrize("told", GARBAGE)
def test_garbage_is_left_out(told: Any) -> None:
    """What is not exactly an attempt, or could not be shown."""
    assert attempt_of(json.dumps(told, ensure_ascii=False).encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*TOLD, "x"]), inner),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_that_is_told_raises(datagram: bytes) -> None:
    """And what is an attempt can be shown."""
    attempt = attempt_of(datagram)
    assert attempt is None or (attempt.host.isascii() and attempt.host.isprintable())


def test_endless_nesting_is_garbage() -> None:
    """The parser's own bound is no error of ours."""
    assert attempt_of(b"[" * 100_000) is None
    assert attempt_of(b'{"port": 1' + b"0" * 5000 + b"}") is None


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        yield ours, theirs


def test_it_is_heard_in_the_loop(pair: tuple[socket.socket, socket.socket]) -> None:
    """In the order in which it was told; garbage between does not matter, nor does one that is cut off."""
    heard: list[Attempt] = []
    ours, theirs = pair
    with Loop() as loop:
        reports = AuditReports(ours, loop, heard.append)
        for datagram in (b"", b"{", b"\xff" * 5000, json.dumps(TOLD).encode(), b"[]"):
            theirs.send(datagram)
        theirs.send(json.dumps({**TOLD, "port": 22}).encode())
        loop.run_once(5)
        assert [one.port for one in heard] == [443, 22]
        reports.close()
        reports.close()
        theirs.send(json.dumps(TOLD).encode())
        loop.run_once(0)
    assert len(heard) == 2


def test_a_flood_leaves_the_loop_its_other_work(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each round takes a part of it, and none is lost; the end of the teller is no error and no busy loop."""
    heard: list[Attempt] = []
    ours, theirs = pair
    theirs.setblocking(False)
    sent = 0
    with Loop() as loop:
        AuditReports(ours, loop, heard.append)
        for _ in range(3):
            while sent - len(heard) < 1000:
                try:
                    theirs.send(json.dumps(TOLD).encode())
                except BlockingIOError:
                    break
                sent += 1
            before = len(heard)
            loop.run_once(0)
            assert 0 < len(heard) - before <= 64
        theirs.close()
        while len(heard) < sent:
            loop.run_once(5)
        loop.run_once(0.01)
        loop.run_once(0.01)
    assert len(heard) == sent
