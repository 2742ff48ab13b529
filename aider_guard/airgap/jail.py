"""Makes the namespaces of an air gap, and opens the sockets in them by which the guard serves programs inside.

No root is needed: they belong to a user namespace of their own. They are made in a child process, which sends the
descriptors to the guard and ends. A socket stays in the network it was made in, whichever process has it.
"""

from __future__ import annotations

import array
import fcntl
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import bpf, filter_install, kernel, mounts, packet_capture
from aider_guard.airgap.dns import PORT as DNS_PORT
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.own_files import own_files
from aider_guard.airgap.proc import diag_socket

_KINDS: Final = (kernel.CLONE_NEWUSER, kernel.CLONE_NEWNET, kernel.CLONE_NEWNS)


@dataclass
class Namespaces:
    """The descriptors of a jail's namespaces, which keep them alive while no process is in them."""

    user: int
    net: int
    mount: int

    def enter(self) -> None:
        """Move this process into the jail for good. For a process with one thread, before ``filter_calls``.

        Raises OSError.
        """
        folder = os.getcwd()
        for fd, kind in zip((self.user, self.net, self.mount), _KINDS, strict=True):
            kernel.setns(fd, kind)
        os.chdir(folder)  # setns(2) has moved this process to the root folder
        kernel.keep_capabilities(KEPT if os.geteuid() == 0 else frozenset())

    def close(self) -> None:
        """Close the descriptors. Twice is no error."""
        for name in ("user", "net", "mount"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


def filter_program(*, asks: bool) -> bytes:
    """The filter beside the namespaces. Raises OSError where this machine's calls are not known."""
    calls = bpf.CALLS.get(platform.machine())
    if calls is None:
        raise OSError(f"the system calls of {platform.machine()} are not known")
    return bpf.program_in_a_jail(calls, asks=asks)


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
_CAN_ASK, _CANNOT_ASK = b"a", b"n"

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
    can_ask: bool
    """Whether the guard can be asked about calls here; else there are no Unix sockets inside."""

    def close(self) -> None:
        """Close everything. Twice is no error."""
        self.namespaces.close()
        for sock in (self.tap, self.diag, *self.dns, *self.spare, *self.allowed):
            sock.close()
        while self.tables:
            os.close(self.tables.popitem()[1])


class NamespaceSetup:
    """Makes a jail in a child process. As a ``with``: ``finish`` gives the jail, leaving it ends the child.

    The guard's own files, and others that it starts, are read-only in it, but for the *writable* folders
    (own_files.py).
    """

    def __init__(
        self,
        allowed: Sequence[Address],
        environment: Mapping[str, str],
        writable: Sequence[str],
        started: Sequence[str] = (),
    ) -> None:
        self._ours, theirs = socket.socketpair()
        self._channel_fd = theirs.fileno()
        self._child = os.fork()
        if self._child == 0:
            _run_child(theirs, allowed, environment, writable, started)
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
        can_take = self._can_take_descriptors()
        self._ours.send(b"m")
        message, fds = self._receive(within_seconds)
        answer, _ = self._receive(within_seconds)
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
            can_take and answer == _CAN_ASK,
        )

    def _can_take_descriptors(self) -> bool:
        """Whether the guard may take a descriptor of a process inside (ptrace(2), kernel.yama.ptrace_scope)."""
        try:
            process = kernel.pidfd_open(self._child)
            try:
                os.close(kernel.take_fd(process, self._channel_fd))
            finally:
                os.close(process)
        except OSError:
            return False
        return True

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


def _run_child(
    channel: socket.socket,
    allowed: Sequence[Address],
    environment: Mapping[str, str],
    writable: Sequence[str],
    started: Sequence[str],
) -> None:
    """Run in the child: make the jail, send its descriptors, and end. Never returns."""
    try:
        files = own_files(environment, os.getcwd(), started)
        _make_jail(channel, allowed, files, writable)
    except BaseException as error:  # noqa: BLE001  # reported to the parent
        number = error.errno or 0 if isinstance(error, OSError) else 0
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with suppress(OSError):
            channel.send(f"!{number} {words}".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _make_jail(
    channel: socket.socket,
    allowed: Sequence[Address],
    files: Sequence[str],
    writable: Sequence[str],
) -> None:
    own = mounts.readable_by_owner()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
    channel.send(b"u")
    if channel.recv(1) != b"m":
        return
    mounts.forbid_changes(files, writable)
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
    socket.send_fds(channel, [bytes([len(dns)])], fds)
    # Tried here first: where no filter can be installed, this layer is not chosen.
    kernel.forbid_new_privileges()
    can_ask = filter_install.can_ask(filter_program(asks=True))
    if not can_ask:
        kernel.filter_calls(filter_program(asks=False))
    os.write(channel.fileno(), _CAN_ASK if can_ask else _CANNOT_ASK)  # send(2) would be asked about


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
