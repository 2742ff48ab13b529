"""Sends what programs inside send with an address, with descriptors, or piece by piece.

The guard sends its own copy, on its own duplicate of the socket: a program could exchange either while it is judged,
from another thread. So what a connected stream carries passes the guard here, too.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from aider_guard.airgap import sockets
from aider_guard.airgap.dns import NameTable, answer
from aider_guard.airgap.notify import Answer, CallingThread, Notification, Pending, Result
from aider_guard.airgap.rules import DNS_PORT, EgressRules, kind_of
from aider_guard.airgap.sockets import (
    MOST_BYTES,
    Abstract,
    Internet,
    UnixPath,
    pack,
    pack_path,
    parse,
)
from aider_guard.airgap.unix_sockets import open_as_caller

_MOST_BYTES: Final = 1 << 19
"""Of one message that is sent as a whole, and of what a stream is sent before the guard serves others."""
_MOST_MESSAGES: Final = 16
"""Of one sendmmsg. For more messages the result is how many were sent, and the program sends the rest."""
_MOST_PARTS: Final = 1024  # UIO_MAXIOV, linux/uio.h
_MOST_CONTROL_BYTES: Final = 4096
_FAST_OPEN: Final = 0x20000000  # MSG_FASTOPEN, linux/socket.h: connects, too
_PIECE_BYTES: Final = 1 << 16
_STARTS_AGAIN: Final = [int(one) for one in re.findall(r"\d+", platform.release())[:2]] < [5, 19]
_BROKEN: Final = Result(error=errno.EPIPE)
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
# struct user_msghdr: name, its length, parts, their number, control messages, their length, flags; and the struct
# mmsghdr around it, with how much was sent (linux/socket.h); struct iovec (linux/uio.h); struct cmsghdr.
_MESSAGE: Final = struct.Struct("<QI4xQQQQ8x")
_MESSAGE_OF_MANY_BYTES: Final = _MESSAGE.size + 8
_PART: Final = struct.Struct("<QQ")
_CONTROL: Final = struct.Struct("<Qii")
_PID: Final = struct.Struct("<i")
_SCM_CREDENTIALS: Final = 2  # linux/socket.h
_SENT: Final = struct.Struct("<I")


@dataclass(frozen=True)
class _Message:
    """A message in the program's memory: where its parts are, and the guard's copy of the rest.

    ``to`` is its address, None for the one that the socket is connected to.
    """

    parts: tuple[tuple[int, int], ...]
    to: bytes | None
    control: bytes = b""

    def copy(self, caller: CallingThread) -> bytes:
        """Return all its data. Raises OSError as ``CallingThread.read`` does, and EMSGSIZE."""
        if sum(length for _, length in self.parts) > _MOST_BYTES:
            raise OSError(errno.EMSGSIZE, "longer than the guard copies")
        return b"".join(caller.read(at, length) for at, length in self.parts if length)


class _Sending:
    """Sends the pieces of a message one after the other: a stream takes as much as there is room for.

    A kernel older than 5.19 starts a call again that a signal interrupts, whatever the guard has sent by then. There a
    call ends with its first part, as for a non-blocking socket.
    """

    def __init__(
        self,
        send: Callable[[bytes, bytes], tuple[int, int]],
        pieces: Iterator[bytes],
        control: bytes,
    ) -> None:
        self._send = send
        self._pieces = pieces
        self._piece: bytes | None = None
        self._control = control
        self._sent_bytes = 0

    def attempt(self) -> Result | None:
        """Send what there is room for; None when something is left."""
        until_bytes = self._sent_bytes + _MOST_BYTES
        try:
            while self._sent_bytes < until_bytes:
                if not self._piece:
                    self._piece = next(self._pieces, None)
                    if self._piece is None:
                        return Result(self._sent_bytes)
                sent, error = self._send(self._piece, self._control)
                if error in sockets.LATER:
                    return self.give_up(error) if self._sent_bytes and _STARTS_AGAIN else None
                if error:
                    return self.give_up(error)
                self._sent_bytes += sent
                self._piece, self._control = self._piece[sent:], b""
        except OSError as error:  # the program's memory, or its user
            return self.give_up(error.errno or errno.EFAULT)
        return None

    def give_up(self, error: int) -> Result:
        """The end of a call that sends no more: what was sent counts, else the error."""
        return Result(self._sent_bytes) if self._sent_bytes else Result(error=error)


class MessageHandlers:
    """Handles sendto, sendmsg and sendmmsg."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    def sendto(self, call: Notification, caller: CallingThread) -> Answer:
        """Handle a call with descriptor, data, length, flags, address, its length."""
        _, data, length, _, address, _ = call.arguments
        to = caller.read(address, address_length(call.integer(5)))
        message = _Message(((data, length),), to)
        return self._send(call.integer(0), message, call.integer(3), caller)

    def sendmsg(self, call: Notification, caller: CallingThread) -> Answer:
        """Handle a call with descriptor, message, flags."""
        message = _read_message(caller, call.arguments[1])
        return self._send(call.integer(0), message, call.integer(2), caller)

    def sendmmsg(self, call: Notification, caller: CallingThread) -> Answer:
        """Handle a call with descriptor, messages, their number, flags."""
        flags, count = call.integer(3), min(call.arguments[2] & 0xFFFFFFFF, _MOST_MESSAGES)
        for number in range(count):
            at = call.arguments[1] + number * _MESSAGE_OF_MANY_BYTES
            answer = self._send(call.integer(0), _read_message(caller, at), flags, caller)
            if isinstance(answer, Pending):
                if number == 0:
                    return _first_of_many(answer, at, caller)
                answer.close()
            elif isinstance(answer, Result) and not answer.error:
                caller.write(at + _MESSAGE.size, _SENT.pack(answer.value))
                continue
            return Result(number) if number else answer
        return Result(count)

    def _send(self, number: int, message: _Message, flags: int, caller: CallingThread) -> Answer:
        if flags & _FAST_OPEN and not self._rules.has_own_network:
            return self._refuse_fast_open(message, caller)
        with ExitStack() as held:
            sock = held.enter_context(caller.take(number))
            if flags & _FAST_OPEN and sock.family in _INTERNET and message.to:
                # In a network of its own it connects first, and sends then what it would have sent along.
                error = sockets.connect(sock, message.to)
                if error not in (0, errno.EISCONN):
                    return Result(error=error)
                message = replace(message, to=None)
            sending = self._sending(sock, message, flags, caller, held)
            if isinstance(sending, Result):
                return sending

            def attempt() -> Result | None:
                result = sending.attempt()
                is_told = sock.type == socket.SOCK_STREAM and not flags & socket.MSG_NOSIGNAL
                if result == _BROKEN and is_told:  # send(2)
                    os.kill(caller.process, signal.SIGPIPE)
                return result

            if result := attempt():
                return result
            if flags & socket.MSG_DONTWAIT or not os.get_blocking(sock.fileno()):
                return sending.give_up(errno.EAGAIN)
            return Pending(
                attempt,
                sending.give_up,
                held.pop_all().close,
                sockets.patience_seconds(sock),
                sock if sock.type == socket.SOCK_STREAM else None,
            )

    def _refuse_fast_open(self, message: _Message, caller: CallingThread) -> Result:
        place = parse(message.to or b"")
        host, port = (place.address, place.port) if isinstance(place, Internet) else ("", 0)
        self._rules.refuse(host, port, "tcp", caller)
        return Result(error=errno.EPERM)

    def _sending(
        self,
        sock: socket.socket,
        message: _Message,
        flags: int,
        caller: CallingThread,
        held: ExitStack,
    ) -> _Sending | Result:
        """Judge a message; returns how to send it, or why not."""
        to = self._judge(sock, message, caller, held)
        if isinstance(to, Result):
            return to
        is_connected = sock.type in {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}
        place = None if is_connected else to

        def send(piece: bytes, control: bytes) -> tuple[int, int]:
            with ExitStack() as taken:
                if sock.family == socket.AF_UNIX:
                    control = _rights(control, caller, taken)
                if place:
                    taken.enter_context(caller.rights())
                return sockets.send(sock, piece, flags, place, control)

        is_stream = sock.type == socket.SOCK_STREAM
        pieces = _pieces(message.parts, caller) if is_stream else iter([message.copy(caller)])
        return _Sending(send, pieces, message.control)

    def _judge(
        self, sock: socket.socket, message: _Message, caller: CallingThread, held: ExitStack
    ) -> bytes | Result | None:
        """Return the address to send to, None for that of the connection, or the result of a refusal."""
        to = message.to
        if sock.family == socket.AF_UNIX:
            if to and sock.type == socket.SOCK_STREAM:
                return Result(error=errno.EISCONN)
            if to and sock.type == socket.SOCK_DGRAM:
                return self._unix_address(to, caller, held) or Result(error=errno.EPERM)
            return to
        if sock.family == socket.AF_NETLINK:
            if message.control or not _is_kernel(to):
                self._rules.refuse(f"address family {sock.family:d}", 0, "other", caller)
                return Result(error=errno.EPERM)
            return None
        if self._rules.has_own_network:
            return to  # it leads nowhere but inside
        if sock.family not in _INTERNET:
            return Result(error=errno.EPERM)
        if to is not None and sock.type != socket.SOCK_STREAM:
            to = self._internet_address(sock, to, message, caller)
            if to is None:
                return Result(error=errno.EPERM)
        # A control message could carry a route.
        return Result(error=errno.EINVAL) if message.control else to

    def _internet_address(
        self, sock: socket.socket, raw: bytes, message: _Message, caller: CallingThread
    ) -> bytes | None:
        """Where to send a datagram instead; None where it must not go, which is reported. Raises OSError."""
        if raw[:2] == b"\0\0" and sock.family == socket.AF_INET:
            # AF_UNSPEC, which an IPv4 socket reads as IPv4 (udp_sendmsg, net/ipv4/udp.c).
            raw = socket.AF_INET.to_bytes(2, "little") + raw[2:]
        to = parse(raw)
        if not isinstance(to, Internet):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        if kind_of(sock) != "udp":
            self._rules.refuse(to.address, to.port, "other", caller)
        elif to.port == DNS_PORT:
            reply = answer(message.copy(caller), NameTable())
            self._rules.refuse(reply.name if reply else to.address, to.port, "dns", caller)
        else:
            route = self._rules.route("udp", to)
            if isinstance(route, Internet) and sockets.keep_on_loopback(sock):
                return pack(route.address, route.port, sock.family)
            if route != "absent":
                self._rules.refuse(to.address, to.port, "udp", caller)
        return None

    def _unix_address(self, raw: bytes, caller: CallingThread, held: ExitStack) -> bytes | None:
        """Where to send a message of a Unix socket; None where it must not go, which is reported. Raises OSError."""
        match parse(raw):
            case Abstract(name) if self._rules.refuses_abstract(name, caller):
                return None
            case UnixPath(path):
                file = held.enter_context(open_as_caller(path, caller))
                return None if self._rules.refuses_file(file, caller) else pack_path(file.through)
        return raw


