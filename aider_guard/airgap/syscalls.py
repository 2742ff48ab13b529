"""What each system call that waits for the guard means, and what the guard does.

The guard never lets the kernel look at an address again that it has judged: another thread could have changed it. It
connects and sends by itself, on a duplicate of the socket, with its own copy. "Go on" is said only where no address
counts: to bind and listen, to what goes on over a connected stream, to descriptors that a Unix socket carries. What
remains is a program that exchanges the *descriptor* in just that moment, from another thread. The kernel keeps each
internet datagram socket on the loopback from its beginning (SO_BINDTODEVICE), so that even so nothing leaves the
machine.
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
from aider_guard.airgap.rules import DNS_PORT, EgressRules, kind_of, open_as_caller
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

# sendto, sendmsg and sendmmsg inside the seccomp layer: the guard sends its own copy to where it has judged.
#
# Datagrams of 64 KiB at most, and over internet sockets none with control messages, which could carry a route.

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

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    def sendto(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """descriptor, data, length, flags, address, its length."""
        _, data, length, _, address, _ = call.arguments
        flags = call.integer(3)
        with caller.take(call.integer(0)) as sock:
            to = caller.read(address, _address_length(call.integer(5)))
            if _is_stream(sock):
                return self._on_stream(sock, flags, to, caller)
            _bounded(length)
            return self._send(sock, _Datagram(caller.read(data, length), to), flags, caller)

    def sendmsg(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """descriptor, message, flags."""
        flags = call.integer(2)
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                to = _message(caller, call.arguments[1]).to if flags & _FAST_OPEN else b""
                return self._on_stream(sock, flags, to or b"", caller)
            return self._send(sock, _message(caller, call.arguments[1]), flags, caller)

    def sendmmsg(self, call: Notification, caller: CallingThread) -> Result | Continue:
        """descriptor, messages, their number, flags."""
        flags, count = call.integer(3), call.arguments[2] & 0xFFFFFFFF
        with caller.take(call.integer(0)) as sock:
            if _is_stream(sock):
                return self._on_stream(sock, flags, b"", caller)
            for number in range(min(count, _MOST_MESSAGES)):
                at = call.arguments[1] + number * _MESSAGE_OF_MANY_BYTES
                done = self._send(sock, _message(caller, at), flags, caller)
                if isinstance(done, Continue):
                    return done if number == 0 else Result(number)
                if done.error:
                    return Result(number) if number else done
                caller.write(at + _MESSAGE.size, _SENT.pack(done.value))
            return Result(min(count, _MOST_MESSAGES))

    def _on_stream(
        self, sock: socket.socket, flags: int, to: bytes, caller: CallingThread
    ) -> Result | Continue:
        """A stream goes to whom it is connected, whatever the address; but for one that connects by it."""
        if flags & _FAST_OPEN and sock.family in _INTERNET:
            where = parse(to)
            host, port = (where.address, where.port) if isinstance(where, Internet) else ("", 0)
            self._rules.refuse(host, port, "tcp", caller)
            return Result(error=errno.EPERM)
        return Continue()

    def _send(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result | Continue:
        if sock.family in _INTERNET:
            return self._send_internet(sock, datagram, flags, caller)
        if sock.family == socket.AF_UNIX:
            return self._send_unix(sock, datagram, flags, caller)
        if sock.family == socket.AF_NETLINK and not datagram.has_control:
            return _done(sockets.send(sock, datagram.data, flags, datagram.to))
        return Result(error=errno.EPERM)

    def _send_internet(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result:
        if datagram.has_control:
            return Result(error=errno.EINVAL)
        to = datagram.to
        if to is not None:
            where = parse(_as_the_kernel_reads(to, sock.family))
            if not isinstance(where, Internet):
                return Result(error=errno.EAFNOSUPPORT)
            route = self._route(sock, where, datagram.data, caller)
            if route is None:
                return Result(error=errno.EPERM)
            to = pack(route.address, route.port, sock.family)
        sockets.keep_on_loopback(sock)
        done = _done(sockets.send(sock, datagram.data, flags, to))
        self._rules.own_servers.add(
            sock.fileno()
        )  # it has a port by now, to which it may be answered
        return done

    def _route(
        self, sock: socket.socket, to: Internet, data: bytes, caller: CallingThread
    ) -> Internet | None:
        kind = kind_of(sock)
        if kind != "udp":
            self._rules.refuse(to.address, to.port, "other", caller)
            return None
        if to.port == DNS_PORT:
            asked = answer(data, NameTable())
            host = to.address if asked is None else asked.name
            self._rules.refuse(host, to.port, "dns", caller)
            return None
        route = self._rules.route(kind, to)
        if isinstance(route, Internet):
            return route
        if route == "refused":
            self._rules.refuse(to.address, to.port, kind, caller)
        return None

    def _send_unix(
        self, sock: socket.socket, datagram: _Datagram, flags: int, caller: CallingThread
    ) -> Result | Continue:
        """With descriptors or credentials the kernel has to do it, and what the address is by then counts."""
        to = None if datagram.to is None else parse(datagram.to)
        match to:
            case Abstract(name) if self._rules.refuses_abstract(name, caller):
                return Result(error=errno.EPERM)
            case UnixPath(path):
                return self._send_to_file(sock, path, datagram, flags, caller)
        if datagram.has_control:
            return Continue()
        return _done(sockets.send(sock, datagram.data, flags, datagram.to))

    def _send_to_file(
        self,
        sock: socket.socket,
        path: bytes,
        datagram: _Datagram,
        flags: int,
        caller: CallingThread,
    ) -> Result | Continue:
        with open_as_caller(path, caller) as found:
            if self._rules.refuses_file(found, caller):
                return Result(error=errno.EPERM)
            if datagram.has_control or not caller.is_ours:
                return Continue()
            return _done(sockets.send(sock, datagram.data, flags, pack_path(found.through)))


def _is_stream(sock: socket.socket) -> bool:
    return sock.type in {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}


def _done(sent: tuple[int, int]) -> Result:
    return Result(*sent)


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


def _message(caller: CallingThread, address: int) -> _Datagram:
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


_FORBIDDEN = (errno.EPERM, errno.EACCES)
FAULT: Final = "a fault in aider-guard"
"""What is told in the place of a host where a call was refused for no better reason."""
FULL: Final = (errno.EAGAIN, errno.EINTR)
"""How a connection to a Unix socket ends that has to be tried again."""
_SOCK_TYPE_MASK = 0xF  # linux/net.h


@dataclass(frozen=True)
class InProgress:
    """A connection that goes on by itself: when the socket turns writable, ``acting.outcome`` is the answer."""

    socket: socket.socket


@dataclass(frozen=True)
class RetryConnect:
    """A connection to a server whose queue is full: to be tried again until the program would have given up."""

    attempt: Callable[[], int]
    patience_seconds: float
    close: Callable[[], None]
    """Lets go of what it needs."""


Answer = Result | Continue | GiveDescriptor | InProgress | RetryConnect
_Handler = Callable[[Notification, CallingThread], Answer]


class SyscallHandlers:
    """The guard's side of the calls on one kind of machine."""

    def __init__(self, numbers: Numbers, rules: EgressRules) -> None:
        self._rules = rules
        sends = Datagrams(rules)
        self._handlers: Mapping[int, _Handler] = {
            numbers.socket: self._socket,
            numbers.connect: self._connect,
            numbers.bind: self._bind,
            numbers.listen: self._listen,
            numbers.sendto: sends.sendto,
            numbers.sendmsg: sends.sendmsg,
            numbers.sendmmsg: sends.sendmmsg,
        }

    def decide(self, call: Notification, caller: CallingThread) -> Answer:
        """What becomes of it. What cannot be looked at is refused, and told; so is what the guard fails to judge."""
        handler = self._handlers.get(call.number)
        if handler is None:
            return Result(error=errno.ENOSYS)
        try:
            return handler(call, caller)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                self._rules.refuse("", 0, "other", caller)
            return Result(error=error.errno or errno.EPERM)
        except Exception as error:  # noqa: BLE001  # nothing that a program does may end the guard, nor pass it
            self._rules.refuse(f"{FAULT}: {type(error).__name__}", 0, "other", caller)
            return Result(error=errno.EPERM)

    def _socket(self, call: Notification, _caller: CallingThread) -> Answer:
        """Make it, and keep it on the loopback before the program has it."""
        family, kind, protocol = (call.integer(argument) for argument in range(3))
        try:
            sock = socket.socket(family, kind & _SOCK_TYPE_MASK, protocol)
        except OSError as error:
            return Result(error=error.errno or errno.EACCES)
        sockets.keep_on_loopback(sock)
        sock.setblocking(not kind & socket.SOCK_NONBLOCK)
        return GiveDescriptor(sock, bool(kind & socket.SOCK_CLOEXEC))

    def _connect(self, call: Notification, caller: CallingThread) -> Answer:
        length = call.integer(2)
        if not 0 <= length <= MOST_BYTES:
            return Result(error=errno.EINVAL)
        raw = caller.read(call.arguments[1], length)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(caller.take(call.integer(0)))
            answer = self._connect_by_family(sock, raw, caller, stack)
            if isinstance(answer, InProgress):
                stack.pop_all()
        return answer

    def _connect_by_family(
        self, sock: socket.socket, raw: bytes, caller: CallingThread, stack: contextlib.ExitStack
    ) -> Answer:
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
        error = sockets.connect(
            sock, raw
        )  # to nowhere, which ends an association, or to the kernel
        sockets.keep_on_loopback(sock)
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
        if isinstance(route, Internet):
            return self._connect_to(sock, route, kind)
        if route == "refused":
            self._rules.refuse(to.address, to.port, kind, caller)
        return Result(error=errno.ECONNREFUSED)

    def _connect_resolver(self, sock: socket.socket, to: Internet, caller: CallingThread) -> Answer:
        """The guard answers questions for names, whichever server they were meant for.

        A socket of IPv6 is connected by IPv4's address. One that takes none cannot ask, and that is told.
        """
        error = sockets.connect(sock, pack(*self._rules.dns, sock.family))
        if error:
            self._rules.refuse(to.address, to.port, "udp", caller)
        return Result(error=error)

    def _connect_to(self, sock: socket.socket, to: Internet, kind: str) -> Answer:
        sockets.keep_on_loopback(sock)
        error = sockets.connect(sock, pack(to.address, to.port, sock.family))
        if kind == "udp":
            self._rules.own_servers.add(sock.fileno())
        if error == errno.EINPROGRESS and os.get_blocking(sock.fileno()):
            return InProgress(sock)
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
            return _connect_unix_socket(sock, raw, stack)
        found = stack.enter_context(open_as_caller(to.path, caller))
        if self._rules.refuses_file(found, caller):
            return Result(error=errno.ECONNREFUSED)
        if not caller.is_ours:
            return Continue()
        return _connect_unix_socket(sock, pack_path(found.through), stack)

    def _bind(self, call: Notification, caller: CallingThread) -> Answer:
        return self._remember_server(call, caller, socket.SOCK_DGRAM)

    def _listen(self, call: Notification, caller: CallingThread) -> Answer:
        return self._remember_server(call, caller, socket.SOCK_STREAM)

    def _remember_server(
        self, call: Notification, caller: CallingThread, kind: socket.SocketKind
    ) -> Answer:
        """Its own server: it may be reached from inside, and from nowhere else than this machine."""
        try:
            sock = caller.take(call.integer(0))
        except OSError as error:
            if error.errno in _FORBIDDEN:  # as ssh-agent's, which lets nobody look into it
                return Continue()
            raise
        with sock:
            sockets.keep_on_loopback(sock)
            if sock.type == kind and sock.family in {socket.AF_INET, socket.AF_INET6}:
                self._rules.own_servers.add(sock.fileno())
        return Continue()


def _connect_unix_socket(sock: socket.socket, raw: bytes, stack: contextlib.ExitStack) -> Answer:
    """Connect a Unix socket; what is needed to try again is taken off the stack."""
    attempt = partial(sockets.connect, sock, raw)
    error, patience_seconds = attempt(), sockets.patience_seconds(sock)
    if error in FULL and patience_seconds:
        return RetryConnect(attempt, patience_seconds, stack.pop_all().close)
    return Result(error=error)
