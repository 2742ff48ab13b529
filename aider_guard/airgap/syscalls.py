"""Decides about each system call that waits for the guard, and carries out the allowed ones.

The kernel must not read an address again after the guard has judged it: another thread could have changed it. So the
guard connects and sends by itself, on a duplicate of the socket, with its own copy. A call goes on to the kernel only
where no address counts: bind, listen, data of a connected stream, and descriptors that a Unix socket carries. A program
could still exchange the *descriptor* in that moment, from another thread: nothing leaves the machine even then, as each
internet datagram socket is bound to the loopback interface from its creation on (SO_BINDTODEVICE).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from aider_guard.airgap import sockets
from aider_guard.airgap.bpf import SyscallNumbers as Numbers
from aider_guard.airgap.dns import NameTable, answer
from aider_guard.airgap.notify import CallingThread, Continue, GiveDescriptor, Notification, Result
from aider_guard.airgap.rules import DNS_PORT, EgressRules, kind_of
from aider_guard.airgap.sockets import (
    MOST_BYTES,
    Abstract,
    Internet,
    UnixPath,
    Unknown,
    pack,
    pack_path,
    parse,
)
from aider_guard.airgap.unix_sockets import open_as_caller

# Datagrams have 64 KiB at most. Over internet sockets none has control messages, which could carry a route.

_MOST_BYTES: Final = 1 << 16
_MOST_MESSAGES: Final = 16
"""Of one sendmmsg. For more messages the result is how many were sent, and the program sends the rest."""
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
    """The guard's copy of a datagram. ``to`` is its address, None for the one that the socket is connected to."""

    data: bytes
    to: bytes | None
    control: bytes = b""


