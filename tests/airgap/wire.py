"""A machine with a network card, and a neighbour at the other end of its wire: what leaves the machine comes there.

Both are network namespaces in a user namespace of their own, which root does not need and from which nothing else is
reached. ``python -m airgap.wire CODE`` runs a program behind a guard of the seccomp layer on this machine, and tells
what the neighbour saw and reached.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airgap.seccomp_world import ended, world

from aider_guard.airgap import kernel
from aider_guard.airgap.jail import write_maps

OWN, OWN6 = "192.0.2.1", "fe80::1"  # documentation, RFC 5737; link-local
NEIGHBOUR, NEIGHBOUR6 = "192.0.2.2", "fe80::2"
CARD, ITS_CARD = "wire0", "wire1"
_ADDRESSES = {
    CARD: (OWN, OWN6, "02:00:00:00:00:01"),
    ITS_CARD: (NEIGHBOUR, NEIGHBOUR6, "02:00:00:00:00:02"),
}
_LAST_GROUP, _LAST_GROUP6 = "239.255.0.1", "ff12::1"
_ENDS = (socket.inet_aton(_LAST_GROUP).hex(), socket.inet_pton(socket.AF_INET6, _LAST_GROUP6).hex())
"""The kernel reports the groups that programs joined in their order: after these nothing comes."""
_CAP_SECONDS = 20.0
_PR_SET_PDEATHSIG, _PR_CAP_AMBIENT, _CAP_NET_ADMIN = 1, 47, 12  # linux/prctl.h, linux/capability.h
_ALL_PROTOCOLS = 3  # ETH_P_ALL, linux/if_ether.h


@dataclass
class Outcome:
    """``told`` is what the program told; ``reached`` is which of the machine's addresses the neighbour reached."""

    told: Any
    reached: dict[str, bool]
    frames: list[str]
    """What came over the wire, in hexadecimal digits; the last ones are the witness's own proof that it sees them."""
    attempts: list[tuple[str, int, str]]

    @property
    def connections_and_datagrams(self) -> list[str]:
        """Frames of TCP and UDP, over IPv4 and IPv6 (RFC 791, RFC 8200)."""
        kinds = {"0800": 46, "86dd": 40}
        found = ((one, kinds.get(one[24:28], 0)) for one in self.frames)
        return [one for one, at in found if at and one[at : at + 2] in ("06", "11")]

    def has_joined(self, group: str) -> bool:
        """Whether the neighbour was told that a program listens to this group."""
        family = socket.AF_INET6 if ":" in group else socket.AF_INET
        number = socket.inet_pton(family, group).hex()
        return any(number in one for one in self.frames)


def on_a_wire(code: str, arguments: object = None) -> Outcome:
    """Run a program inside, on a machine with a neighbour. It tells a port, or 0; the neighbour connects to it.

    It skips the test where this system has no such namespaces, or no ``ip``.
    """
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "airgap.wire", code, json.dumps(arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=_CAP_SECONDS,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout))


def _let_programs_set_up() -> None:
    """Let ``ip``, which this process starts, set networks up: the programs of an ordinary user lose that right."""
    head, six = (
        struct.pack("Ii", 0x20080522, 0),
        ctypes.create_string_buffer(24),
    )  # capget(2), version 3
    libc = kernel.libc()
    libc.capget(head, six)
    effective, permitted, _, *rest = struct.unpack("6I", six.raw)
    libc.capset(head, struct.pack("6I", effective, permitted, permitted, *rest))
    libc.prctl(_PR_CAP_AMBIENT, 2, _CAP_NET_ADMIN, 0, 0)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, stdout=subprocess.DEVNULL)


def _set_up(card: str) -> None:
    """Everything that the kernel would send on its own is set or off: each frame is then of a program's making."""
    address, address6, hardware = _ADDRESSES[card]
    (other,) = (found for name, found in _ADDRESSES.items() if name != card)
    _ip("link set lo up")
    _ip(f"link set {card} address {hardware} addrgenmode none")
    _ip(f"link set {card} up")
    _ip(f"address add {address}/24 dev {card}")
    _ip(f"-6 address add {address6}/64 dev {card} nodad")
    for there in other[:2]:
        _ip(f"neighbour replace {there} lladdr {other[2]} dev {card} nud permanent")
        _ip(f"route add default via {there} dev {card}")


