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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from aider_guard.airgap import acting
from aider_guard.airgap.callers import Caller
from aider_guard.airgap.callfilter import Calls as Numbers
from aider_guard.airgap.datagrams import Datagrams
from aider_guard.airgap.notifications import Done, Give, GoOn, Notification
from aider_guard.airgap.permits import DNS_PORT, Permits, kind_of
from aider_guard.airgap.sockaddr import (
    MOST_BYTES,
    Abstract,
    Internet,
    Path,
    Unknown,
    pack,
    pack_path,
    parse,
)
from aider_guard.airgap.unixsockets import opened

_FORBIDDEN = (errno.EPERM, errno.EACCES)
FAULT: Final = "a fault in aider-guard"
"""What is told in the place of a host where a call was refused for no better reason."""
FULL: Final = (errno.EAGAIN, errno.EINTR)
"""How a connection to a Unix socket ends that has to be tried again."""
_SOCK_TYPE_MASK = 0xF  # linux/net.h


@dataclass(frozen=True)
class Later:
    """A connection that goes on by itself: when the socket turns writable, ``acting.outcome`` is the answer."""

    socket: socket.socket


@dataclass(frozen=True)
class Again:
    """A connection to a server whose queue is full: to be tried again until the program would have given up."""

    attempt: Callable[[], int]
    patience_seconds: float
    close: Callable[[], None]
    """Lets go of what it needs."""


Answer = Done | GoOn | Give | Later | Again
_Handler = Callable[[Notification, Caller], Answer]


