"""One socket of a connection, or the server at a place, asked of the kernel directly (sock_diag(7)).

/proc/net/tcp has them too, but is written anew with every connection of the machine in it: milliseconds for a thousand.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, Literal

Kind = Literal["tcp", "udp"]
End = tuple[str, int]
"""An address and a port."""

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_REQUEST: Final = 1  # NLM_F_REQUEST, linux/netlink.h
_ALL_STATES: Final = 0xFFFFFFFF
_LOOPBACK_INDEX: Final = 1  # the first interface of every network namespace
_HERE: Final = "127.0.0.1"
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_KIND: Final = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, before its socket
_SOCKET: Final = struct.Struct("=2s2s16s16sIII")  # struct inet_diag_sockid
_ANSWER: Final = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
_NO_COOKIE: Final = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def diag_socket() -> socket.socket:
    """A socket for questions about the network that this process is in now. Raises OSError where there is none.

    It keeps that network, also when it is handed to another process.
    """
    family: int = getattr(socket, "AF_NETLINK", -1)
    channel = socket.socket(family, socket.SOCK_RAW, _SOCK_DIAG)
    channel.setblocking(False)
    return channel


def ask_inode(channel: socket.socket, port: int, server_port: int) -> int:
    """The number of the socket that is connected from this port of 127.0.0.1 to that one; 0 when there is none."""
    found = _connection(channel, (_HERE, port), (_HERE, server_port))
    return int(_ANSWER.unpack_from(found)[-1]) if found else 0


def is_taken(channel: socket.socket, kind: Kind, source: End, to: End) -> bool:
    """Whether somebody takes what is sent from one end to the other: who is connected so, or else who waits there.

    It is the kernel's own search: who waits at all addresses, or at those of both versions, is found as a packet would
    find it. A TCP connection that has just ended is found as well.
    """
    if kind == "udp":
        return bool(_ask(channel, kind, source, to))
    return bool(_ask(channel, kind, to, source) or _connection(channel, source, to))


def has_server(channel: socket.socket, kind: Kind, place: End) -> bool:
    """Whether somebody waits at this place for whoever comes."""
    nobody = "::" if ":" in place[0] else "0.0.0.0"  # noqa: S104  # no end of any connection
    return is_taken(channel, kind, (nobody, 0), place)


def _connection(channel: socket.socket, own: End, other: End) -> bytes:
    """The end of a TCP connection, for ``_ANSWER``; empty where there is none: a listener at that port is not meant."""
    found = _ask(channel, "tcp", own, other)
    ports = own[1].to_bytes(2, "big") + other[1].to_bytes(2, "big")
    return found if found and _ANSWER.unpack_from(found)[4][:4] == ports else b""


def _ask(channel: socket.socket, kind: Kind, own: End, other: End) -> bytes:
    """What the kernel tells of one socket, for ``_ANSWER``; empty when there is none.

    Of UDP it takes the ends the other way round (udp_dump_one, net/ipv4/udp_diag.c).
    """
    family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
    packed = (socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (own, other))
    ports = (port.to_bytes(2, "big") for _, port in (own, other))
    one = _SOCKET.pack(*ports, *packed, _LOOPBACK_INDEX, _NO_COOKIE, _NO_COOKIE)
    asked = _KIND.pack(family, _PROTOCOLS[kind], 0, _ALL_STATES) + one
    try:
        channel.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST, 0, 0) + asked)
        answer = channel.recv(4096)
    except OSError:
        return b""
    is_one = len(answer) >= _HEADER.size + _ANSWER.size
    return answer[_HEADER.size :] if is_one and _kind(answer) == _BY_FAMILY else b""


def _kind(answer: bytes) -> int:
    return int(_HEADER.unpack_from(answer)[1])
