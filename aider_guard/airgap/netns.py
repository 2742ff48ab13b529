"""The air gap by a network namespace: makes it, puts Aider into it, and reports what its programs try to reach.

The namespace has a loopback interface and nothing else. No root is needed: it belongs to a user namespace of its own.
It is made in a child process, which sends the descriptors to the guard and ends. All addresses are local inside (the
"AnyIP" route, ip-route(8), type local): each packet appears on the loopback interface, where the guard reads it, and
the kernel refuses the connection at once. A socket stays in the namespace it was made in: the guard runs outside, and
serves programs inside by such sockets.
"""

from __future__ import annotations

import array
import fcntl
import math
import os
import platform
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import bpf, kernel, mounts, packet_capture
from aider_guard.airgap.dns import PORT as DNS_PORT
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, Gap, ProgramFinder, Report
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.packet_capture import ListenerLookup
from aider_guard.airgap.proc import End, diag_socket
from aider_guard.core.egress import Attempt, Layer, Place, Protocol
from aider_guard.loop import READ, Loop
from aider_guard.proc_net import Kind

_KINDS: Final = (kernel.CLONE_NEWUSER, kernel.CLONE_NEWNET, kernel.CLONE_NEWNS)


@dataclass
class Namespaces:
    """The descriptors of a jail's namespaces, which keep them alive while no process is in them."""

    user: int
    net: int
    mount: int

    def enter(self) -> None:
        """Move this process into the jail for good. For a process with one thread. Raises OSError."""
        folder = os.getcwd()
        for fd, kind in zip((self.user, self.net, self.mount), _KINDS, strict=True):
            kernel.setns(fd, kind)
        os.chdir(folder)  # setns(2) has moved this process to the root folder
        kernel.keep_capabilities(KEPT if os.geteuid() == 0 else frozenset())
        filter_calls()

    def close(self) -> None:
        """Close the descriptors. Twice is no error."""
        for name in ("user", "net", "mount"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


def filter_calls() -> None:
    """Refuse this process and its children the calls that a namespace does not restrict. Raises OSError."""
    kernel.forbid_new_privileges()
    calls = bpf.CALLS.get(platform.machine())
    if calls is not None:
        kernel.filter_calls(bpf.program_in_a_jail(calls))


def write_maps(process: int) -> None:
    """Map the users of the user namespace that a process has just made (user_namespaces(7)). Raises OSError.

    For root all users are mapped; any other user may map only itself, and other users' files belong to the overflow
    user inside.
    """
    if os.geteuid() == 0:
        with suppress(PermissionError):  # a root of a container that may not
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/self/{name}", encoding="ascii") as lines:
                    ours = [line.split() for line in lines]
                all_users = "".join(f"{first} {first} {count}\n" for first, _, count in ours)
                _write(process, name, all_users)
            return
    _write(process, "setgroups", "deny")
    _write(process, "uid_map", f"{os.geteuid()} {os.geteuid()} 1")
    _write(process, "gid_map", f"{os.getegid()} {os.getegid()} 1")


def _write(process: int, name: str, text: str) -> None:
    with open(f"/proc/{process}/{name}", "w", encoding="ascii") as file:
        file.write(text)


_SIOCSIFFLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # linux/sockios.h; IFF_UP | IFF_RUNNING (net/if.h)
_LOOPBACK_INDEX: Final = 1  # the first interface of every network namespace
# linux/rtnetlink.h and linux/netlink.h
_RTM_NEWROUTE, _REQUEST_ACK_CREATE = 24, 0x1 | 0x4 | 0x400
_TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL, _RTA_OIF = 255, 4, 254, 2, 4
# asm/socket.h, linux/in.h, linux/in6.h
_SO_ATTACH_FILTER, _IP_PKTINFO, _IPV6_RECVPKTINFO = 26, 8, 49
_IPV6_FREEBIND: Final = 78  # linux/in6.h, from Linux 4.15 on
_QUEUE, _SPARE_LISTENERS = 128, 2
_TABLES: Final = ("tcp", "tcp6", "udp", "udp6")
_BUILD_SECONDS: Final = 5.0
_MOST_FDS: Final = 200

Address = tuple[str, int]


@dataclass(frozen=True)
class Jail:
    """The namespaces, and the sockets that were opened in them."""

    namespaces: Namespaces
    tap: socket.socket
    diag: socket.socket
    """Asks the kernel about the connections inside (airgap/proc.py)."""
    dns: tuple[socket.socket, ...]
    spare: list[socket.socket]
    """Listeners on ports of 127.0.0.1 that are not in use yet."""
    allowed: tuple[socket.socket, ...]
    """A listener for each place of ``allow``, in its order."""
    tables: dict[str, int]
    """Open files: /proc/net/tcp and its like, of the network inside."""

    def close(self) -> None:
        """Close everything. Twice is no error."""
        self.namespaces.close()
        for sock in (self.tap, self.diag, *self.dns, *self.spare, *self.allowed):
            sock.close()
        while self.tables:
            os.close(self.tables.popitem()[1])


class NamespaceSetup:
    """Makes a jail in a child process. As a ``with``: ``finish`` gives the jail, leaving it ends the child."""

    def __init__(self, allowed: Sequence[Address], masked: Sequence[str]) -> None:
        self._ours, theirs = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            _run_child(theirs, allowed, masked)
        theirs.close()
        self._allowed = len(allowed)

    def __enter__(self) -> NamespaceSetup:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def finish(self, within_seconds: float = _BUILD_SECONDS) -> Jail:
        """Wait for the jail. Raises OSError with the kernel's words when it cannot be made."""
        self._receive(within_seconds)
        write_maps(self._child)
        self._ours.send(b"m")
        message, fds = self._receive(within_seconds)
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

    def _receive(self, seconds: float) -> tuple[bytes, list[int]]:
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


def _run_child(channel: socket.socket, allowed: Sequence[Address], masked: Sequence[str]) -> None:
    """Run in the child: make the jail, send its descriptors, and end. Never returns."""
    try:
        _make_jail(channel, allowed, masked)
    except BaseException as error:  # noqa: BLE001  # reported to the parent
        number = error.errno or 0 if isinstance(error, OSError) else 0
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with suppress(OSError):
            channel.send(f"!{number} {words}".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _make_jail(channel: socket.socket, allowed: Sequence[Address], masked: Sequence[str]) -> None:
    own = mounts.readable_by_owner()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
    channel.send(b"u")
    if channel.recv(1) != b"m":
        return
    mounts.hide(masked)
    mounts.show_as_own(own)
    mounts.protect_kernel_settings()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
    _make_all_local(socket.AF_INET)
    families = [socket.AF_INET]
    with suppress(OSError):  # a kernel without IPv6 has no way out by it
        _make_all_local(socket.AF_INET6)
        families.append(socket.AF_INET6)
    dns = [_dns_socket(family) for family in families]
    listeners = [_listener(address) for address in allowed]
    free = ("127.0.0.1", 0)  # a port that is not one of theirs
    spare = [socket.create_server(free, backlog=_QUEUE) for _ in range(_SPARE_LISTENERS)]
    tables = [f"/proc/self/net/{name}" for name in _TABLES]
    paths = [f"/proc/self/ns/{kind}" for kind in ("user", "net", "mnt")]
    paths += [path if os.path.exists(path) else os.devnull for path in tables]
    opened = [os.open(path, os.O_RDONLY) for path in paths]
    opened += [_tap().detach(), diag_socket().detach()]
    fds = [*opened, *(sock.detach() for sock in (*dns, *spare, *listeners))]
    filter_calls()  # tried here first: where it fails, this layer is not chosen
    socket.send_fds(channel, [bytes([len(dns)])], fds)


def _make_all_local(family: int) -> None:
    """Do what ``ip route add local default dev lo`` does, by netlink (rtnetlink(7))."""
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
    """A socket that receives questions to any address, with that address, from which the reply must come."""
    dns = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        dns.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        dns.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        # A local route makes an IPv6 address reachable, but not one to send from.
        dns.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        dns.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    dns.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", DNS_PORT))  # noqa: S104  # in the jail
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
    """A socket that receives the packets sent on the loopback interface (packet(7)).

    It is made without a protocol and bound afterwards: with one, the kernel waits some 13 ms.
    """
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    program = packet_capture.filter_program()
    buffer = array.array("B", program)
    whole = struct.pack("HxxxxxxQ", len(program) // 8, buffer.buffer_info()[0])
    tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, whole)
    tap.bind(("lo", 3))  # ETH_P_ALL, linux/if_ether.h
    return tap


_BUDGET_SECONDS: Final = 0.01
"""How long packets are read in a row before the loop serves the terminal."""
_MOST_AT_ONCE: Final = 1 << 16
"""More than the kernel queues: only a program that keeps on sending sends more."""
_MOST_BYTES: Final = 256
_ROOM_BYTES: Final = 1 << 22
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
# linux/if_packet.h: struct tpacket_stats is how many packets came, and how many of them found no room
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS: Final = struct.Struct("@II")
_UNREAD: Final = "(more than could be read)"


class NetnsGap(Gap):
    """Enforces by a jail, which it owns. Its listeners stand for the *allowed* places, in their order."""

    layer: Layer = "netns"

    def __init__(self, jail: Jail, names: NameTable, allowed: Sequence[Place] = ()) -> None:
        self._jail, self._names = jail, names
        self._name_server = NameServer(jail.dns, names, allowed)
        self.diag = jail.diag
        self.relays = tuple(zip((sock.fileno() for sock in jail.allowed), allowed, strict=True))
        tcp: End = jail.spare[0].getsockname()
        known: dict[Kind, End] = {"udp": ("127.0.0.1", DNS_PORT), "tcp": tcp}
        self._listeners = ListenerLookup(jail.diag, jail.tables, known)
        self._packets_read, self._attempts_seen = 0, 0
        # Room for as many waiting packets as the system allows; only root outside may exceed its limit.
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with suppress(OSError):
                jail.tap.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)
        self._allowed_addresses = {sock.getsockname()[:2] for sock in jail.allowed}
        self._report: Report = lambda _attempt: None
        self._loop: Loop | None = None
        self._programs: ProgramFinder = UNKNOWN_PROGRAM

    def listen(self) -> tuple[int, int]:
        """See ``Gap``."""
        if not self._jail.spare:
            raise OSError("the air gap has no more sockets to listen on")
        listener = self._jail.spare.pop()
        port: int = listener.getsockname()[1]
        return listener.detach(), port

    @contextmanager
    def entering(self) -> Iterator[Enter]:
        """See ``Gap``."""
        namespaces = self._jail.namespaces
        yield Enter(namespaces.enter, (namespaces.user, namespaces.net, namespaces.mount))

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """See ``Gap``."""
        self._loop, self._report, self._programs = loop, report, programs
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self._serve())
        self._name_server.watch(loop, report, programs)

    def flush(self) -> None:
        """See ``Gap``."""
        self._serve(math.inf)
        self._name_server.flush()

    def _serve(self, seconds: float = _BUDGET_SECONDS) -> None:
        until = time.monotonic() + seconds
        for _ in range(_MOST_AT_ONCE):
            try:
                data, (_, ethernet_type, *_rest) = self._jail.tap.recvfrom(_MOST_BYTES)
            except BlockingIOError:  # no more
                self._report_lost()
                return
            except OSError:  # the interface was switched off, or all is closed
                return
            self._packets_read += 1
            if packet := packet_capture.parse(data, ethernet_type):
                self._judge(packet)
            if time.monotonic() > until:
                return

    def _report_lost(self) -> None:
        """Report packets that the kernel dropped, taking the same share of them for attempts as of those read."""
        statistics = self._jail.tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _received, lost = _STATISTICS.unpack(statistics)
        if lost and self._attempts_seen:
            count = max(1, lost * self._attempts_seen // self._packets_read)
            self._report(Attempt(_UNREAD, 0, "other", count=count))
        self._packets_read = self._attempts_seen = 0

    def close(self) -> None:
        """See ``Gap``."""
        if self._loop is not None:
            self._loop.forget(self._jail.tap.fileno())
            self._loop = None
        self._name_server.close()
        self._listeners.close()
        self._jail.close()

    def _judge(self, packet: packet_capture.Packet) -> None:
        host, port = packet.destination, packet.port
        is_dns = packet.kind == "udp" and DNS_PORT in (port, packet.source_port)
        if is_dns or (host, port) in self._allowed_addresses:
            return  # a question to the name server, which reports it, or its answer
        if self._listeners.has_receiver_inside(packet):
            return
        if self._names.stands_for_a_name(host):
            name = self._names.name_of(host)
            self._report_attempt(name, port, packet.kind, self._name_server.asker_of(name))
        elif not packet_capture.is_loopback(host) or self._listeners.is_server_outside(packet):
            self._report_attempt(host, port, packet.kind)

    def _report_attempt(self, host: str, port: int, protocol: Protocol, asker: str = "") -> None:
        # The socket of a refused connection is gone before its program could be found. The program that asked for the
        # name is known: it waited for the reply.
        self._attempts_seen += 1
        self._report(Attempt(host, port, protocol, asker or self._programs.only()))