def _first_of_many(pending: Pending, at: int, caller: CallingThread) -> Pending:
    """Have the result of a message's own call be that of a call with many, of which it was the first."""

    def counted(result: Result) -> Result:
        if not result.error:
            caller.write(at + _MESSAGE.size, _SENT.pack(result.value))
        return result if result.error else Result(1)

    def attempt() -> Result | None:
        result = pending.attempt()
        return None if result is None else counted(result)

    return replace(pending, attempt=attempt, give_up=lambda error: counted(pending.give_up(error)))


def _is_kernel(raw: bytes | None) -> bool:
    """Whether an address of netlink's is the kernel's, which a message without an address is for (netlink(7)).

    It is then sent without: with an address the kernel asks for the rights of who sends, the guard, and without it for
    those of the program, too, which made the socket (``__netlink_ns_capable``, net/netlink/af_netlink.c).
    """
    return raw is None or raw[4:12] == bytes(8)


def _rights(control: bytes, caller: CallingThread, held: ExitStack) -> bytes:
    """Return a control message with duplicates of the descriptors that these carry (unix(7)), until *held* ends.

    Raises OSError.

    A program's own number, user and group (SCM_CREDENTIALS) are left out: a receiver is told those of the guard.
    """
    found: list[int] = []
    while len(control) >= _CONTROL.size:
        length, level, kind = _CONTROL.unpack_from(control)
        body = control[_CONTROL.size : length]
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for (number,) in struct.iter_unpack("<i", body[: len(body) & ~3]):
                found.append(caller.take_file(number))
                held.callback(os.close, found[-1])
        elif (level, kind, body[:4]) != _own_credentials(caller):
            raise OSError(errno.EINVAL, "a control message that the guard does not know")
        control = control[max(length + 7 & ~7, _CONTROL.size) :]
    numbers = struct.pack(f"<{len(found)}i", *found)
    head = _CONTROL.pack(_CONTROL.size + len(numbers), socket.SOL_SOCKET, socket.SCM_RIGHTS)
    return (head + numbers).ljust(_CONTROL.size + len(numbers) + 7 & ~7, b"\0") if found else b""