class Datagrams:
    """Handles sendto, sendmsg and sendmmsg: sends the guard's copy to the address that it has judged."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    def sendto(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """Handle a call with descriptor, data, length, flags, address, its length."""
        _, data, length, _, address, _ = call.arguments
        flags = call.integer(3)
        with caller.take(call.integer(0)) as sock:
            to = caller.read(address, _address_length(call.integer(5)))
            if _is_stream(sock):
                return self._on_stream(sock, flags, to, caller)
            _bounded(length)
            return self._send(sock, _Datagram(caller.read(data, length), to), flags, caller)

    def sendmsg(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """Handle a call with descriptor, message, flags."""
        flags = call.integer(2)
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                to = _message(caller, call.arguments[1]).to if flags & _FAST_OPEN else b""
                return self._on_stream(sock, flags, to or b"", caller)
            return self._send(sock, _message(caller, call.arguments[1]), flags, caller)

    def sendmmsg(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """Handle a call with descriptor, messages, their number, flags."""
        flags, count = call.integer(3), call.arguments[2] & 0xFFFFFFFF
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                return self._on_stream(sock, flags, b"", caller)
            for number in range(min(count, _MOST_MESSAGES)):
                at = call.arguments[1] + number * _MESSAGE_OF_MANY_BYTES
                result = self._send(sock, _message(caller, at), flags, caller)
                if isinstance(result, Continue):
                    return result if number == 0 else Result(number)
                if result.error:
                    return Result(number) if number else result
                caller.write(at + _MESSAGE.size, _SENT.pack(result.value))
            return Result(min(count, _MOST_MESSAGES))

    def _on_stream(
        self, sock: socket.socket, flags: int, to: bytes, caller: CallingThread
    ) -> Result | Continue:
        """Let data of a stream go on: it goes where it is connected to. MSG_FASTOPEN, which connects, is refused."""
        if flags & _FAST_OPEN and sock.family in _INTERNET and not self._rules.has_own_network:
            place = parse(to)
            host, port = (place.address, place.port) if isinstance(place, Internet) else ("", 0)
            self._rules.refuse(host, port, "tcp", caller)
            return Result(error=errno.EPERM)
        return Continue()

    def _send(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result | Continue:
        if sock.family == socket.AF_UNIX:
            return self._send_unix(sock, datagram, flags, caller)
        if self._rules.has_own_network:
            sent = sockets.send(sock, datagram.data, flags, datagram.to, datagram.control)
            return Result(*sent)
        if sock.family in _INTERNET:
            return self._send_internet(sock, datagram, flags, caller)
        if sock.family == socket.AF_NETLINK and not datagram.control:
            return Result(*sockets.send(sock, datagram.data, flags, datagram.to))
        return Result(error=errno.EPERM)

    def _send_internet(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result:
        if datagram.control:
            return Result(error=errno.EINVAL)
        to = datagram.to
        if to is not None:
            if to[:2] == b"\0\0" and sock.family == socket.AF_INET:
                # AF_UNSPEC, which an IPv4 socket reads as IPv4 (udp_sendmsg, net/ipv4/udp.c).
                to = socket.AF_INET.to_bytes(2, "little") + to[2:]
            address = parse(to)
            if not isinstance(address, Internet):
                return Result(error=errno.EAFNOSUPPORT)
            route = self._route(sock, address, datagram.data, caller)
            if route is None:
                return Result(error=errno.EPERM)
            to = pack(route.address, route.port, sock.family)
        sockets.keep_on_loopback(sock)
        result = Result(*sockets.send(sock, datagram.data, flags, to))
        self._rules.own_servers.add(sock.fileno())  # it has a port by now, where it may be answered
        return result

    def _route(
        self, sock: socket.socket, to: Internet, data: bytes, caller: CallingThread
    ) -> Internet | None:
        if kind_of(sock) != "udp":
            self._rules.refuse(to.address, to.port, "other", caller)
        elif to.port == DNS_PORT:
            reply = answer(data, NameTable())
            self._rules.refuse(reply.name if reply else to.address, to.port, "dns", caller)
        else:
            route = self._rules.route("udp", to)
            if isinstance(route, Internet):
                return route
            if route == "refused":
                self._rules.refuse(to.address, to.port, "udp", caller)
        return None

    def _send_unix(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result | Continue:
        """Send over a Unix socket. Descriptors and credentials go by the kernel, to the address as it is then."""
        to = None if datagram.to is None else parse(datagram.to)
        match to:
            case Abstract(name) if self._rules.refuses_abstract(name, caller):
                return Result(error=errno.EPERM)
            case UnixPath(path):
                with open_as_caller(path, caller) as file:
                    if self._rules.refuses_file(file, caller):
                        return Result(error=errno.EPERM)
                    if datagram.control or not caller.is_ours:
                        return Continue()
                    held = pack_path(file.through)
                    return Result(*sockets.send(sock, datagram.data, flags, held))
        if datagram.control:
            return Continue()
        return Result(*sockets.send(sock, datagram.data, flags, datagram.to))


def _is_stream(sock: socket.socket) -> bool:
    return sock.type in {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}


def _address_length(length: int) -> int:
    if not 0 <= length <= MOST_BYTES:
        raise OSError(errno.EINVAL, "length of an address")
    return length


def _bounded(length: int) -> None:
    if length > _MOST_BYTES:
        raise OSError(errno.EMSGSIZE, "longer than the guard copies")


def _message(caller: CallingThread, address: int) -> _Datagram:
    """Copy a message. Raises OSError as ``CallingThread.read`` does, and EMSGSIZE."""
    head = _MESSAGE.unpack(caller.read(address, _MESSAGE.size))
    name, name_length, parts, count, control, control_length = head
    if count > _MOST_PARTS:
        raise OSError(errno.EMSGSIZE, "too many parts")
    pieces = list(_PART.iter_unpack(caller.read(parts, count * _PART.size)))
    _bounded(sum(length for _, length in pieces))
    data = b"".join(caller.read(at, length) for at, length in pieces if length)
    to = caller.read(name, min(name_length, MOST_BYTES)) if name and name_length else None
    if not control:
        control_length = 0
    _bounded(control_length)
    return _Datagram(data, to, caller.read(control, control_length) if control_length else b"")


_FORBIDDEN = (errno.EPERM, errno.EACCES)
FAULT: Final = "a fault in aider-guard"
"""Reported in place of a host where the guard failed to judge a call."""
FULL: Final = (errno.EAGAIN, errno.EINTR)
"""Errors after which a connection to a Unix socket must be tried again."""
_SOCK_TYPE_MASK = 0xF  # linux/net.h


@dataclass(frozen=True)
class InProgress:
    """A connection that the kernel goes on with: when the socket turns writable, ``sockets.outcome`` is the answer."""

    socket: socket.socket


@dataclass(frozen=True)
class RetryConnect:
    """A connection to a server whose queue is full: it is tried again until the program would have given up."""

    attempt: Callable[[], int]
    patience_seconds: float
    close: Callable[[], None]
    """Closes what the attempts need."""


Answer = Result | Continue | GiveDescriptor | InProgress | RetryConnect
_Handler = Callable[[Notification, CallingThread], Answer]


class SyscallHandlers:
    """Handles the calls that wait for the guard, by their numbers on one kind of machine."""

    def __init__(self, numbers: Numbers, rules: EgressRules) -> None:
        self._rules = rules
        sends = Datagrams(rules)
        self._handlers: Mapping[int, _Handler] = {
            numbers.socket: self._socket,
            numbers.connect: self._connect,
            numbers.bind: partial(self._remember_server, kind=socket.SOCK_DGRAM),
            numbers.listen: partial(self._remember_server, kind=socket.SOCK_STREAM),
            numbers.sendto: sends.sendto,
            numbers.sendmsg: sends.sendmsg,
            numbers.sendmmsg: sends.sendmmsg,
        }

    def decide(self, call: Notification, caller: CallingThread) -> Answer:
        """Judge a call and carry it out. What cannot be read or judged is refused and reported."""
        handler = self._handlers.get(call.number)
        if handler is None:
            return Result(error=errno.ENOSYS)
        try:
            return handler(call, caller)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                self._rules.refuse("", 0, "other", caller)
            return Result(error=error.errno or errno.EPERM)
        except Exception as error:  # noqa: BLE001  # no call may end the guard, nor get past it
            self._rules.refuse(f"{FAULT}: {type(error).__name__}", 0, "other", caller)
            return Result(error=errno.EPERM)

    def _socket(self, call: Notification, _caller: CallingThread) -> Answer:
        """Create the socket, and bind it to the loopback interface before the program has it; remember a Unix one."""
        family, kind, protocol = (call.integer(argument) for argument in range(3))
        try:
            sock = socket.socket(family, kind & _SOCK_TYPE_MASK, protocol)
        except OSError as error:
            return Result(error=error.errno or errno.EACCES)
        sockets.keep_on_loopback(sock)
        if (
            family == socket.AF_UNIX
        ):  # here, as an agent forbids to be traced before it binds its socket
            self._rules.own_servers.add(sock.fileno())
        sock.setblocking(not kind & socket.SOCK_NONBLOCK)
        return GiveDescriptor(sock, bool(kind & socket.SOCK_CLOEXEC))

    def _connect(self, call: Notification, caller: CallingThread) -> Answer:
        raw = caller.read(call.arguments[1], _address_length(call.integer(2)))
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(caller.take(call.integer(0)))
            answer = self._connect_by_family(sock, raw, caller, stack)
            if isinstance(answer, InProgress):
                stack.pop_all()
        return answer

    def _connect_by_family(
        self, sock: socket.socket, raw: bytes, caller: CallingThread, stack: contextlib.ExitStack
    ) -> Answer:
        if self._rules.has_own_network and sock.family != socket.AF_UNIX:
            return self._connect_freely(sock, raw)
        match parse(raw), sock.family:
            case Internet() as to, (socket.AF_INET | socket.AF_INET6):
                return self._connect_internet(sock, to, caller)
            case (UnixPath() | Abstract()) as to, socket.AF_UNIX:
                return self._connect_unix(sock, to, raw, caller, stack)
            case Unknown(family), _:
                self._rules.refuse(f"address family {family}", 0, "other", caller)
                return Result(error=errno.EAFNOSUPPORT)
            case ((Internet() | UnixPath() | Abstract()), _):
                return Result(error=errno.EAFNOSUPPORT)
        error = sockets.connect(sock, raw)  # AF_UNSPEC ends an association; netlink is the kernel
        sockets.keep_on_loopback(sock)
        return Result(error=error)

    def _connect_freely(self, sock: socket.socket, raw: bytes) -> Answer:
        """Connect an internet socket to an address that was judged, or that leads nowhere but inside."""
        error = sockets.connect(sock, raw)
        if error == errno.EINPROGRESS and os.get_blocking(sock.fileno()):
            return InProgress(sock)
        return Result(error=error)

    def _connect_internet(self, sock: socket.socket, to: Internet, caller: CallingThread) -> Answer:
        kind = kind_of(sock)
        if kind is None:
            self._rules.refuse(to.address, to.port, "other", caller)
            return Result(error=errno.ECONNREFUSED)
        if kind == "udp" and to.port == 0:
            return Result(error=errno.ENETUNREACH)  # how getaddrinfo(3) sorts: it sends nothing
        if kind == "udp" and to.port == DNS_PORT:
            return self._connect_resolver(sock, to, caller)
        route = self._rules.route(kind, to)
        if not isinstance(route, Internet):
            if route == "refused":
                self._rules.refuse(to.address, to.port, kind, caller)
            return Result(error=errno.ECONNREFUSED)
        sockets.keep_on_loopback(sock)
        if kind == "udp":
            self._rules.own_servers.add(sock.fileno())
        return self._connect_freely(sock, pack(route.address, route.port, sock.family))

    def _connect_resolver(self, sock: socket.socket, to: Internet, caller: CallingThread) -> Answer:
        """Connect to the guard's name server, whichever server was meant.

        An IPv6 socket is connected to its IPv4 address. One that takes no IPv4 cannot ask, which is reported.
        """
        error = sockets.connect(sock, pack(*self._rules.dns, sock.family))
        if error:
            self._rules.refuse(to.address, to.port, "udp", caller)
        return Result(error=error)

    def _connect_unix(
        self,
        sock: socket.socket,
        to: UnixPath | Abstract,
        raw: bytes,
        caller: CallingThread,
        stack: contextlib.ExitStack,
    ) -> Answer:
        if isinstance(to, Abstract):
            if self._rules.refuses_abstract(to.name, caller):
                return Result(error=errno.ECONNREFUSED)
        else:
            file = stack.enter_context(open_as_caller(to.path, caller))
            if self._rules.refuses_file(file, caller):
                return Result(error=errno.ECONNREFUSED)
            if not caller.is_ours:
                return Continue()
            raw = pack_path(file.through)
        attempt = partial(sockets.connect, sock, raw)
        error, patience_seconds = attempt(), sockets.patience_seconds(sock)
        if error in FULL and patience_seconds:  # the answer takes over what is on the stack
            return RetryConnect(attempt, patience_seconds, stack.pop_all().close)
        return Result(error=error)

    def _remember_server(
        self, call: Notification, caller: CallingThread, kind: socket.SocketKind
    ) -> Answer:
        """Handle bind and listen: the program's server may be reached from inside, by the loopback interface only."""
        try:
            sock = caller.take(call.integer(0))
        except OSError as error:
            if error.errno in _FORBIDDEN:  # ssh-agent may not be traced
                return Continue()
            raise
        with sock:
            sockets.keep_on_loopback(sock)
            if sock.family == socket.AF_UNIX or (sock.type == kind and sock.family in _INTERNET):
                self._rules.own_servers.add(sock.fileno())
        return Continue()
