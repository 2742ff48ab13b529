"""The number of a connection's socket, asked of the kernel directly (sock_diag(7)): one question for one answer.

/proc/net/tcp has it too, but is written anew with every connection of the machine in it: milliseconds for a thousand.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_REQUEST: Final = 1  # NLM_F_REQUEST, linux/netlink.h
_ALL_STATES: Final = 0xFFFFFFFF
_LOOPBACK: Final = socket.inet_aton("127.0.0.1")
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_KIND: Final = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, before its socket
_SOCKET: Final = struct.Struct("=2s2s16s16sIII")  # struct inet_diag_sockid
_ANSWER: Final = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
_NO_COOKIE: Final = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE


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
    try:
        channel.send(_question(port, server_port))
        return _inode(channel.recv(4096), port, server_port)
    except OSError:
        return 0


def _question(port: int, server_port: int) -> bytes:
    ends = port.to_bytes(2, "big"), server_port.to_bytes(2, "big")
    address = _LOOPBACK + bytes(12)
    one = _SOCKET.pack(*ends, address, address, 0, _NO_COOKIE, _NO_COOKIE)
    asked = _KIND.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_STATES) + one
    return _HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST, 0, 0) + asked


def _inode(answer: bytes, port: int, server_port: int) -> int:
    """The number in an answer. Without such a connection it may be about who listens on the port: not meant."""
    if len(answer) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return 0
    *_, one, _, _, _, _, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    ports = port.to_bytes(2, "big") + server_port.to_bytes(2, "big")
    return int(inode) if one[:4] == ports else 0
