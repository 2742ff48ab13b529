"""What a packet is, and which packets the socket filter passes."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.packet_capture import (
    ETH_P_IP,
    ETH_P_IPV6,
    Packet,
    filter_program,
    is_for_one,
    is_loopback,
    parse,
)

SYN, ACK, RST = 0x02, 0x10, 0x04
V4, V6 = ("10.0.0.1", "192.0.2.7"), ("2001:db8::1", "2001:db8::7")


def ip(hosts: tuple[str, str], protocol: int, payload: bytes, options: int = 0) -> bytes:
    """A packet without a link header."""
    source, destination = (ipaddress.ip_address(host).packed for host in hosts)
    if len(source) == 16:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
            + source
            + destination
            + payload
        )
    head = struct.pack("!BBHHHBBH", 0x45 + options, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + source + destination + bytes(4 * options) + payload


def tcp(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 5 << 4, flags, 0, 0, 0)


UDP = struct.pack("!HHHH", 40000, 443, 9, 0) + b"x"
CASES = [
    ("a connection begins", 6, tcp(SYN), "tcp"),
    ("with extras", 6, tcp(SYN | 0xC0), "tcp"),
    ("it is answered", 6, tcp(SYN | ACK), None),
    ("it goes on", 6, tcp(ACK), None),
    ("it is refused", 6, tcp(RST | ACK), None),
    ("a datagram", 17, UDP, "udp"),
    ("an echo", 1, b"\x08\0\0\0", None),
    ("one of IPv6", 58, b"\x80\0\0\0", None),
    ("a group is joined", 2, b"\x22\0\0\0", None),
    ("SCTP", 132, UDP, "other"),
]


def kept(packet: bytes, kind: int = 4, ethernet_type: int = ETH_P_IP) -> bool:
    """Whether the filter keeps it: its instructions, played as the kernel does (filter.rst of its documentation)."""
    steps = list(struct.iter_unpack("HBBI", filter_program()))
    at, a, x = 0, 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                a = {0xFFFFF000: ethernet_type, 0xFFFFF004: kind}[value]
            case 0x30:
                a = packet[value]
            case 0x50:
                a = packet[x + value]
            case 0xB1:
                x = (packet[value] & 15) * 4
            case 0x54:
                a &= value
            case 0x05:
                at += value
            case 0x15:
                at += yes if a == value else no
            case 0x06:
                return bool(value)
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize(
    ("what", "protocol", "payload", "kind"), CASES, ids=[case[0] for case in CASES]
)
@pytest.mark.parametrize("hosts", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("options", [0, 3])
def test_what_a_packet_is(
    what: str, protocol: int, payload: bytes, kind: str | None, hosts: tuple[str, str], options: int
) -> None:
    """Parser and filter agree, for both protocols and with options."""
    packet = ip(hosts, protocol, payload, options)
    ethernet_type = ETH_P_IP if hosts is V4 else ETH_P_IPV6
    if (protocol, hosts) in ((1, V6), (2, V6), (58, V4)):
        kind = "other"  # what the other protocol has is nothing here
    port = 0 if kind == "other" else 443
    source = 0 if kind == "other" else 40000
    expected = Packet(kind, hosts[0], source, hosts[1], port) if kind else None  # type: ignore[arg-type]
    assert parse(packet, ethernet_type) == expected, what
    assert kept(packet, ethernet_type=ethernet_type) is (kind is not None), what
    assert not kept(packet, kind=0, ethernet_type=ethernet_type)


BEHIND_OPTIONS = [
    ("a group is joined", bytes([58, 0, 5, 2, 0, 0, 1, 0]) + b"\x8f\0\0\0", None),
    ("a datagram", bytes([60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]) + UDP, "udp"),
    ("a connection goes on", bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp(ACK), None),
    ("cut short", bytes([17]), "other"),
]


@pytest.mark.parametrize(("what", "payload", "kind"), BEHIND_OPTIONS)
def test_what_a_packet_of_ipv6_is_behind_its_options(
    what: str, payload: bytes, kind: str | None
) -> None:
    """They stand before what it carries."""
    packet = parse(ip(V6, 0, payload), ETH_P_IPV6)
    assert (packet.kind if packet else None) == kind, what
    assert packet is None or packet.port == (443 if kind == "udp" else 0)


@given(st.binary(max_size=120), st.sampled_from([ETH_P_IP, ETH_P_IPV6, 0x0806]))
def test_garbage_is_no_error(data: bytes, ethernet_type: int) -> None:
    """Whatever comes, it is a packet or nothing."""
    assert parse(data, ethernet_type) is None or len(data) >= 20


def test_an_address_written_as_the_other_kind() -> None:
    """IPv4 in IPv6 is shown as IPv4."""
    packet = ip(("::ffff:10.0.0.1", "::ffff:192.0.2.7"), 6, tcp(SYN))
    assert parse(packet, ETH_P_IPV6) == Packet("tcp", "10.0.0.1", 40000, "192.0.2.7", 443)


@pytest.mark.parametrize(
    ("address", "is_it"), [("127.9.8.7", True), ("::1", True), ("10.0.0.1", False)]
)
def test_loopback(address: str, is_it: bool) -> None:
    """All of 127.0.0.0/8, and ::1."""
    assert is_loopback(address) is is_it


@pytest.mark.parametrize(
    ("address", "is_it"),
    [
        ("10.0.0.1", True),
        ("::1", True),
        ("224.0.0.251", False),
        ("ff02::fb", False),
        ("255.255.255.255", False),
    ],
)
def test_one_receiver(address: str, is_it: bool) -> None:
    """A group or a broadcast address has receivers outside, too."""
    assert is_for_one(address) is is_it
