"""The filters of system calls as bytes of classic BPF, which the kernel runs for each call of a program inside.

They see numbers only: the guard reads what is behind a pointer (airgap/syscalls.py). By themselves they refuse what no
program needs here, and what would lead around the calls that wait for the guard.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# linux/seccomp.h
ALLOW: Final = 0x7FFF0000
ASK: Final = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
_ERRNO: Final = 0x00050000

# struct seccomp_data (linux/seccomp.h): number, architecture, instruction pointer, six arguments of eight bytes. Both
# machines are little-endian, so an argument's lower half comes first.
NUMBER: Final = 0
ARCHITECTURE: Final = 4
ARGUMENTS: Final = 16

# linux/bpf_common.h: load a word, and its lower bits, compare, return
_LOAD: Final = 0x20
_AND: Final = 0x54
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One struct sock_filter, linux/filter.h; the jumps count instructions from the next one on."""
    return struct.pack("<HBBI", code, then, otherwise, value)


def load(offset: int) -> bytes:
    """Load a word of the call's data."""
    return _instruction(_LOAD, offset)


def argument(number: int) -> bytes:
    """Load the lower half of an argument: of an int the kernel itself reads no more."""
    return load(ARGUMENTS + 8 * number)


def lower_bits(mask: int) -> bytes:
    """Keep only these bits of the loaded word."""
    return _instruction(_AND, mask)


def give(verdict: int) -> bytes:
    """End with this verdict."""
    return _instruction(_RETURN, verdict)


def refuse(error: int) -> bytes:
    """End: the call fails with this error."""
    return give(_ERRNO | error)


def when(value: int, block: list[bytes]) -> list[bytes]:
    """Run the block where this value was loaded."""
    return [_instruction(_EQUAL, value, 0, len(block)), *block]


def unless(value: int, block: list[bytes]) -> list[bytes]:
    """Run the block where another value was loaded."""
    return [_instruction(_EQUAL, value, len(block), 0), *block]


def when_at_least(value: int, block: list[bytes]) -> list[bytes]:
    """Run the block where this value or a larger one was loaded."""
    return [_instruction(_AT_LEAST, value, 0, len(block)), *block]


def when_any(values: Iterable[int], block: list[bytes]) -> list[bytes]:
    """Run the same block for each of the values; it must end with a return."""
    return [instruction for value in values for instruction in when(value, block)]


_X32: Final = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h: the same calls under other numbers
# asm-generic/unistd.h, the same on every architecture. A ring sends without any call that could be asked about; and
# one that was made elsewhere may be handed in.
_IO_URING: Final = (425, 426, 427)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_HELD_TOO: Final = (17, 38)  # AF_PACKET, of a network namespace; AF_ALG, the kernel's ciphers
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_TYPE_MASK = 1, 2, 0xF
_CONNECTED_KINDS: Final = (_SOCK_STREAM, 5)  # SOCK_SEQPACKET, linux/net.h
# linux/in.h. Others connect by other calls than connect(2), as SCTP by setsockopt(2), or need root anyway.
_STREAMS: Final = (0, 6, 262)  # TCP; MPTCP, in whose place the guard makes TCP
_DATAGRAMS: Final = (0, 17, 1, 58)  # UDP; echo requests, which are refused and named when sent

_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3  # seccomp(2), linux/seccomp.h

_KEYS_OF_OTHERS: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX (asm-generic/ioctls.h) put keys into a terminal, for its next reader: in a run
without a conversation the user's shell, outside. The kernel looks at 32 bits of a request."""
_OTHER_IOCTL: Final = 54  # of 32 bit programs: asm/unistd_32.h, asm/unistd32.h

_NO: Final = _ERRNO | errno.EPERM
_UNKNOWN: Final = _ERRNO | errno.ENOPROTOOPT
_OPTIONS: Final = (
    (0, 4, _NO),  # IP_OPTIONS: a source route goes to its first hop, whatever the address says
    (0, 35, ASK),  # IP_ADD_MEMBERSHIP: the kernel itself tells the neighbours which group
    (0, 39, ASK),  # IP_ADD_SOURCE_MEMBERSHIP, likewise
    (0, 42, ASK),  # MCAST_JOIN_GROUP
    (0, 46, ASK),  # MCAST_JOIN_SOURCE_GROUP
    (0, 50, _NO),  # IP_UNICAST_IF: 127.0.0.1 through a network card
    (1, 25, _NO),  # SO_BINDTODEVICE, likewise, and undoes what the guard sets
    (1, 60, _UNKNOWN),  # SO_ZEROCOPY: the guard sends a copy, of which no word comes back
    (1, 62, _NO),  # SO_BINDTOIFINDEX
    (41, 6, _NO),  # IPV6_2292PKTOPTIONS: carries a routing header
    (41, 20, ASK),  # IPV6_JOIN_GROUP
    (41, 27, ASK),  # IPV6_JOIN_ANYCAST
    (41, 42, ASK),  # MCAST_JOIN_GROUP
    (41, 46, ASK),  # MCAST_JOIN_SOURCE_GROUP
    (41, 50, _NO),  # IPV6_PKTINFO: names a network card
    (41, 57, _NO),  # IPV6_RTHDR
    (41, 76, _NO),  # IPV6_UNICAST_IF
)
"""Level, name and verdict of options of a socket (linux/in.h, linux/in6.h, asm-generic/socket.h)."""


