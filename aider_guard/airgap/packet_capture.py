"""Parses packets of the jail's loopback interface, and asks the kernel which of them reached a program.

Headers are those of RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP) and 768 (UDP). The socket filter passes only datagrams and
the first packets of connections: an answer of the model is thousands of packets.
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
_EXTENSIONS: Final = (0, 43, 60)  # options and routes; a program joins a group by ICMPv6 behind one
_SYN, _ACK = 0x02, 0x10
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD  # linux/if_ether.h
PACKET_OUTGOING: Final = 4  # linux/if_packet.h

# Classic BPF, linux/filter.h; ancillary data at SKF_AD_OFF.
_LOAD_BYTE, _LOAD_WORD, _LOAD_BYTE_AT_X, _LOAD_X = 0x30, 0x20, 0x50, 0xB1
_EQUAL, _JUMP, _RETURN, _AND = 0x15, 0x05, 0x06, 0x54
_ANCILLARY: Final = 0xFFFFF000
_PROTOCOL, _KIND = _ANCILLARY + 0, _ANCILLARY + 4
_COPIED_BYTES: Final = 128
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


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
        """The end that it comes from."""
        return self.source, self.source_port

    @property
    def receiver(self) -> tuple[str, int]:
        """The end that it is sent to."""
        return self.destination, self.port


def parse(data: bytes, ethernet_type: int) -> Packet | None:
    """Parse an IP packet without a link header; None for one that does not try to reach a program."""
    if ethernet_type == ETH_P_IP and len(data) >= 20:
        start, protocol = (data[0] & 15) * 4, data[9]
        source, destination = data[12:16], data[16:20]
        from_kernel = protocol in (_ICMP, _IGMP)
    elif ethernet_type == ETH_P_IPV6 and len(data) >= _IPV6_HEADER:
        start, protocol = _IPV6_HEADER, data[6]
        while protocol in _EXTENSIONS and len(data) > start + 1:  # RFC 8200, 4
            start, protocol = start + (data[start + 1] + 1) * 8, data[start]
        source, destination = data[8:24], data[24:40]
        from_kernel = protocol == _ICMPV6
    else:
        return None
    if from_kernel:
        return None
    return _transported(data[start:], protocol, _text(source), _text(destination))


def _transported(data: bytes, protocol: int, source: str, destination: str) -> Packet | None:
    if protocol not in (TCP, UDP) or len(data) < 4:
        return Packet("other", source, 0, destination, 0)
    source_port, port = struct.unpack_from("!HH", data)
    if protocol == UDP:
        return Packet("udp", source, source_port, destination, port)
    if len(data) < 14 or data[13] & (_SYN | _ACK) != _SYN:
        return None
    return Packet("tcp", source, source_port, destination, port)


def _text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_loopback(address: str) -> bool:
    """Whether this is a loopback address."""
    return ipaddress.ip_address(address).is_loopback


def is_for_one(address: str) -> bool:
    """Whether this is the address of one receiver: no group and no broadcast."""
    value = ipaddress.ip_address(address)
    return not value.is_multicast and value != _BROADCAST


def filter_program() -> bytes:
    """Return the socket filter: outgoing packets, of TCP only those that begin a connection, no ICMP, no IGMP."""
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


_KINDS: Final[tuple[Kind, ...]] = ("tcp", "udp")


class ListenerLookup:
    """Finds out whether a packet reached a program inside, or would have reached one outside.

    It asks the kernel, and reads the tables of sockets where the kernel does not answer.

    Args:
        inside: a ``diag_socket`` of the network inside; it stays its owner's.
        inside_tables: open files of /proc/net/tcp and its like, of the network inside.
        known: for each kind a socket that waits inside; asking for it shows whether the kernel answers.

    Raises:
        OSError: the kernel cannot be asked about this machine.
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
        """Close the socket that asks. Twice is no error."""
        self._outside.close()

    def has_receiver_inside(self, packet: Packet) -> bool:
        """Whether a program inside received the packet, so that nothing was refused."""
        if packet.kind == "other" or not is_for_one(packet.destination):
            return False
        if packet.kind == "udp" and packet.source_port == packet.port:
            return False  # every address leads back to the sender where both ports are the same
        if packet.kind in self._answered_kinds:
            return proc.has_receiver(self._inside, packet.kind, packet.sender, packet.receiver)
        if not is_loopback(packet.destination):
            return False  # a table does not show which sockets wait at all addresses
        names = (packet.kind, f"{packet.kind}6")
        inside = b"".join(read_open_table(self._inside_tables[name]) for name in names)
        return has_server(inside, packet.kind, packet.port)

    def is_server_outside(self, packet: Packet) -> bool:
        """Whether a server of this machine listens where the packet was sent to."""
        if packet.kind == "other":
            return False
        if packet.kind in self._answered_kinds:
            return proc.has_server(self._outside, packet.kind, packet.receiver)
        return has_server(read_tables(PROC / "net", packet.kind), packet.kind, packet.port)