class Calls:
    """The guard's side of the calls on one kind of machine."""

    def __init__(self, numbers: Numbers, permits: Permits) -> None:
        self._permits = permits
        sends = Datagrams(permits)
        self._handlers: Mapping[int, _Handler] = {
            numbers.socket: self._socket,
            numbers.connect: self._connect,
            numbers.bind: self._bind,
            numbers.listen: self._listen,
            numbers.sendto: sends.sendto,
            numbers.sendmsg: sends.sendmsg,
            numbers.sendmmsg: sends.sendmmsg,
        }

    def decide(self, call: Notification, caller: Caller) -> Answer:
        """What becomes of it. What cannot be looked at is refused, and told; so is what the guard fails to judge."""
        handler = self._handlers.get(call.number)
        if handler is None:
            return Done(error=errno.ENOSYS)
        try:
            return handler(call, caller)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                self._permits.refuse("", 0, "other", caller)
            return Done(error=error.errno or errno.EPERM)
        except Exception as error:  # noqa: BLE001  # nothing that a program does may end the guard, nor pass it
            self._permits.refuse(f"{FAULT}: {type(error).__name__}", 0, "other", caller)
            return Done(error=errno.EPERM)

    def _socket(self, call: Notification, _caller: Caller) -> Answer:
        """Make it, and keep it on the loopback before the program has it."""
        family, kind, protocol = (call.integer(argument) for argument in range(3))
        try:
            sock = socket.socket(family, kind & _SOCK_TYPE_MASK, protocol)
        except OSError as error:
            return Done(error=error.errno or errno.EACCES)
        acting.keep_on_loopback(sock)
        sock.setblocking(not kind & socket.SOCK_NONBLOCK)
        return Give(sock, bool(kind & socket.SOCK_CLOEXEC))

    def _connect(self, call: Notification, caller: Caller) -> Answer:
        length = call.integer(2)
        if not 0 <= length <= MOST_BYTES:
            return Done(error=errno.EINVAL)
        raw = caller.read(call.arguments[1], length)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(caller.take(call.integer(0)))
            answer = self._connected(sock, raw, caller, stack)
            if isinstance(answer, Later):
                stack.pop_all()
        return answer

    def _connected(
        self, sock: socket.socket, raw: bytes, caller: Caller, stack: contextlib.ExitStack
    ) -> Answer:
        match parse(raw), sock.family:
            case Internet() as to, (socket.AF_INET | socket.AF_INET6):
                return self._connect_internet(sock, to, caller)
            case (Path() | Abstract()) as to, socket.AF_UNIX:
                return self._connect_unix(sock, to, raw, caller, stack)
            case Unknown(family), _:
                self._permits.refuse(f"address family {family}", 0, "other", caller)
                return Done(error=errno.EAFNOSUPPORT)
            case ((Internet() | Path() | Abstract()), _):
                return Done(error=errno.EAFNOSUPPORT)
        error = acting.connect(sock, raw)  # to nowhere, which ends an association, or to the kernel
        acting.keep_on_loopback(sock)
        return Done(error=error)

    def _connect_internet(self, sock: socket.socket, to: Internet, caller: Caller) -> Answer:
        kind = kind_of(sock)
        if kind is None:
            self._permits.refuse(to.address, to.port, "other", caller)
            return Done(error=errno.ECONNREFUSED)
        if kind == "udp" and to.port == 0:
            return Done(error=errno.ENETUNREACH)  # how getaddrinfo(3) sorts: it sends nothing
        if kind == "udp" and to.port == DNS_PORT:
            return self._connect_resolver(sock, to, caller)
        way = self._permits.way(kind, to)
        if isinstance(way, Internet):
            return self._go(sock, way, kind)
        if way == "refused":
            self._permits.refuse(to.address, to.port, kind, caller)
        return Done(error=errno.ECONNREFUSED)

    def _connect_resolver(self, sock: socket.socket, to: Internet, caller: Caller) -> Answer:
        """The guard answers questions for names, whichever server they were meant for.

        A socket of IPv6 is connected by IPv4's address. One that takes none cannot ask, and that is told.
        """
        error = acting.connect(sock, pack(*self._permits.dns, sock.family))
        if error:
            self._permits.refuse(to.address, to.port, "udp", caller)
        return Done(error=error)

    def _go(self, sock: socket.socket, to: Internet, kind: str) -> Answer:
        acting.keep_on_loopback(sock)
        error = acting.connect(sock, pack(to.address, to.port, sock.family))
        if kind == "udp":
            self._permits.own.add(sock.fileno())
        if error == errno.EINPROGRESS and os.get_blocking(sock.fileno()):
            return Later(sock)
        return Done(error=error)

    def _connect_unix(
        self,
        sock: socket.socket,
        to: Path | Abstract,
        raw: bytes,
        caller: Caller,
        stack: contextlib.ExitStack,
    ) -> Answer:
        if isinstance(to, Abstract):
            if self._permits.refuses_abstract(to.name, caller):
                return Done(error=errno.ECONNREFUSED)
            return _until_taken(sock, raw, stack)
        found = stack.enter_context(opened(to.path, caller))
        if self._permits.refuses_file(found, caller):
            return Done(error=errno.ECONNREFUSED)
        if not caller.is_ours:
            return GoOn()
        return _until_taken(sock, pack_path(found.through), stack)

    def _bind(self, call: Notification, caller: Caller) -> Answer:
        return self._remember(call, caller, socket.SOCK_DGRAM)

    def _listen(self, call: Notification, caller: Caller) -> Answer:
        return self._remember(call, caller, socket.SOCK_STREAM)

    def _remember(self, call: Notification, caller: Caller, kind: socket.SocketKind) -> Answer:
        """Its own server: it may be reached from inside, and from nowhere else than this machine."""
        try:
            sock = caller.take(call.integer(0))
        except OSError as error:
            if error.errno in _FORBIDDEN:  # as ssh-agent's, which lets nobody look into it
                return GoOn()
            raise
        with sock:
            acting.keep_on_loopback(sock)
            if sock.type == kind and sock.family in {socket.AF_INET, socket.AF_INET6}:
                self._permits.own.add(sock.fileno())
        return GoOn()


def _until_taken(sock: socket.socket, raw: bytes, stack: contextlib.ExitStack) -> Answer:
    """Connect a Unix socket; what is needed to try again is taken off the stack."""
    attempt = partial(acting.connect, sock, raw)
    error, patience_seconds = attempt(), acting.patience_seconds(sock)
    if error in FULL and patience_seconds:
        return Again(attempt, patience_seconds, stack.pop_all().close)
    return Done(error=error)
