"""Parts of the seccomp layer: addresses of sockets, the owner of a server, sockets by number."""

from __future__ import annotations

import errno
import ipaddress
import os
import platform
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.dns import NameTable
from aider_guard.airgap.gap import Gap
from aider_guard.airgap.rules import OwnServers, Server, answers, on_port
from aider_guard.airgap.seccomp import SeccompGap
from aider_guard.airgap.sockets import (
    Abstract,
    Internet,
    Netlink,
    Nowhere,
    UnixPath,
    Unknown,
    pack,
    parse,
)
from aider_guard.proc_net import LISTENING, rows

INET, INET6 = socket.AF_INET, socket.AF_INET6
ANY = {ipaddress.ip_address(text) for text in ("0.0.0.0", "::", "::ffff:0.0.0.0")}
ADDRESSES = st.ip_addresses().filter(lambda one: one not in ANY)


@given(ADDRESSES, st.integers(0, 65535))
def test_addresses_there_and_back(address: ipaddress.IPv4Address, port: int) -> None:
    """What is packed for IPv6 is read as it was, and IPv4 within it as IPv4."""
    mapped = getattr(address, "ipv4_mapped", None)

    found = parse(pack(str(address), port, INET6))

    assert found == Internet(str(mapped or address), port)
    if address.version == 4:
        assert parse(pack(str(address), port, INET)) == found


@given(st.binary(max_size=140))
def test_any_bytes_are_something(raw: bytes) -> None:
    """No address that a program can make up is too much for the guard."""
    found = parse(raw)

    assert found is not None
    if isinstance(found, Internet):
        assert found.is_loopback in {True, False}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", Unknown(-1)),
        (b"\0\0", Nowhere()),
        (b"\1\0", Nowhere()),
        (b"\1\0/run/x\0rest", UnixPath(b"/run/x")),
        (b"\1\0\0name\0", Abstract(b"name\0")),
        (struct.pack("<H", 16) + bytes(10), Netlink()),
        (struct.pack("<H", 2) + b"\0\x50\x7f\0\0\1", Unknown(2)),  # cut short
        (struct.pack("<H", 40) + bytes(14), Unknown(40)),
        (struct.pack("<H", 2) + b"\0\x50" + bytes(12), Internet("127.0.0.1", 80)),
        (struct.pack("<H", 10) + b"\0\x50" + bytes(24), Internet("::1", 80)),
    ],
)
def test_addresses(raw: bytes, expected: object) -> None:
    """Each kind is recognised, and "any" is the loopback, as the kernel takes it."""
    assert parse(raw) == expected


def test_no_ipv6_for_ipv4_sockets() -> None:
    """The kernel's own error."""
    with pytest.raises(OSError, match=os.strerror(errno.EAFNOSUPPORT)):
        pack("::1", 80, INET)


@pytest.mark.parametrize(
    ("bound", "wanted", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("0.0.0.0", "::1", False),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:0.0.0.0", "127.0.0.1", True),
        ("::ffff:0.0.0.0", "::1", False),
    ],
)
def test_who_may_answer(bound: str, wanted: str, expected: bool) -> None:
    """As the kernel looks for a socket."""
    assert answers(ipaddress.ip_address(bound), ipaddress.ip_address(wanted)) is expected


def test_a_port_is_own_when_all_who_could_answer_are() -> None:
    """A server of the host's on the same port, at another address, keeps what could be meant for it."""
    with socket.socket() as mine, socket.socket() as theirs:
        own_number, other_number = (os.fstat(one.fileno()).st_ino for one in (mine, theirs))
        all_four, here = ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("127.0.0.1")
        servers: list[Server] = [(all_four, own_number)]
        own = OwnServers(lambda _kind, _port: servers)
        own.add(mine.fileno())

        assert own.at("tcp", "127.0.0.1", 80) == "own"
        assert own.at("tcp", "::1", 80) == "none"
        servers.append((here, other_number))
        assert own.at("tcp", "127.0.0.1", 80) == "others"
        assert own.at("tcp", "127.0.0.2", 80) == "own"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_the_kernels_answer_is_its_tables(address: str) -> None:
    """Asked for one port it says the same as the whole table, and of no other port."""
    family = INET6 if ":" in address else INET
    with socket.create_server((address, 0), family=family) as server:
        port, number = server.getsockname()[1], os.fstat(server.fileno()).st_ino
        expected = [(ipaddress.ip_address(address), number)]
        table = Path("/proc/net/tcp6" if family == INET6 else "/proc/net/tcp").read_bytes()
        written = [(row.address, row.inode) for row in rows(table, port, LISTENING)]

        assert on_port("tcp", port) == written == expected
    assert on_port("tcp", port) == []


def test_udp_sockets_are_found() -> None:
    """Those that are bound, also to a client's own port."""
    with socket.socket(INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        found = on_port("udp", server.getsockname()[1])
        assert found == [(ipaddress.ip_address("127.0.0.1"), os.fstat(server.fileno()).st_ino)]


def test_an_unknown_machine() -> None:
    """Without the numbers of its calls there is no such layer."""
    with pytest.raises(OSError, match="riscv64"):
        SeccompGap(NameTable(), machine="riscv64")


def open_descriptors() -> list[str]:
    return sorted(one.name for one in Path("/proc/self/fd").iterdir())


def test_closing_leaves_nothing_open() -> None:
    """What it opened is closed, also when it never served; and the guard is as readable as before."""
    before = open_descriptors()
    gap: Gap = SeccompGap(NameTable(), machine=platform.machine())
    assert gap.layer == "seccomp"
    gap.close()
    gap.close()
    assert open_descriptors() == before
