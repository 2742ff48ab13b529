"""sendto, sendmsg and sendmmsg inside the seccomp layer: the guard sends its own copy to where it has judged.

Datagrams of 64 KiB at most, and over internet sockets none with control messages, which could carry a route.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import acting
from aider_guard.airgap.callers import Caller
from aider_guard.airgap.names import Names, answer
from aider_guard.airgap.notifications import Done, GoOn, Notification
from aider_guard.airgap.permits import DNS_PORT, Permits, kind_of
from aider_guard.airgap.sockaddr import MOST_BYTES, Abstract, Internet, Path, pack, pack_path, parse
from aider_guard.airgap.unixsockets import opened

_MOST_BYTES: Final = 1 << 16
_MOST_MESSAGES: Final = 16
"""Of one sendmmsg; for more it says how many went, and the program sends the rest."""
_MOST_PARTS: Final = 1024  # UIO_MAXIOV, linux/uio.h
_FAST_OPEN: Final = 0x20000000  # MSG_FASTOPEN, linux/socket.h: connects, too
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
# struct user_msghdr: name, its length, parts, their number, control messages, their length, flags; and the struct
# mmsghdr around it, with how much was sent (linux/socket.h); struct iovec (linux/uio.h).
_MESSAGE: Final = struct.Struct("<QI4xQQQQ8x")
_MESSAGE_OF_MANY_BYTES: Final = _MESSAGE.size + 8
_PART: Final = struct.Struct("<QQ")
_SENT: Final = struct.Struct("<I")


@dataclass(frozen=True)
class _Datagram:
    """A copy: what is sent, and to whom (None: to whom the socket is connected)."""

    data: bytes
    to: bytes | None
    has_control: bool = False


class Datagrams:
    """The guard's side of the three calls."""

    def __init__(self, permits: Permits) -> None:
        self._permits = permits

    def sendto(self, call: Notification, caller: Caller) -> Done | GoOn:
        """descriptor, data, length, flags, address, its length."""
        _, data, length, _, address, _ = call.arguments
        flags = call.integer(3)
        with caller.take(call.integer(0)) as sock:
            to = caller.read(address, _address_length(call.integer(5)))
            if _is_stream(sock):
                return self._on_stream(sock, flags, to, caller)
            _bounded(length)
            return self._send(sock, _Datagram(caller.read(data, length), to), flags, caller)

    def sendmsg(self, call: Notification, caller: Caller) -> Done | GoOn:
        """descriptor, message, flags."""
        flags = call.integer(2)
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                to = _message(caller, call.arguments[1]).to if flags & _FAST_OPEN else b""
                return self._on_stream(sock, flags, to or b"", caller)
            return self._send(sock, _message(caller, call.arguments[1]), flags, caller)

    def sendmmsg(self, call: Notification, caller: Caller) -> Done | GoOn:
        """descriptor, messages, their number, flags."""
        flags, count = call.integer(3), call.arguments[2] & 0xFFFFFFFF
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                return self._on_stream(sock, flags, b"", caller)
            for number in range(min(count, _MOST_MESSAGES)):
                at = call.arguments[1] + number * _MESSAGE_OF_MANY_BYTES
                done = self._send(sock, _message(caller, at), flags, caller)
                if isinstance(done, GoOn):
                    return done if number == 0 else Done(number)
                if done.error:
                    return Done(number) if number else done
                caller.write(at + _MESSAGE.size, _SENT.pack(done.value))
            return Done(min(count, _MOST_MESSAGES))

    def _on_stream(self, sock: socket.socket, flags: int, to: bytes, caller: Caller) -> Done | GoOn:
        """A stream goes to whom it is connected, whatever the address; but for one that connects by it."""
        if flags & _FAST_OPEN and sock.family in _INTERNET:
            where = parse(to)
            host, port = (where.address, where.port) if isinstance(where, Internet) else ("", 0)
            self._permits.refuse(host, port, "tcp", caller)
            return Done(error=errno.EPERM)
        return GoOn()

    def _send(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: Caller
    ) -> Done | GoOn:
        if sock.family in _INTERNET:
            return self._send_internet(sock, datagram, flags, caller)
        if sock.family == socket.AF_UNIX:
            return self._send_unix(sock, datagram, flags, caller)
        if sock.family == socket.AF_NETLINK and not datagram.has_control:
            return _done(acting.send(sock, datagram.data, flags, datagram.to))
        return Done(error=errno.EPERM)

    def _send_internet(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: Caller
    ) -> Done:
        if datagram.has_control:
            return Done(error=errno.EINVAL)
        to = datagram.to
        if to is not None:
            where = parse(_as_the_kernel_reads(to, sock.family))
            if not isinstance(where, Internet):
                return Done(error=errno.EAFNOSUPPORT)
            way = self._way(sock, where, datagram.data, caller)
            if way is None:
                return Done(error=errno.EPERM)
            to = pack(way.address, way.port, sock.family)
        acting.keep_on_loopback(sock)
        done = _done(acting.send(sock, datagram.data, flags, to))
        self._permits.own.add(sock.fileno())  # it has a port by now, to which it may be answered
        return done

    def _way(
        self, sock: socket.socket, to: Internet, data: bytes, caller: Caller
    ) -> Internet | None:
        kind = kind_of(sock)
        if kind != "udp":
            self._permits.refuse(to.address, to.port, "other", caller)
            return None
        if to.port == DNS_PORT:
            asked = answer(data, Names())
            host = to.address if asked is None else asked.name
            self._permits.refuse(host, to.port, "dns", caller)
            return None
        way = self._permits.way(kind, to)
        if isinstance(way, Internet):
            return way
        if way == "refused":
            self._permits.refuse(to.address, to.port, kind, caller)
        return None

    def _send_unix(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: Caller
    ) -> Done | GoOn:
        """With descriptors or credentials the kernel has to do it, and what the address is by then counts."""
        to = None if datagram.to is None else parse(datagram.to)
        match to:
            case Abstract(name) if self._permits.refuses_abstract(name, caller):
                return Done(error=errno.EPERM)
            case Path(path):
                return self._send_to_file(sock, path, datagram, flags, caller)
        if datagram.has_control:
            return GoOn()
        return _done(acting.send(sock, datagram.data, flags, datagram.to))

    def _send_to_file(
        self, sock: socket.socket, path: bytes, datagram: _Datagram, flags: int, caller: Caller
    ) -> Done | GoOn:
        with opened(path, caller) as found:
            if self._permits.refuses_file(found, caller):
                return Done(error=errno.EPERM)
            if datagram.has_control or not caller.is_ours:
                return GoOn()
            return _done(acting.send(sock, datagram.data, flags, pack_path(found.through)))


