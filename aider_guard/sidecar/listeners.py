"""Who listens on a port of this machine: the user, and the process where the system tells it.

Linux tells the user of every socket (``/proc/net/tcp``, proc_pid_net(5)), but which process holds
one only to that process's own user and to root. macOS tells both only of one's own processes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from aider_guard.core.readings import Unavailable
from aider_guard.sidecar.here import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aider_guard.sidecar.here import Address

PROC: Final = Path("/proc")
SEARCH_SECONDS: Final = 0.05
_LISTENING: Final = "0A"


@dataclass(frozen=True)
class Listener:
    """A listening socket's owner. ``pid`` is 0 where the system does not tell it."""

    uid: int
    pid: int = 0
    inferred: bool = False
    """Whether ``pid`` is only the one Ollama server that this user runs."""


@dataclass(frozen=True)
class _Socket:
    address: Address
    uid: int
    inode: str


def find_listener(
    addresses: tuple[Address, ...],
    port: int,
    *,
    proc: Path = PROC,
    clock: Callable[[], float] = time.monotonic,
) -> Listener | Unavailable:
    """Who takes a connection to one of these addresses; the first address is asked for first."""
    if not (proc / "net" / "tcp").exists():
        return _ask_own_processes(addresses, port, clock)
    try:
        sockets = [
            *_listening(proc / "net" / "tcp", port),
            *_listening(proc / "net" / "tcp6", port),
        ]
    except OSError as error:
        return Unavailable(f"the system does not tell who listens ({error.strerror})")
    socket = _taking(sockets, addresses)
    if socket is None:
        return Unavailable(f"no process of this machine listens on port {port}")
    processes = _names(proc)
    pid = _holder(socket.inode, proc, processes, clock)
    if pid:
        return Listener(socket.uid, pid)
    servers = [pid for pid, name in processes if _is_server(proc, pid, name, socket.uid)]
    return Listener(socket.uid, *((servers[0], True) if len(servers) == 1 else ()))


def is_ollama_name(name: str) -> bool:
    """Whether a process of this name is Ollama: the server, one of its runners, its command line."""
    return name.lower().startswith("ollama")


def _is_server(proc: Path, pid: int, name: str, uid: int) -> bool:
    """Whether a process is an Ollama server of this user. Everybody may read command lines."""
    if not is_ollama_name(name):
        return False
    with contextlib.suppress(OSError):
        folder = proc / str(pid)
        words = (folder / "cmdline").read_bytes().split(b"\0")
        return words[1:2] in ([b"serve"], [b"start"]) and folder.stat().st_uid == uid
    return False


def _listening(table: Path, port: int) -> Iterator[_Socket]:
    """The listening sockets of one table. A system without IPv6 has no tcp6."""
    if not table.exists():
        return
    for line in table.read_text("ascii", "replace").splitlines()[1:]:
        match line.split():
            case [_, local, _, state, _, _, _, uid, _, inode, *_] if state == _LISTENING:
                address, _, local_port = local.partition(":")
                with contextlib.suppress(ValueError):
                    if int(local_port, 16) == port:
                        yield _Socket(_address(address), int(uid), inode)


def _address(text: str) -> Address:
    """Words of 32 bits, each in the processor's byte order. Raises ``ValueError``."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return parse_address(str(address)) or address


def _taking(sockets: Iterable[_Socket], addresses: tuple[Address, ...]) -> _Socket | None:
    """The socket that the kernel gives a connection to: the most exact one."""
    found = [
        (rank, place, index, socket)
        for place, address in enumerate(addresses)
        for index, socket in enumerate(sockets)
        if (rank := _rank(socket.address, address)) is not None
    ]
    return min(found)[-1] if found else None


def _rank(bound: Address, wanted: Address) -> int | None:
    if bound == wanted:
        return 0
    if not bound.is_unspecified:
        return None
    if bound.version == wanted.version:
        return 1
    return 2 if bound.version == 6 else None  # "::" takes IPv4 as well, unless told otherwise


def _holder(
    inode: str, proc: Path, processes: list[tuple[int, str]], clock: Callable[[], float]
) -> int:
    """The process that has the socket open, or 0 when none is found in time.

    Ollama is looked at first, and the first process of all last: it may hold sockets for others.
    """
    deadline, wanted = clock() + SEARCH_SECONDS, f"socket:[{inode}]"
    for pid, _name in sorted(processes, key=lambda one: (not is_ollama_name(one[1]), -one[0])):
        for file in _open_files(proc / str(pid) / "fd"):
            if file == wanted:
                return pid
            if clock() > deadline:
                return 0
    return 0


def _open_files(folder: Path) -> Iterator[str]:
    """What a process has open; nothing where it has ended or is not ours to look at."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                yield os.readlink(entry.path)


def _names(proc: Path) -> list[tuple[int, str]]:
    """The processes, with their short names."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                name = (entry / "comm").read_text("utf-8", "replace").strip()
                found.append((int(entry.name), name))
    return found


def _ask_own_processes(
    addresses: tuple[Address, ...], port: int, clock: Callable[[], float]
) -> Listener | Unavailable:
    """Without /proc: one's own processes say themselves what they listen on."""
    deadline = clock() + SEARCH_SECONDS
    processes = sorted(
        psutil.process_iter(["name"]), key=lambda one: not is_ollama_name(one.info["name"] or "")
    )
    for process in processes:
        if clock() > deadline:
            break
        with contextlib.suppress(psutil.Error, OSError):
            if _listens(process, addresses, port):
                return Listener(process.uids().real, process.pid)
    return Unavailable(f"this system does not tell this user who listens on port {port}")


def _listens(process: psutil.Process, addresses: tuple[Address, ...], port: int) -> bool:
    connections = getattr(process, "net_connections", None) or process.connections
    for connection in connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            bound = parse_address(connection.laddr.ip)
            if bound and any(_rank(bound, wanted) is not None for wanted in addresses):
                return True
    return False
