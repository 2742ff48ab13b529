"""What a packet on the jail's loopback interface tells: who was to be reached. Pure.

Headers are those of RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP) and 768 (UDP). The filter keeps everything but the first
packets of connections, and datagrams, from being copied at all: an answer of the model is thousands of packets.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final, Literal

TCP, UDP = 6, 17
_ICMP, _ICMPV6, _IPV6_HEADER = 1, 58, 40
_SYN, _ACK = 0x02, 0x10
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD  # linux/if_ether.h
PACKET_OUTGOING: Final = 4  # linux/if_packet.h

# Classic BPF, linux/filter.h; ancillary data at SKF_AD_OFF.
_LOAD_BYTE, _LOAD_WORD, _LOAD_BYTE_AT_X, _LOAD_X = 0x30, 0x20, 0x50, 0xB1
_EQUAL, _JUMP, _RETURN, _AND = 0x15, 0x05, 0x06, 0x54
_ANCILLARY: Final = 0xFFFFF000
_PROTOCOL, _KIND = _ANCILLARY + 0, _ANCILLARY + 4
_COPIED_BYTES: Final = 128


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, or a datagram, that a program in the jail sent."""

    kind: Literal["tcp", "udp", "other"]
    source: str
    source_port: int
    destination: str
    port: int


def parse(data: bytes, ethernet_type: int) -> Packet | None:
    """What an IP packet (without a link header) is; None for anything that reaches for nobody."""
    if ethernet_type == ETH_P_IP and len(data) >= 20:
        start, protocol = (data[0] & 15) * 4, data[9]
        source, destination = data[12:16], data[16:20]
    elif ethernet_type == ETH_P_IPV6 and len(data) >= _IPV6_HEADER:
        start, protocol = _IPV6_HEADER, data[6]
        source, destination = data[8:24], data[24:40]
    else:
        return None
    hosts = _text(source), _text(destination)
    if protocol == (_ICMP if ethernet_type == ETH_P_IP else _ICMPV6):
        return None  # the kernel's own answers
    if protocol not in (TCP, UDP) or len(data) < start + 4:
        return Packet("other", hosts[0], 0, hosts[1], protocol)
    ports = struct.unpack_from("!HH", data, start)
    if protocol == UDP:
        return Packet("udp", hosts[0], ports[0], hosts[1], ports[1])
    if len(data) < start + 14 or data[start + 13] & (_SYN | _ACK) != _SYN:
        return None
    return Packet("tcp", hosts[0], ports[0], hosts[1], ports[1])


def _text(address: bytes) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def is_loopback(address: str) -> bool:
    """Whether it is the jail's own."""
    return ipaddress.ip_address(address).is_loopback


def filter_program() -> bytes:
    """Which packets a tap is to see: outgoing ones, of TCP only those that begin a connection, and no ICMP."""
    code = [
        _step(_LOAD_WORD, _KIND),
        _step(_EQUAL, PACKET_OUTGOING, no=15),
        _step(_LOAD_WORD, _PROTOCOL),
        _step(_EQUAL, ETH_P_IPV6, no=5),
        _step(_LOAD_BYTE, 6),
        _step(_EQUAL, _ICMPV6, yes=11),
        _step(_EQUAL, TCP, no=9),
        _step(_LOAD_BYTE, _IPV6_HEADER + 13),
        _step(_JUMP, 5),  # to the flags
        _step(_LOAD_BYTE, 9),
        _step(_EQUAL, _ICMP, yes=6),
        _step(_EQUAL, TCP, no=4),
        _step(_LOAD_X, 0),  # X = 4 * (first byte & 15): the length of the IPv4 header
        _step(_LOAD_BYTE_AT_X, 13),
        _step(_AND, _SYN | _ACK),
        _step(_EQUAL, _SYN, no=1),
        _step(_RETURN, _COPIED_BYTES),
        _step(_RETURN, 0),
    ]
    return b"".join(code)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)