@dataclass(frozen=True)
class SyscallNumbers:
    """The numbers of the calls on one kind of machine (asm/unistd_64.h; asm-generic/unistd.h)."""

    architecture: int  # AUDIT_ARCH_…, linux/audit.h
    socket: int
    socketpair: int
    connect: int
    listen: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    setsockopt: int
    ioctl: int
    request_key: int
    seccomp: int
    other_table: tuple[int, ...]
    """What makes sockets, connects, sends, looks names up or asks, by the numbers of this machine's 32 bit programs."""


CALLS: Final[Mapping[str, SyscallNumbers]] = {
    "x86_64": SyscallNumbers(
        architecture=0xC000003E,
        socket=41,
        socketpair=53,
        connect=42,
        listen=50,
        sendto=44,
        sendmsg=46,
        sendmmsg=307,
        setsockopt=54,
        ioctl=16,
        request_key=249,
        seccomp=317,
        # socketcall, socket, request_key, connect, sendto, sendmsg, sendmmsg, seccomp: asm/unistd_32.h
        other_table=(102, 359, 287, 362, 369, 370, 345, 354),
    ),
    "aarch64": SyscallNumbers(
        architecture=0xC00000B7,
        socket=198,
        socketpair=199,
        connect=203,
        listen=201,
        sendto=206,
        sendmsg=211,
        sendmmsg=269,
        setsockopt=208,
        ioctl=29,
        request_key=218,
        seccomp=277,
        # socket, request_key, connect, sendto, sendmsg, sendmmsg, seccomp: asm/unistd32.h
        other_table=(281, 310, 283, 290, 296, 374, 383),
    ),
}
"""By the name that uname(2) gives the machine."""


def program(calls: SyscallNumbers) -> bytes:
    """The instructions for this kind of machine, eight bytes each.

    They say ASK for connect, listen, sendmsg, sendmmsg, sendto with an address, a new Unix socket or one of the
    internet, which the guard makes, and joining a group of receivers. Other architectures' calls (32 bit programs) get
    EPERM, x32 and io_uring ENOSYS, sockets that the guard does not know what they do EAFNOSUPPORT, EPROTONOSUPPORT or
    EPERM, options that lead a packet away EPERM, and so do keys that are put into a terminal. A filter with a listener
    of its own gets EBUSY: it would be asked in the guard's place once the guard's listener is closed, and let calls go
    on. All other calls are allowed, bind among them.
    """
    asked = (calls.connect, calls.listen, calls.sendmsg, calls.sendmmsg)
    # A kernel that resolves a name for a program does it by a program of root's, outside (request-key(8)).
    absent = (*_IO_URING, calls.request_key)
    return b"".join(
        [
            load(ARCHITECTURE),
            *unless(calls.architecture, [refuse(errno.EPERM)]),
            load(NUMBER),
            *when_at_least(_X32, [refuse(errno.ENOSYS)]),
            *when_any(absent, [refuse(errno.ENOSYS)]),
            *when_any(asked, [give(ASK)]),
            *when(calls.sendto, _ask_if_pointer(4)),
            *when(calls.socket, _socket()),
            *when(calls.socketpair, _socketpair()),
            *when(calls.setsockopt, _setsockopt()),
            *when(calls.ioctl, _ioctl()),
            *when(calls.seccomp, _seccomp()),
            give(ALLOW),
        ]
    )


