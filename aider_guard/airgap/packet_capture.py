"""What a packet on the jail's loopback interface tells: who was to be reached. Pure.

Headers are those of RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP) and 768 (UDP). The filter keeps everything but the first
packets of connections, and datagrams, from being copied at all: an answer of the model is thousands of packets.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aider_guard.airgap import proc
from aider_guard.airgap.proc import End, diag_socket
from aider_guard.proc_net import PROC, Kind, has_server, read_open_table, read_tables

TCP, UDP = 6, 17
_ICMP, _IGMP, _ICMPV6, _IPV6_HEADER = 1, 2, 58, 40
_EXTENSIONS: Final = (
    0,
    43,
    60,
)  # options and routes: whoever joins a group sends ICMPv6 behind one
_SYN, _ACK = 0x02, 0x10
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD  # linux/if_ether.h
PACKET_OUTGOING: Final = 4  # linux/if_packet.h

# Classic BPF, linux/filter.h; ancillary data at SKF_AD_OFF.
_LOAD_BYTE, _LOAD_WORD, _LOAD_BYTE_AT_X, _LOAD_X = 0x30, 0x20, 0x50, 0xB1
_EQUAL, _JUMP, _RETURN, _AND = 0x15, 0x05, 0x06, 0x54
_ANCILLARY: Final = 0xFFFFF000
_PROTOCOL, _KIND = _ANCILLARY + 0, _ANCILLARY + 4
_COPIED_BYTES: Final = 128
_EVERYBODY: Final = ipaddress.IPv4Address("255.255.255.255")


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, or a datagram, that a program in the jail sent."""

    kind: Literal["tcp", "udp", "other"]
    source: str
    source_port: int
    destination: str
    port: int
    """0 where it has none."""

    @property
    def sender(self) -> tuple[str, int]:
        """Where it comes from."""
        return self.source, self.source_port

    @property
    def receiver(self) -> tuple[str, int]:
        """Where it was to go."""
        return self.destination, self.port


def parse(data: bytes, ethernet_type: int) -> Packet | None:
    """What an IP packet (without a link header) is; None for anything that reaches for nobody."""
    silent: tuple[int, ...]
    if ethernet_type == ETH_P_IP and len(data) >= 20:
        start, protocol = (data[0] & 15) * 4, data[9]
        source, destination = data[12:16], data[16:20]
        silent = (_ICMP, _IGMP)
    elif ethernet_type == ETH_P_IPV6 and len(data) >= _IPV6_HEADER:
        start, protocol = _after_extensions(data)
        source, destination = data[8:24], data[24:40]
        silent = (_ICMPV6,)
    else:
        return None
    if protocol in silent:
        return None  # the kernel's own
    return _transported(data[start:], protocol, _text(source), _text(destination))


def _after_extensions(data: bytes) -> tuple[int, int]:
    """Where an IPv6 packet's own content begins, and its protocol (RFC 8200, 4)."""
    start, protocol = _IPV6_HEADER, data[6]
    while protocol in _EXTENSIONS and len(data) > start + 1:
        start, protocol = start + (data[start + 1] + 1) * 8, data[start]
    return start, protocol


def _transported(data: bytes, protocol: int, source: str, destination: str) -> Packet | None:
    if protocol not in (TCP, UDP) or len(data) < 4:
        return Packet("other", source, 0, destination, 0)
    source_port, port = struct.unpack_from("!HH", data)
    if protocol == UDP:
        return Packet("udp", source, source_port, destination, port)
    if len(data) < 14 or data[13] & (_SYN | _ACK) != _SYN:
        return None
    return Packet("tcp", source, source_port, destination, port)


def _text(address: bytes) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def is_loopback(address: str) -> bool:
    """Whether it is the jail's own."""
    return ipaddress.ip_address(address).is_loopback


def is_for_one(address: str) -> bool:
    """Whether it is for one receiver: not for a group, or for everybody."""
    found = ipaddress.ip_address(address)
    return not found.is_multicast and found != _EVERYBODY


def filter_program() -> bytes:
    """Which packets a tap is to see: outgoing ones, of TCP only those that begin a connection, no ICMP and no IGMP."""
    code = [
        _step(_LOAD_WORD, _KIND),
        _step(_EQUAL, PACKET_OUTGOING, no=16),
        _step(_LOAD_WORD, _PROTOCOL),
        _step(_EQUAL, ETH_P_IPV6, no=5),
        _step(_LOAD_BYTE, 6),
        _step(_EQUAL, _ICMPV6, yes=12),
        _step(_EQUAL, TCP, no=10),
        _step(_LOAD_BYTE, _IPV6_HEADER + 13),
        _step(_JUMP, 6),  # to the flags
        _step(_LOAD_BYTE, 9),
        _step(_EQUAL, _ICMP, yes=7),
        _step(_EQUAL, _IGMP, yes=6),
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


# Who takes what a program in a network namespace sends: somebody inside, or nobody, though somebody outside would.

_KINDS: Final[tuple[Kind, ...]] = ("tcp", "udp")


class ListenerLookup:
    """Asks the kernel about one packet at a time, and reads its tables where it does not answer.

    Args:
        inside: a socket of airgap/diag.py of the inside; it stays its owner's.
        inside_tables: /proc/net/tcp and its like, of the inside.
        known: somebody who waits inside, of each kind: whether the kernel answers is found by asking for them.

    Raises:
        OSError: nothing can be asked about this machine.
    """

    def __init__(
        self, inside: socket.socket, inside_tables: Mapping[str, int], known: Mapping[Kind, End]
    ) -> None:
        self._inside, self._inside_tables = inside, inside_tables
        self._outside = diag_socket()
        self._answered_kinds = {
            kind for kind in _KINDS if proc.has_server(inside, kind, known[kind])
        }

    def close(self) -> None:
        """Ask no more. Twice is no error."""
        self._outside.close()

    def has_receiver_inside(self, packet: Packet) -> bool:
        """Whether another program inside has got it, so that nothing was refused."""
        if packet.kind == "other" or not is_for_one(packet.destination):
            return False
        if packet.kind == "udp" and packet.source_port == packet.port:
            return False  # every address leads back to whoever sends from the port it sends to
        if packet.kind in self._answered_kinds:
            return proc.has_receiver(self._inside, packet.kind, packet.sender, packet.receiver)
        if not is_loopback(packet.destination):
            return False  # a table does not tell who waits at all addresses
        names = (packet.kind, f"{packet.kind}6")
        inside = b"".join(read_open_table(self._inside_tables[name]) for name in names)
        return has_server(inside, packet.kind, packet.port)

    def is_server_outside(self, packet: Packet) -> bool:
        """Whether this machine has somebody at that place."""
        if packet.kind == "other":
            return False
        if packet.kind in self._answered_kinds:
            return proc.has_server(self._outside, packet.kind, packet.receiver)
        return has_server(read_tables(PROC / "net", packet.kind), packet.kind, packet.port)
