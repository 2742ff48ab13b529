"""Decides about each system call that waits for the guard, and carries out the allowed ones.

A call does not go on to the kernel once the guard has judged it: another thread could have changed the address in
memory, or what the descriptor's number stands for. So the guard makes sockets, connects, listens and sends by itself,
on a duplicate of the socket, with its own copy of the address.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

from aider_guard.airgap import sockets
from aider_guard.airgap.bpf import SyscallNumbers as Numbers
from aider_guard.airgap.notify import (
    Answer,
    CallingThread,
    Continue,
    GiveDescriptor,
    Notification,
    Pending,
    Result,
)
from aider_guard.airgap.rules import DNS_PORT, EgressRules, kind_of
from aider_guard.airgap.sends import MessageHandlers, address_length
from aider_guard.airgap.sockets import Abstract, Internet, UnixPath, Unknown, pack, pack_path, parse
from aider_guard.airgap.unix_sockets import open_as_caller

_FORBIDDEN = (errno.EPERM, errno.EACCES)
FAULT: Final = "a fault in aider-guard"
"""Reported in place of a host where the guard failed to judge a call."""
_SOCK_TYPE_MASK = 0xF  # linux/net.h
_GROUPS_OF_BOTH = (42, 46)  # MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, linux/in.h
_MOST_OPTION_BYTES = 264  # struct group_source_req, linux/in.h


_Handler = Callable[[Notification, CallingThread], Answer]


class SyscallHandlers:
    """Handles the calls that wait for the guard, by their numbers on one kind of machine."""

    def __init__(self, numbers: Numbers, rules: EgressRules) -> None:
        self._rules = rules
        sends = MessageHandlers(rules)
        self._handlers: Mapping[int, _Handler] = {
            numbers.socket: self._socket,
            numbers.connect: self._connect,
            numbers.listen: self._listen,
            numbers.sendto: sends.sendto,
            numbers.sendmsg: sends.sendmsg,
            numbers.sendmmsg: sends.sendmmsg,
            numbers.setsockopt: self._join_group,
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
        """Make the socket: the program has it once it stays on this machine, and is known as its own."""
        family, kind, protocol = (call.integer(argument) for argument in range(3))
        try:
            make = socket.socket if family == socket.AF_UNIX else sockets.make
            sock = make(family, kind & _SOCK_TYPE_MASK, protocol)
        except OSError as error:
            return Result(error=error.errno or errno.EACCES)
        self._rules.own_servers.add(sock.fileno())
        sock.setblocking(not kind & socket.SOCK_NONBLOCK)
        return GiveDescriptor(sock, bool(kind & socket.SOCK_CLOEXEC))

    def _listen(self, call: Notification, caller: CallingThread) -> Answer:
        """Listen, on the loopback interface only.

        A program that may not be looked into listens by itself, as ssh-agent does: its socket was made to stay there.
        Where one of the session's sockets has left it, it may be the one that is meant.
        """
        try:
            sock = caller.take(call.integer(0))
        except OSError as error:
            if error.errno not in _FORBIDDEN:
                raise
            address, port = self._rules.own_servers.on_a_card()
            if not port:
                return Continue()
            self._rules.refuse(address, port, "tcp", caller)
            return Result(error=errno.EACCES)
        with sock, caller.rights():
            if not sockets.keep_on_loopback(sock):
                address, port, *_ = sock.getsockname()
                self._rules.refuse(address, port, "tcp", caller)
                return Result(error=errno.EACCES)
            return Result(error=sockets.listen(sock, call.integer(1)))

    def _join_group(self, call: Notification, caller: CallingThread) -> Answer:
        """Refuse to join a group of receivers: the kernel would tell the neighbours its number.

        A structure of IPv4 or IPv6 begins with it; that for both has it behind the interface, as the address of a
        socket (struct ip_mreq, ipv6_mreq, group_req; linux/in.h, linux/in6.h).
        """
        level, name = call.integer(1), call.integer(2)
        raw = caller.read(call.arguments[3], min(call.integer(4), _MOST_OPTION_BYTES))
        if name in _GROUPS_OF_BOTH:
            to = parse(raw[8:])
            group = to.address if isinstance(to, Internet) else ""
        elif level == socket.IPPROTO_IP:
            group = socket.inet_ntop(socket.AF_INET, raw[:4])
        else:
            group = socket.inet_ntop(socket.AF_INET6, raw[:16])
        self._rules.refuse(group, 0, "other", caller)
        return Result(error=errno.ENODEV)

    def _connect(self, call: Notification, caller: CallingThread) -> Answer:
        raw = caller.read(call.arguments[1], address_length(call.integer(2)))
        with contextlib.ExitStack() as stack:
            try:
                sock = stack.enter_context(caller.take(call.integer(0)))
            except OSError as error:
                if error.errno not in _FORBIDDEN:
                    raise
                self._refuse_untaken(raw, caller)
                return Result(error=error.errno)
            return self._connect_by_family(sock, raw, caller, stack)

    def _refuse_untaken(self, raw: bytes, caller: CallingThread) -> None:
        """Report an attempt of a program whose descriptors may not be looked at, by the address that it gave."""
        match parse(raw):
            case Internet(address, port):
                self._rules.refuse(address, port, "other", caller)
            case UnixPath(path):
                self._rules.refuse(os.fsdecode(path), 0, "unix", caller)
            case _:
                self._rules.refuse("", 0, "other", caller)

    def _connect_by_family(
        self, sock: socket.socket, raw: bytes, caller: CallingThread, stack: contextlib.ExitStack
    ) -> Answer:
        if self._rules.has_own_network and sock.family != socket.AF_UNIX:
            return self._connect_freely(sock, raw, stack)
        match parse(raw), sock.family:
            case Internet() as to, (socket.AF_INET | socket.AF_INET6):
                return self._connect_internet(sock, to, caller, stack)
            case (UnixPath() | Abstract()) as to, socket.AF_UNIX:
                return self._connect_unix(sock, to, raw, caller, stack)
            case Unknown(family), _:
                self._rules.refuse(f"address family {family}", 0, "other", caller)
                return Result(error=errno.EAFNOSUPPORT)
            case ((Internet() | UnixPath() | Abstract()), _):
                return Result(error=errno.EAFNOSUPPORT)
        error = sockets.connect(sock, raw)  # AF_UNSPEC ends an association; netlink is the kernel
        sockets.keep_on_loopback(sock, fixed=False)
        return Result(error=error)

    def _connect_freely(
        self, sock: socket.socket, raw: bytes, stack: contextlib.ExitStack
    ) -> Answer:
        """Connect an internet socket to an address that was judged, or that leads nowhere but inside."""
        error = sockets.connect(sock, raw)
        if error == errno.EINPROGRESS and os.get_blocking(sock.fileno()):
            return Pending(
                lambda: Result(error=sockets.outcome(sock)),
                lambda error: Result(error=error),
                stack.pop_all().close,
                math.inf,
                sock,
            )
        return Result(error=error)

    def _connect_internet(
        self,
        sock: socket.socket,
        to: Internet,
        caller: CallingThread,
        stack: contextlib.ExitStack,
    ) -> Answer:
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
        # An address of IPv4 is reached by no socket that is bound to one of IPv6 with a scope.
        is_fixed = kind == "udp" or ":" in route.address
        if not sockets.keep_on_loopback(sock, fixed=is_fixed):
            self._rules.refuse(to.address, to.port, kind, caller)
            return Result(error=errno.ENETUNREACH)
        return self._connect_freely(sock, pack(route.address, route.port, sock.family), stack)

    def _connect_resolver(self, sock: socket.socket, to: Internet, caller: CallingThread) -> Answer:
        """Connect to the guard's name server, whichever server was meant.

        An IPv6 socket is connected to its IPv4 address. One that takes no IPv4 cannot ask, which is reported.
        """
        is_held = sockets.keep_on_loopback(sock)
        error = errno.ENETUNREACH
        if is_held:
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
            raw = pack_path(file.through)

        def attempt() -> Result | None:
            with caller.rights():
                error = sockets.connect(sock, raw)
            return None if error in sockets.LATER else Result(error=error)

        if result := attempt():
            return result
        patience_seconds = sockets.patience_seconds(sock)
        if not patience_seconds:
            return Result(error=errno.EAGAIN)
        return Pending(
            attempt, lambda error: Result(error=error), stack.pop_all().close, patience_seconds
        )