def _own_credentials(caller: CallingThread) -> tuple[int, int, bytes]:
    """The level and kind of the control message with a program's number, and that number."""
    return socket.SOL_SOCKET, _SCM_CREDENTIALS, _PID.pack(caller.process)


def _pieces(parts: Iterable[tuple[int, int]], caller: CallingThread) -> Iterator[bytes]:
    """Read the parts, joined to pieces. Raises OSError as ``CallingThread.read`` does."""
    piece = b""
    for start, length in parts:
        at, end = start, start + length
        while at < end:
            size = min(end - at, _PIECE_BYTES - len(piece))
            piece, at = piece + caller.read(at, size), at + size
            if len(piece) == _PIECE_BYTES:
                yield piece
                piece = b""
    if piece:
        yield piece


def address_length(length: int) -> int:
    """Check the length of an address. Raises OSError(EINVAL)."""
    if not 0 <= length <= MOST_BYTES:
        raise OSError(errno.EINVAL, "length of an address")
    return length


def _read_message(caller: CallingThread, address: int) -> _Message:
    """Copy a message but for its data. Raises OSError as ``CallingThread.read`` does, EMSGSIZE and EINVAL."""
    head = _MESSAGE.unpack(caller.read(address, _MESSAGE.size))
    name, name_length, parts, count, control, control_length = head
    if count > _MOST_PARTS:
        raise OSError(errno.EMSGSIZE, "too many parts")
    if control_length > _MOST_CONTROL_BYTES:
        raise OSError(errno.EINVAL, "too many control messages")
    pieces = tuple(_PART.iter_unpack(caller.read(parts, count * _PART.size)))
    to = caller.read(name, min(name_length, MOST_BYTES)) if name and name_length else None
    has_control = control and control_length
    return _Message(pieces, to, caller.read(control, control_length) if has_control else b"")
