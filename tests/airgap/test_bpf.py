"""The filter's instructions, run here as the kernel does, on tables of calls and on random ones."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.bpf import ALLOW, ASK, CALLS, SyscallNumbers, program, program_in_a_jail

MACHINES = sorted(CALLS)
Program = Callable[[SyscallNumbers], bytes]
JAILS: tuple[Program, ...] = tuple(partial(program_in_a_jail, asks=asks) for asks in (True, False))
"""The filters beside a namespace: the one that asks, and the one for kernels that cannot."""


def verdict(
    machine: str,
    number: int,
    *arguments: int,
    architecture: int | None = None,
    made: Program = program,
) -> int:
    """What the instructions return, by an interpreter of the four kinds they use (classic BPF, bpf(4))."""
    calls = CALLS[machine]
    six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    shown = calls.architecture if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, shown, 0, *six)
    instructions = list(struct.iter_unpack("<HBBI", made(calls)))
    value, at = 0, 0
    while True:
        code, then, otherwise, k = instructions[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            value &= k
        elif code in {0x15, 0x35}:
            at += then if (value == k if code == 0x15 else value >= k) else otherwise
        else:
            assert code == 0x06
            return int(k)


def refused(error: int) -> int:
    return 0x00050000 | error


EPERM = refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_could_lead_out_is_asked(machine: str) -> None:
    """Each call that takes an address waits for the guard, whatever else it is given."""
    calls = CALLS[machine]
    for number in (calls.connect, calls.listen, calls.sendmsg, calls.sendmmsg):
        assert verdict(machine, number, 3, 0, 0) == ASK


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("pointer", [1, 0x7FFF0000, 1 << 32, 0xFFFF << 48])
def test_sendto_is_asked_with_an_address_only(machine: str, pointer: int) -> None:
    """Both halves of the pointer count; without one it is send(2), to the address that the socket is connected to."""
    sendto = CALLS[machine].sendto

    assert verdict(machine, sendto, 3, 1, 1, 0, pointer, 16) == ASK
    assert verdict(machine, sendto, 3, 1, 1, 0, 0, 16) == ALLOW


SOCKETS = [
    (1, 1, 0, ASK),
    (1, 2 | 0o2000000, 0, ASK),  # with SOCK_CLOEXEC
    (2, 1 | 0o4000, 0, ASK),  # with SOCK_NONBLOCK
    (2, 1, 6, ASK),
    (10, 1, 262, ASK),
    (10, 2, 17, ASK),
    (2, 2 | 0o2004000, 0, ASK),
    (2, 2, 1, ASK),
    (16, 3, 0, ALLOW),
    (2, 1, 132, refused(errno.EPROTONOSUPPORT)),  # SCTP
    (2, 1, 256, refused(errno.EPROTONOSUPPORT)),  # SMC
    (2, 2, 115, refused(errno.EPROTONOSUPPORT)),  # L2TP
    (2, 3, 255, refused(errno.EPERM)),  # raw
    (2, 5, 132, refused(errno.EPERM)),
    (2, 10, 3, refused(errno.EPERM)),  # the old SOCK_PACKET
    (17, 3, 3, refused(errno.EAFNOSUPPORT)),  # AF_PACKET
    (40, 1, 0, refused(errno.EAFNOSUPPORT)),  # AF_VSOCK
    (31, 1, 3, refused(errno.EAFNOSUPPORT)),  # AF_BLUETOOTH
    (44, 3, 0, refused(errno.EAFNOSUPPORT)),  # AF_XDP
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("family", "kind", "protocol", "expected"), SOCKETS)
def test_sockets(machine: str, family: int, kind: int, protocol: int, expected: int) -> None:
    """Only sockets of which the guard knows what they do; the upper halves of the arguments change nothing."""
    number = CALLS[machine].socket

    assert verdict(machine, number, family, kind, protocol) == expected
    assert (
        verdict(machine, number, family | 1 << 40, kind | 1 << 63, protocol | 1 << 32) == expected
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_pairs(machine: str) -> None:
    """Those of Unix sockets; TIPC's would be the other family that has some."""
    number = CALLS[machine].socketpair
    assert [verdict(machine, number, family, 1, 0) for family in (1, 1 | 1 << 32)] == [ALLOW] * 2
    assert verdict(machine, number, 30, 1, 0) == refused(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("level", "name", "expected"),
    [
        (0, 4, refused(errno.EPERM)),  # IP_OPTIONS
        (1, 25, refused(errno.EPERM)),  # SO_BINDTODEVICE
        (41, 57, refused(errno.EPERM)),  # IPV6_RTHDR
        (41, 50, refused(errno.EPERM)),  # IPV6_PKTINFO
        (1, 60, refused(errno.ENOPROTOOPT)),  # SO_ZEROCOPY
        (6, 30, ALLOW),  # TCP_FASTOPEN_CONNECT: the guard judges the connection that comes
        (0, 35, ASK),  # IP_ADD_MEMBERSHIP
        (41, 20, ASK),  # IPV6_JOIN_GROUP
        (1, 2, ALLOW),  # SO_REUSEADDR
        (0, 1, ALLOW),  # IP_TOS
        (6, 4, ALLOW),  # TCP_KEEPIDLE: another level's 4
        (41, 26, ALLOW),  # IPV6_V6ONLY
        (41, 25, ALLOW),
    ],
)
def test_options(machine: str, level: int, name: int, expected: int) -> None:
    """Options that lead a packet elsewhere than its address are refused, each at its own level only."""
    assert verdict(machine, CALLS[machine].setsockopt, 3, level, name) == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_no_keys_are_put_into_a_terminal(machine: str, high: int) -> None:
    """Beside a namespace and without one, and by 32 bit programs; what the kernel does not look at changes nothing."""
    calls = CALLS[machine]
    for made in (program, *JAILS):
        for request in (0x5412, 0x541C):  # TIOCSTI, TIOCLINUX
            assert verdict(machine, calls.ioctl, 0, high | request, made=made) == EPERM
        for request in (
            0x5401,
            0x5413,
            0x541B,
            0x80045412,
        ):  # TCGETS, TIOCGWINSZ, FIONREAD, another's 0x12
            assert verdict(machine, calls.ioctl, 0, high | request, made=made) == ALLOW
    other = partial(verdict, machine, architecture=0x40000003, made=JAILS[0])
    assert (other(54, 0, 0x5412), other(54, 0, 0x541C), other(54, 0, 0x5413)) == (
        EPERM,
        EPERM,
        ALLOW,
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_ways_around_are_absent(machine: str) -> None:
    """Rings, other programs' keys, x32 and 32 bit calls do not get through."""
    request_key = CALLS[machine].request_key

    absent = {verdict(machine, number) for number in (425, 426, 427, request_key)}
    x32 = {verdict(machine, 0x40000000 | number) for number in (42, 45, 425)}
    other = verdict(machine, 3, architecture=0x40000003)

    assert absent == x32 == {refused(errno.ENOSYS)}
    assert other == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_filter_may_be_added_but_no_listener(machine: str) -> None:
    """A sandbox inside, such as a browser's, adds filters; one with a listener could answer in the guard's place."""
    seccomp = CALLS[machine].seccomp
    busy = refused(errno.EBUSY)
    for made in (program, JAILS[0]):
        for flags in (8, 8 | 16, 8 | 32, 0xFFFFFFFF, 1 << 32 | 8):
            assert verdict(machine, seccomp, 1, flags, made=made) == busy
        for operation, flags in ((1, 0), (1, 1), (1, 1 << 35), (0, 8), (2, 8), (3, 0)):
            assert verdict(machine, seccomp, operation, flags, made=made) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 600), arguments=st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_everything_else_is_let_through(machine: str, number: int, arguments: list[int]) -> None:
    """No other call is looked at, and every path through the instructions ends."""
    known = {*asdict(CALLS[machine]).values(), 425, 426, 427}

    found = verdict(machine, number, *arguments)

    assert number in known or found == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_short_enough(machine: str) -> None:
    """A jump reaches 255 instructions, and every call of every program passes them."""
    assert len(program(CALLS[machine])) // 8 < 180


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("made", JAILS)
def test_beside_a_namespace(machine: str, made: Program) -> None:
    """What a network namespace holds is let through, and what it does not hold is refused, for 32 bit programs too."""
    calls = CALLS[machine]

    def beside(number: int, *arguments: int, other: bool = False) -> int:
        architecture = 0x40000003 if other else None
        return verdict(machine, number, *arguments, architecture=architecture, made=made)

    for number in (calls.listen, calls.socketpair, 0, 1, 59):
        assert beside(number, 3, 1, 1, 0, 1) == ALLOW
    assert [beside(calls.socket, family) for family in (2, 10, 16, 17)] == [ALLOW] * 4
    assert {beside(calls.socket, family) for family in (31, 39, 40, 42, 44)} == {
        refused(errno.EAFNOSUPPORT)
    }
    absent = {refused(errno.ENOSYS)}
    assert {beside(number) for number in (425, 426, 427, calls.request_key)} == absent
    assert {beside(number, other=True) for number in (425, *calls.other_table)} == absent
    assert beside(5, other=True) == ALLOW
    assert len(made(calls)) // 8 < 150


@pytest.mark.parametrize("machine", MACHINES)
def test_unix_sockets_beside_a_namespace(machine: str) -> None:
    """The guard is asked about each address; where the kernel cannot ask, there are pairs of streams only."""
    calls = CALLS[machine]
    asking, other = (partial(verdict, machine, made=made) for made in JAILS)

    for number in (calls.connect, calls.sendmsg, calls.sendmmsg):
        assert (asking(number, 3, 1, 1), other(number, 3, 1, 1)) == (ASK, ALLOW)
    assert (asking(calls.sendto, 3, 1, 1, 0, 1), asking(calls.sendto, 3, 1, 1)) == (ASK, ALLOW)
    assert (asking(calls.socket, 1, 2), other(calls.socket, 1, 2)) == (
        ALLOW,
        refused(errno.EACCES),
    )
    kinds = [other(calls.socketpair, 1, kind | 0o2004000) for kind in (1, 5, 2, 3)]
    assert kinds == [ALLOW, ALLOW, refused(errno.EACCES), refused(errno.EACCES)]
    assert asking(calls.socketpair, 1, 2) == ALLOW
