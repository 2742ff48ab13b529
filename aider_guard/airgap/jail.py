"""A network namespace with nothing outside, made in a throw-away child, and entered by whoever shall live in it.

Nobody needs to be root: the network namespace belongs to a user namespace of its own. Every address is local there
(the "AnyIP" route, ip-route(8), type local), so that whoever is reached for is seen on the loopback interface, and the
kernel refuses it at once. A socket keeps the namespace it was made in: the ones that are handed over serve inside while
their holders stay outside.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import kernel, mounts, packets
from aider_guard.airgap.diag import diag_socket
from aider_guard.airgap.resident import Namespaces, filter_calls, write_maps

_SIOCSIFFLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # linux/sockios.h; IFF_UP | IFF_RUNNING (net/if.h)
_LOOPBACK_INDEX: Final = 1  # the first interface of every network namespace
# linux/rtnetlink.h and linux/netlink.h
_RTM_NEWROUTE, _REQUEST_ACK_CREATE = 24, 0x1 | 0x4 | 0x400
_TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL, _RTA_OIF = 255, 4, 254, 2, 4
_SO_ATTACH_FILTER, _IP_PKTINFO, _IPV6_RECVPKTINFO = (
    26,
    8,
    49,
)  # asm/socket.h, linux/in.h, linux/in6.h
_IPV6_FREEBIND: Final = 78  # linux/in6.h, from Linux 4.15 on
_DNS_PORT, _QUEUE, _SPARE_LISTENERS = 53, 128, 2
_TABLES: Final = ("tcp", "tcp6", "udp", "udp6")
_BUILD_SECONDS: Final = 5.0
_MOST_FDS: Final = 200

Address = tuple[str, int]


@dataclass(frozen=True)
class Jail:
    """Namespaces, and what was opened in them. Closing it leaves nobody who could serve inside."""

    namespaces: Namespaces
    tap: socket.socket
    diag: socket.socket
    """For questions about the connections inside (airgap/diag.py)."""
    dns: tuple[socket.socket, ...]
    spare: list[socket.socket]
    """Listeners on ports of 127.0.0.1 that nobody has asked for yet."""
    allowed: tuple[socket.socket, ...]
    """A listener for each place of ``allow``, in its order."""
    tables: dict[str, int]
    """/proc/net/tcp and its like, of the inside."""

    def close(self) -> None:
        """Close everything. Twice is no error."""
        self.namespaces.close()
        for one in (self.tap, self.diag, *self.dns, *self.spare, *self.allowed):
            one.close()
        while self.tables:
            os.close(self.tables.popitem()[1])


class Building:
    """A jail under way. As a ``with``: leaving it ends the child; ``finish`` in it gives the jail."""

    def __init__(self, allowed: Sequence[Address], masked: Sequence[str]) -> None:
        self._ours, theirs = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            _be_the_child(theirs, allowed, masked)
        theirs.close()
        self._allowed = len(allowed)

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def finish(self, within_seconds: float = _BUILD_SECONDS) -> Jail:
        """Wait for the jail. Raises OSError, in the kernel's words, when there can be none."""
        self._hear(within_seconds)
        write_maps(self._child)
        self._ours.send(b"m")
        message, fds = self._hear(within_seconds)
        sockets = [socket.socket(fileno=fd) for fd in fds[3 + len(_TABLES) :]]
        dns = message[0]
        return Jail(
            Namespaces(*fds[:3]),
            sockets[0],
            sockets[1],
            tuple(sockets[2 : 2 + dns]),
            sockets[2 + dns : 2 + dns + _SPARE_LISTENERS],
            tuple(sockets[2 + dns + _SPARE_LISTENERS :]),
            dict(zip(_TABLES, fds[3 : 3 + len(_TABLES)], strict=True)),
        )

    def _hear(self, seconds: float) -> tuple[bytes, list[int]]:
        if not select.select([self._ours], [], [], seconds)[0]:
            raise TimeoutError("it took too long")
        message, fds, _, _ = socket.recv_fds(self._ours, 4096, _MOST_FDS)
        if not message or message.startswith(b"!"):
            number, _, words = message[1:].decode("utf-8", "replace").partition(" ")
            words = words or "the child that was to make it has ended"
            raise OSError(int(number or 0), words)
        for fd in fds:
            os.set_inheritable(fd, False)
        return message, fds


