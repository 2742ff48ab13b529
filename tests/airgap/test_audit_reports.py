"""Reports of Aider's own Python: datagrams that are attempts, garbage, and a flood."""

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

REPORT = {"host": "example.org", "port": 443, "protocol": "tcp"}
GARBAGE: list[Any] = [
    {**REPORT, "host": ""},
    {**REPORT, "host": "x" * 254},
    {**REPORT, "host": "a b"},
    {**REPORT, "host": "\x1b[31m"},
    {**REPORT, "host": "exämple.org"},
    {**REPORT, "host": None},
    {**REPORT, "port": -1},
    {**REPORT, "port": 65536},
    {**REPORT, "port": True},
    {**REPORT, "port": 443.0},
    {**REPORT, "port": "443"},
    {**REPORT, "protocol": "unix"},
    {**REPORT, "protocol": ["tcp"]},
    {**REPORT, "program": "another"},
    {"host": "example.org", "port": 443},
    [REPORT],
    "",
    None,
]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "dns", "other"])
def test_a_report_becomes_an_attempt(protocol: Any) -> None:
    """With the host, port and protocol of the report."""
    report = {**REPORT, "protocol": protocol}
    assert attempt_of(json.dumps(report).encode()) == Attempt("example.org", 443, protocol, "aider")


@pytest.mark.parametrize("report", GARBAGE)
def test_garbage_is_ignored(report: Any) -> None:
    """A report with other fields or values, or a host that cannot be shown."""
    assert attempt_of(json.dumps(report, ensure_ascii=False).encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*REPORT, "x"]), inner),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_datagram_raises(datagram: bytes) -> None:
    """And the host of an attempt can be shown."""
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


def test_reports_are_received_in_the_loop(pair: tuple[socket.socket, socket.socket]) -> None:
    """In their order; garbage between them does not matter, nor does a report that is cut off."""
    received: list[Attempt] = []
    ours, theirs = pair
    with Loop() as loop:
        reports = AuditReports(ours, loop, received.append)
        for datagram in (b"", b"{", b"\xff" * 5000, json.dumps(REPORT).encode(), b"[]"):
            theirs.send(datagram)
        theirs.send(json.dumps({**REPORT, "port": 22}).encode())
        loop.run_once(5)
        assert [attempt.port for attempt in received] == [443, 22]
        reports.close()
        reports.close()
        theirs.send(json.dumps(REPORT).encode())
        loop.run_once(0)
    assert len(received) == 2


def test_a_flood_leaves_the_loop_its_other_work(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each round takes a part of it, and none is lost; the end of the sender is no error and no busy loop."""
    received: list[Attempt] = []
    ours, theirs = pair
    theirs.setblocking(False)
    sent = 0
    with Loop() as loop:
        AuditReports(ours, loop, received.append)
        for _ in range(3):
            while sent - len(received) < 1000:
                try:
                    theirs.send(json.dumps(REPORT).encode())
                except BlockingIOError:
                    break
                sent += 1
            before = len(received)
            loop.run_once(0)
            assert 0 < len(received) - before <= 64
        theirs.close()
        while len(received) < sent:
            loop.run_once(5)
        loop.run_once(0.01)
        loop.run_once(0.01)
    assert len(received) == sent
