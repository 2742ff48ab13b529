"""Which socket receives a packet: by the kernel's own search, and by its tables where it has none."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aider_guard.airgap import proc
from aider_guard.airgap.packet_capture import ListenerLookup, Packet
from aider_guard.airgap.proc import End, diag_socket
from aider_guard.proc_net import Kind

pytestmark = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="only Linux has these tables"
)
TABLES = [name for name in ("tcp", "tcp6", "udp", "udp6") if Path("/proc/net", name).exists()]
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS: list[tuple[Kind, socket.SocketKind]] = [("tcp", STREAM), ("udp", DATAGRAM)]
every_kind = pytest.mark.parametrize(("kind", "type_"), KINDS)


@contextlib.contextmanager
def listener_lookup(*, is_asked: bool) -> Iterator[ListenerLookup]:
    """A lookup in this network, with sockets to try the kernel with, or without any."""
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(diag_socket())
        known: dict[Kind, End] = {"tcp": ("127.0.0.1", 0), "udp": ("127.0.0.1", 0)}
        for kind, type_ in KINDS if is_asked else ():
            known[kind] = stack.enter_context(waiting("127.0.0.1", type_)).getsockname()
        tables = {name: os.open(f"/proc/net/{name}", os.O_RDONLY) for name in TABLES}
        for fd in tables.values():
            stack.callback(os.close, fd)
        yield stack.enter_context(contextlib.closing(ListenerLookup(channel, tables, known)))


def waiting(host: str, type_: socket.SocketKind) -> socket.socket:
    """A socket that waits at this address."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, type_)
    sock.bind((host, 0))
    if type_ == STREAM:
        sock.listen()
    return sock


@every_kind
@pytest.mark.parametrize("is_asked", [True, False])
def test_a_server_at_the_loopback(kind: Kind, type_: socket.SocketKind, *, is_asked: bool) -> None:
    """It receives what is sent to it, and nothing for other addresses; when it is closed, nothing receives it."""
    with listener_lookup(is_asked=is_asked) as lookup:
        with waiting("127.0.0.1", type_) as server:
            port = server.getsockname()[1]
            here = Packet(kind, "127.0.0.1", 9, "127.0.0.1", port)
            there = Packet(kind, "127.0.0.1", 9, "192.0.2.10", port)
            assert lookup.has_receiver_inside(here)
            assert lookup.is_server_outside(here)
            assert not lookup.has_receiver_inside(there)
        assert not lookup.has_receiver_inside(here)
        assert not lookup.is_server_outside(here)


@every_kind
@pytest.mark.parametrize(
    ("bound", "to", "is_it"),
    [
        ("0.0.0.0", "192.0.2.10", True),
        ("0.0.0.0", "127.9.9.9", True),
        ("0.0.0.0", "2001:db8::10", False),
        ("::", "192.0.2.10", True),
        ("::", "2001:db8::10", True),
        ("::1", "2001:db8::10", False),
        ("0.0.0.0", "224.0.0.251", False),
        ("0.0.0.0", "255.255.255.255", False),
    ],
)
def test_a_server_at_all_addresses(
    kind: Kind, type_: socket.SocketKind, bound: str, to: str, *, is_it: bool
) -> None:
    """The kernel knows which they are. A group has more than one receiver."""
    with listener_lookup(is_asked=True) as lookup, waiting(bound, type_) as server:
        packet = Packet(kind, "127.0.0.1" if "." in to else "::1", 9, to, server.getsockname()[1])
        assert lookup.has_receiver_inside(packet) is is_it


def test_a_connection_that_has_ended_was_received() -> None:
    """Its server is closed; that it was reached is still known."""
    with listener_lookup(is_asked=True) as lookup:
        with waiting("127.0.0.1", STREAM) as server:
            client = socket.create_connection(server.getsockname())
            packet = Packet("tcp", *client.getsockname(), *server.getsockname())
            server.accept()[0].close()
            client.close()
        assert lookup.has_receiver_inside(packet)
        assert not lookup.is_server_outside(packet)


def test_a_packet_without_ports_has_no_receiver() -> None:
    """The kernel is not asked about it."""
    with listener_lookup(is_asked=True) as lookup:
        packet = Packet("other", "127.0.0.1", 0, "127.0.0.1", 0)
        assert not lookup.has_receiver_inside(packet)
        assert not lookup.is_server_outside(packet)


def test_a_kernel_that_does_not_answer_knows_no_server() -> None:
    """It is no error."""
    channel: Any = diag_socket()
    with channel, waiting("127.0.0.1", STREAM) as server:
        assert proc.has_server(channel, "tcp", server.getsockname())
    assert not proc.has_server(channel, "tcp", ("127.0.0.1", 1))