def _be_the_neighbour(channel: socket.socket) -> None:
    """Run in a process of its own, which ends with the machine's: tell which addresses it reaches, then all frames."""
    kernel.libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    kernel.unshare(kernel.CLONE_NEWNET)
    channel.send(b"here")
    channel.recv(16)  # the wire is there
    _set_up(ITS_CARD)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
        tap.bind((ITS_CARD, _ALL_PROTOCOLS))
        tap.settimeout(5.0)
        channel.send(b"ready")
        while asked := channel.recv(256).decode():
            host, _, port = asked.rpartition(" ")
            channel.send(b"reached" if _reaches(host, int(port)) else b"no")
        ours, frames = _ADDRESSES[CARD][2].replace(":", ""), list[str]()
        while not all(any(end in one for one in frames) for end in _ENDS):
            frames.append(tap.recv(2048).hex())
        channel.send(json.dumps([one for one in frames if one[12:24] == ours]).encode())


def _reaches(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(0.5)
        scope = (0, socket.if_nametoindex(ITS_CARD)) if family == socket.AF_INET6 else ()
        return client.connect_ex((host, port, *scope)) == 0


def _in_a_child(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def _make() -> socket.socket:
    """Move this process to a machine with a neighbour; returns the channel to the neighbour. Raises OSError."""
    itself, (ours, theirs) = os.getpid(), socket.socketpair()
    mapper_ready, mapper_go = os.pipe()

    def write_our_maps() -> None:
        os.close(mapper_go)
        if os.read(mapper_ready, 1):
            write_maps(itself)

    mapper = _in_a_child(write_our_maps)
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET)
    os.write(mapper_go, b".")
    _, status = os.waitpid(mapper, 0)
    if status:
        raise OSError("the users of a namespace could not be mapped")
    _let_programs_set_up()
    neighbour = _in_a_child(lambda: _be_the_neighbour(theirs))
    theirs.close()
    if ours.recv(16) != b"here":
        raise OSError("a neighbour has no network of its own")
    _ip(f"link add {CARD} type veth peer name {ITS_CARD} netns {neighbour}")
    _set_up(CARD)
    ours.send(b"wire")
    if ours.recv(16) != b"ready":
        raise OSError("a neighbour found no wire")
    return ours


@contextlib.contextmanager
def _last_groups() -> Iterator[None]:
    """Join them, not from inside: for the length of a ``with``, as the kernel reports a moment later."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        value = socket.inet_aton(_LAST_GROUP) + socket.inet_aton(OWN)
        four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, value)
        value = socket.inet_pton(socket.AF_INET6, _LAST_GROUP6)
        value += socket.if_nametoindex(CARD).to_bytes(4, sys.byteorder)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, value)
        yield


def main() -> None:
    if sys.argv[1] != "--made":
        try:
            channel = _make()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no machine with a neighbour: {error}", file=sys.stderr)
            raise SystemExit(77) from None
        os.set_inheritable(channel.fileno(), True)
        kernel.libc().prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)  # none any more
        # A new program of an ordinary user has none of the rights that making the namespaces gave.
        again = [sys.executable, "-m", "airgap.wire", "--made", str(channel.detach())]
        os.execv(sys.executable, [*again, *sys.argv[1:]])
    with socket.socket(fileno=int(sys.argv[2])) as channel, world() as here:
        reached = {}
        with ended(here.start(sys.argv[3], json.loads(sys.argv[4]))) as program:
            told = here.next(program)
            for host in (OWN, OWN6) if told else ():
                channel.send(f"{host} {told}".encode())
                reached[host] = channel.recv(16) == b"reached"
            with _last_groups():
                channel.shutdown(socket.SHUT_WR)
                frames = json.loads(channel.makefile().read())
        attempts = [(one.host, one.port, one.protocol) for one in here.attempts]
    print(json.dumps({"told": told, "reached": reached, "frames": frames, "attempts": attempts}))


if __name__ == "__main__":
    main()
