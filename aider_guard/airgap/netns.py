"""The air gap by a network namespace: what its loopback interface tells, served from the guard's loop."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

from aider_guard.airgap import bpf, kernel, mounts, packet_capture
from aider_guard.airgap.dns import PORT as DNS_PORT
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, ProgramFinder
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.packet_capture import ListenerLookup
from aider_guard.airgap.proc import End, diag_socket
from aider_guard.core.egress import Attempt, Place, Protocol
from aider_guard.loop import READ, Loop
from aider_guard.proc_net import Kind

# Living in a jail: whose user identifiers mean what there, and how a process gets in for good.

_KINDS: Final = (kernel.CLONE_NEWUSER, kernel.CLONE_NEWNET, kernel.CLONE_NEWNS)


@dataclass
class Namespaces:
    """Descriptors of a jail's namespaces; they keep it in being while nobody is in it."""

    user: int
    net: int
    mount: int

    def enter(self) -> None:
        """Make this process, and whatever it becomes, live there. For a process with one thread. Raises OSError."""
        folder = os.getcwd()
        for fd, kind in zip((self.user, self.net, self.mount), _KINDS, strict=True):
            kernel.setns(fd, kind)
        os.chdir(folder)  # the mount namespace put us at its root
        kernel.keep_capabilities(KEPT if os.geteuid() == 0 else frozenset())
        filter_calls()

    def close(self) -> None:
        """Let go of them. Twice is no error."""
        for name in ("user", "net", "mount"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


def filter_calls() -> None:
    """Refuse this process, and whatever it becomes, the calls that no namespace holds. Raises OSError."""
    kernel.forbid_new_privileges()
    calls = bpf.CALLS.get(platform.machine())
    if calls is not None:
        kernel.filter_calls(bpf.program_in_a_jail(calls))


def write_maps(process: int) -> None:
    """Say who is who in the user namespace that a process has just made (user_namespaces(7)).

    Root keeps all users that there are here; everybody else may only be themselves, and other users' files seem to be
    nobody's. Raises OSError.
    """
    if os.geteuid() == 0 and _write_all(process):
        return
    _write(process, "setgroups", "deny")
    _write(process, "uid_map", f"{os.geteuid()} {os.geteuid()} 1")
    _write(process, "gid_map", f"{os.getegid()} {os.getegid()} 1")


def _write_all(process: int) -> bool:
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/self/{name}", encoding="ascii") as lines:
                ours = [line.split() for line in lines]
            _write(process, name, "".join(f"{first} {first} {count}\n" for first, _, count in ours))
    except PermissionError:  # a root of a container that may not
        return False
    return True


def _write(process: int, name: str, text: str) -> None:
    with open(f"/proc/{process}/{name}", "w", encoding="ascii") as file:
        file.write(text)


# A network namespace with nothing outside, made in a throw-away child, and entered by whoever shall live in it.
#
# Nobody needs to be root: the network namespace belongs to a user namespace of its own. Every address is local there
# (the "AnyIP" route, ip-route(8), type local), so that whoever is reached for is seen on the loopback interface, and
# the kernel refuses it at once. A socket keeps the namespace it was made in: the ones that are handed over serve inside
# while their holders stay outside.

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


class NamespaceSetup:
    """A jail under way. As a ``with``: leaving it ends the child; ``finish`` in it gives the jail."""

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
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def finish(self, within_seconds: float = _BUILD_SECONDS) -> Jail:
        """Wait for the jail. Raises OSError, in the kernel's words, when there can be none."""
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
    """Make the jail, hand it over, end. Never returns."""
    try:
        _make_jail(channel, allowed, masked)
    except BaseException as error:  # noqa: BLE001  # told to the parent, whatever it is
        number = error.errno or 0 if isinstance(error, OSError) else 0
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with contextlib.suppress(OSError):
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
    program = packet_capture.filter_program()
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


_BUDGET_SECONDS: Final = 0.01
"""For so long packets are taken in a row, before the terminal gets its turn."""
_MOST_AT_ONCE: Final = 1 << 16
"""More than the kernel keeps: only who goes on sending has more."""
_MOST_BYTES: Final = 256
_HERE: Final = "127.0.0.1"
_ROOM_BYTES: Final = 1 << 22
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
# linux/if_packet.h: struct tpacket_stats is how many packets came, and how many of them found no room
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS: Final = struct.Struct("@II")
_UNREAD: Final = "(more than could be read)"


class NetnsGap:
    """Implements ``gap.Gap``. Owns the jail; *allowed* are the places that its listeners stand for."""

    def __init__(self, jail: Jail, names: NameTable, allowed: Sequence[Place] = ()) -> None:
        self._jail, self._names = jail, names
        self._name_server = NameServer(jail.dns, names, allowed)
        self._relays = tuple(zip((one.fileno() for one in jail.allowed), allowed, strict=True))
        known: dict[Kind, End] = {"udp": (_HERE, DNS_PORT), "tcp": jail.spare[0].getsockname()}
        self._listeners = ListenerLookup(jail.diag, jail.tables, known)
        self._packets_read, self._attempts_seen = 0, 0
        _enlarge_buffer(jail.tap)
        self._allowed_addresses = {one.getsockname()[:2] for one in jail.allowed}
        self._report: Callable[[Attempt], None] = lambda _attempt: None
        self._loop: Loop | None = None
        self._programs: ProgramFinder = UNKNOWN_PROGRAM

    @property
    def layer(self) -> Literal["netns"]:
        """The best one."""
        return "netns"

    @property
    def diag(self) -> socket.socket:
        """See ``Gap``."""
        return self._jail.diag

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """See ``Gap``."""
        return self._relays

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

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """See ``Gap``."""
        self._loop, self._report, self._programs = loop, report, programs
        loop.watch(self._jail.tap.fileno(), READ, lambda _events: self._serve())
        self._name_server.watch(loop, report, programs)

    def flush(self) -> None:
        """See ``Gap``."""
        for packet in self._packets(_MOST_AT_ONCE):
            self._judge(packet)
        self._name_server.flush()

    def _serve(self) -> None:
        until = time.monotonic() + _BUDGET_SECONDS
        for packet in self._packets(_MOST_AT_ONCE):
            self._judge(packet)
            if time.monotonic() > until:
                return

    def _packets(self, most: int) -> Iterator[packet_capture.Packet]:
        """Those that wait, and what is to be said of those that did not find room."""
        for _ in range(most):
            try:
                data, (_, ethernet_type, *_rest) = self._jail.tap.recvfrom(_MOST_BYTES)
            except BlockingIOError:  # no more
                self._report_lost()
                return
            except OSError:  # the interface was switched off, or all is closed
                return
            self._packets_read += 1
            packet = packet_capture.parse(data, ethernet_type)
            if packet is not None:
                yield packet

    def _report_lost(self) -> None:
        """Of packets that the kernel has dropped as many are attempts as of those beside them, as far as is known."""
        told = self._jail.tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _came, lost = _STATISTICS.unpack(told)
        if lost and self._attempts_seen:
            count = max(1, lost * self._attempts_seen // self._packets_read)
            self._report(Attempt(_UNREAD, 0, "other", count=count))
        self._packets_read = self._attempts_seen = 0

    def reap(self) -> None:
        """See ``Gap``: nothing is left to the guard."""

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
        if (host, port) in self._allowed_addresses or _is_dns(packet):
            return  # whoever asks for a name is heard by the name server
        if self._listeners.has_receiver_inside(packet):
            return
        if self._names.stands_for_a_name(host):
            name = self._names.name_of(host)
            self._report_attempt(name, port, packet.kind, self._name_server.asker_of(name))
        elif not packet_capture.is_loopback(host) or self._listeners.is_server_outside(packet):
            self._report_attempt(host, port, packet.kind)

    def _report_attempt(self, host: str, port: int, protocol: Protocol, asker: str = "") -> None:
        # The socket of a connection that is refused is gone before anybody can ask whose it was: known is who asked
        # for the name, and waited for the answer.
        self._attempts_seen += 1
        self._report(Attempt(host, port, protocol, asker or self._programs.only()))


def _enlarge_buffer(tap: socket.socket) -> None:
    """As much as the system allows for packets that wait; only root outside may have more than that."""
    for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
        with suppress(OSError):
            tap.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)


def _is_dns(packet: packet_capture.Packet) -> bool:
    """A question to the name server, or its answer."""
    return packet.kind == "udp" and DNS_PORT in (packet.port, packet.source_port)