def program_in_a_jail(calls: SyscallNumbers, *, asks: bool) -> bytes:
    """The instructions beside a network namespace: they refuse what the namespace does not restrict.

    These are sockets of families that belong to no network namespace (to a virtual machine's host, say: EAFNOSUPPORT),
    rings, which make sockets without a call, lookups by a program of root's (ENOSYS), and keys that are put into a
    terminal (EPERM). Unix sockets do not belong to it either, where they are files: with *asks* they say ASK for
    connect, sendmsg, sendmmsg and sendto with an address, and EBUSY as ``program`` does; without it, for kernels that
    cannot ask, there are no Unix sockets but pairs of streams (EACCES).
    """
    held = (*([_AF_UNIX] if asks else []), _AF_INET, _AF_INET6, _AF_NETLINK, *_HELD_TOO)
    absent = (*_IO_URING, calls.request_key)
    sockets = [
        argument(0),
        *when_any(held, [give(ALLOW)]),
        *when(_AF_UNIX, [refuse(errno.EACCES)]),
        refuse(errno.EAFNOSUPPORT),
    ]
    unix_sockets = [
        *when_any((calls.connect, calls.sendmsg, calls.sendmmsg), [give(ASK)]),
        *when(calls.sendto, _ask_if_pointer(4)),
        *when(calls.seccomp, _seccomp()),
    ]
    if not asks:
        unix_sockets = when(calls.socketpair, _pairs_of_streams())
    return b"".join(
        [
            load(ARCHITECTURE),
            *unless(
                calls.architecture,
                [
                    load(NUMBER),
                    *when_any((*_IO_URING, *calls.other_table), [refuse(errno.ENOSYS)]),
                    *when(_OTHER_IOCTL, _ioctl()),
                    give(ALLOW),
                ],
            ),
            load(NUMBER),
            *when_at_least(_X32, [refuse(errno.ENOSYS)]),
            *when_any(absent, [refuse(errno.ENOSYS)]),
            *when(calls.socket, sockets),
            *unix_sockets,
            *when(calls.ioctl, _ioctl()),
            give(ALLOW),
        ]
    )


def _ask_if_pointer(number: int) -> list[bytes]:
    """Ask when this argument is not NULL: both its halves count."""
    offset = ARGUMENTS + 8 * number
    both = [load(offset + 4), *when(0, [give(ALLOW)])]
    return [load(offset), *when(0, both), give(ASK)]


def _socket() -> list[bytes]:
    """socket(2): family, type, protocol."""
    internet = [
        argument(1),
        lower_bits(_SOCK_TYPE_MASK),
        *when(_SOCK_STREAM, _ask_for(2, _STREAMS, errno.EPROTONOSUPPORT)),
        *when(_SOCK_DGRAM, _ask_for(2, _DATAGRAMS, errno.EPROTONOSUPPORT)),
        refuse(errno.EPERM),
    ]
    return [
        argument(0),
        *when(_AF_UNIX, [give(ASK)]),
        *when(_AF_NETLINK, [give(ALLOW)]),
        *when_any((_AF_INET, _AF_INET6), internet),
        refuse(errno.EAFNOSUPPORT),
    ]


def _socketpair() -> list[bytes]:
    """socketpair(2): family. Another family's pair, such as TIPC's, is a way to others of its kind."""
    return [argument(0), *when(_AF_UNIX, [give(ALLOW)]), refuse(errno.EAFNOSUPPORT)]


def _pairs_of_streams() -> list[bytes]:
    """socketpair(2): family, type. One of datagrams could send to any address."""
    return [
        argument(1),
        lower_bits(_SOCK_TYPE_MASK),
        *when_any(_CONNECTED_KINDS, [give(ALLOW)]),
        refuse(errno.EACCES),
    ]


def _setsockopt() -> list[bytes]:
    """setsockopt(2): descriptor, level, name."""
    block = []
    for level in sorted({level for level, _, _ in _OPTIONS}):
        named = [(name, verdict) for at, name, verdict in _OPTIONS if at == level]
        judged = [one for name, verdict in named for one in when(name, [give(verdict)])]
        block += when(level, [argument(2), *judged, give(ALLOW)])
    return [argument(1), *block, give(ALLOW)]


def _ioctl() -> list[bytes]:
    """ioctl(2): descriptor, request."""
    return [argument(1), *when_any(_KEYS_OF_OTHERS, [refuse(errno.EPERM)]), give(ALLOW)]


def _seccomp() -> list[bytes]:
    """seccomp(2): operation, flags. The kernel, too, says EBUSY while the guard's listener is there."""
    with_listener = [
        argument(1),
        lower_bits(_NEW_LISTENER),
        *when(_NEW_LISTENER, [refuse(errno.EBUSY)]),
        give(ALLOW),
    ]
    return [argument(0), *when(_SET_MODE_FILTER, with_listener), give(ALLOW)]


def _ask_for(number: int, values: Iterable[int], otherwise: int) -> list[bytes]:
    return [argument(number), *when_any(values, [give(ASK)]), refuse(otherwise)]
