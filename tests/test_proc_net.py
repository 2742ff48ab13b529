"""Linux's tables of sockets: rows that are data, any bytes at all, and the tables of this machine."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.proc_net import LISTENING, UNCONNECTED, SocketRow, has_server, rows

TABLE = b"""  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 111 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000  0 222 1 0 20 4 30 10 -1
   2: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000  0 333 1 0 20 4 30 10 -1
   0: 0000000000000000FFFF00000100007F:C002 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0  1000  0 444 1
"""


@pytest.mark.parametrize(
    ("port", "server_port", "inode"),
    [(0xC001, 0x1F90, 333), (0xC002, 0x1F90, 444), (0xC001, 1, 0), (0x1F90, 0, 111), (1, 2, 0)],
)
def test_the_socket_is_found_by_both_its_ports(port: int, server_port: int, inode: int) -> None:
    """In the table of IPv4 and in that of IPv6."""
    found = [row.inode for row in rows(TABLE, port) if row.remote_port == server_port]
    assert found == ([inode] if inode else [])


@given(st.binary())
def test_a_table_may_hold_anything(table: bytes) -> None:
    """Nothing is raised, and a row is one of the port that is wanted."""
    line = b"0: 0100007F:0001 %s" % table
    for content in (table, line):
        assert all(isinstance(row, SocketRow) for row in rows(content, 1))


@pytest.mark.parametrize(("port", "inode"), [(0xC001, 222), (0xC002, 333), (1, 0)])
def test_the_socket_of_a_datagram_is_found_by_its_port(port: int, inode: int) -> None:
    """Connected, as a resolver's is, or not."""
    table = b"""   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
  1: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 111 2 0 0
  2: 0100007F:C001 3500007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 222 2 0 0
  3: 00000000:C002 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 333 2 0 0
"""
    assert [row.inode for row in rows(table, port)] == ([inode] if inode else [])


def test_a_row_has_what_the_table_says() -> None:
    """The address as people write it, that of IPv4 within IPv6 as IPv4; only rows in the wanted state."""
    (server,) = rows(TABLE, 0x1F90, LISTENING)
    assert server == SocketRow(ipaddress.ip_address("127.0.0.1"), 0, 1000, 111)
    (mapped,) = rows(TABLE, 0xC002)
    assert str(mapped.address) == "127.0.0.1"
    assert list(rows(TABLE, 0x1F90, UNCONNECTED)) == []


def test_who_listens_is_in_the_tables() -> None:
    """By port and kind; a connection is no server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        table = Path("/proc/net/tcp").read_bytes() if Path("/proc/net/tcp").exists() else b""
        if not table:
            pytest.skip("only Linux has these tables")
        assert has_server(table, "tcp", server.getsockname()[1])
        assert not has_server(table, "tcp", client.getsockname()[1])
        assert not has_server(table, "udp", server.getsockname()[1])