def _be_the_child(
    channel: socket.socket, allowed: Sequence[Address], masked: Sequence[str]
) -> None:
    """Make the jail, hand it over, end. Never returns."""
    try:
        _make(channel, allowed, masked)
    except BaseException as error:  # noqa: BLE001  # told to the parent, whatever it is
        number = error.errno or 0 if isinstance(error, OSError) else 0
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with contextlib.suppress(OSError):
            channel.send(f"!{number} {words}".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _make(channel: socket.socket, allowed: Sequence[Address], masked: Sequence[str]) -> None:
    own = mounts.readable_by_owner()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
    channel.send(b"u")
    if channel.recv(1) != b"m":
        return
    mounts.hide(masked)
    mounts.show_as_own(own)
    mounts.keep_roots_word_inside()
    _bring_loopback_up()
    _make_all_local(socket.AF_INET)
    families = [socket.AF_INET]
    with contextlib.suppress(OSError):  # a kernel without IPv6 has no way out by it
        _make_all_local(socket.AF_INET6)
        families.append(socket.AF_INET6)
    dns = [_dns_socket(family) for family in families]
    listeners = [_listener(address) for address in allowed]
    free = ("127.0.0.1", 0)  # a port that is not one of theirs
    spare = [socket.create_server(free, backlog=_QUEUE) for _ in range(_SPARE_LISTENERS)]
    held = [*_namespace_fds(), *_table_fds(), _tap().detach(), diag_socket().detach()]
    fds = [*held, *(one.detach() for one in (*dns, *spare, *listeners))]
    filter_calls()  # here, so that whoever enters will not be the first to find that it cannot be
    socket.send_fds(channel, [bytes([len(dns)])], fds)


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))


def _make_all_local(family: int) -> None:
    """``ip route add local default dev lo``, in netlink's words (rtnetlink(7))."""
    scope = _SCOPE_HOST if family == socket.AF_INET else 0
    route = struct.pack(
        "BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, _PROTOCOL_STATIC, scope, _TYPE_LOCAL, 0
    )
    body = route + struct.pack("HHI", 8, _RTA_OIF, _LOOPBACK_INDEX)
    head = struct.pack("IHHII", 16 + len(body), _RTM_NEWROUTE, _REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + body)
        (error,) = struct.unpack_from("i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, f"route: {os.strerror(-error)}")


def _dns_socket(family: int) -> socket.socket:
    """Hears questions to any address, and knows to which, so that the answer comes from there."""
    dns = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        dns.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        dns.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        # A local route makes an IPv6 address reachable, but not one to send from.
        dns.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        dns.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    dns.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", _DNS_PORT))  # noqa: S104  # in the jail
    return dns


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # as for names
    listener.bind(address)
    listener.listen(_QUEUE)
    return listener


def _tap() -> socket.socket:
    """Sees what is sent on the loopback interface (packet(7)).

    Made without a protocol and bound afterwards: made with one, the kernel waits some 13 ms for its readers.
    """
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    program = packets.filter_program()
    buffer = array.array("B", program)
    whole = struct.pack("HxxxxxxQ", len(program) // 8, buffer.buffer_info()[0])
    tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, whole)
    everything = 3  # ETH_P_ALL, linux/if_ether.h
    tap.bind(("lo", everything))
    return tap


def _namespace_fds() -> list[int]:
    return [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "net", "mnt")]


def _table_fds() -> list[int]:
    paths = [f"/proc/self/net/{name}" for name in _TABLES]
    return [os.open(path if os.path.exists(path) else os.devnull, os.O_RDONLY) for path in paths]