def _is_stream(sock: socket.socket) -> bool:
    return sock.type in {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}


def _done(sent: tuple[int, int]) -> Done:
    return Done(*sent)


def _as_the_kernel_reads(to: bytes, family: int) -> bytes:
    """An IPv4 socket takes AF_UNSPEC for its own family (udp_sendmsg, net/ipv4/udp.c)."""
    if to[:2] == b"\0\0" and family == socket.AF_INET:
        return socket.AF_INET.to_bytes(2, "little") + to[2:]
    return to


def _address_length(length: int) -> int:
    if not 0 <= length <= MOST_BYTES:
        raise OSError(errno.EINVAL, "length of an address")
    return length


def _bounded(length: int) -> None:
    if length > _MOST_BYTES:
        raise OSError(errno.EMSGSIZE, "longer than the guard copies")


def _message(caller: Caller, address: int) -> _Datagram:
    """Copy a message. Raises OSError as ``Caller.read`` does, and EMSGSIZE."""
    head = _MESSAGE.unpack(caller.read(address, _MESSAGE.size))
    name, name_length, parts, count, control, control_length = head
    if count > _MOST_PARTS:
        raise OSError(errno.EMSGSIZE, "too many parts")
    pieces = list(_PART.iter_unpack(caller.read(parts, count * _PART.size)))
    _bounded(sum(length for _, length in pieces))
    data = b"".join(caller.read(at, length) for at, length in pieces if length)
    to = caller.read(name, min(name_length, MOST_BYTES)) if name and name_length else None
    return _Datagram(data, to, bool(control and control_length))
