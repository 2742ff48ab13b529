"""Reads Linux's tables of sockets, ``/proc/net/tcp`` and its like, and finds the process that has a socket open.

The tables are those of proc_pid_net(5): one for each kind and version of the internet protocol, of one network.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Kind = Literal["tcp", "udp"]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PROC: Final = Path("/proc")
LISTENING, UNCONNECTED = b"0A", b"07"  # TCP_LISTEN and TCP_CLOSE, net/tcp_states.h
_CHUNK_BYTES: Final = 1 << 15
_WORD_DIGITS: Final = 8


@dataclass(frozen=True)
class SocketRow:
    """One socket of a table. ``address`` is the one it is bound to, that of IPv4 where it is one within IPv6."""

    address: IpAddress
    remote_port: int
    uid: int
    inode: int
    """The socket's number, as it is in ``/proc/PID/fd``."""


def rows(table: bytes, port: int, *states: bytes) -> Iterator[SocketRow]:
    """The sockets that have this port of their own, in one of these states if any are given.

    *table* is one table, or several in a row. Lines that cannot be read are passed over.
    """
    ending = b":%04X" % port
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 10 or not fields[1].endswith(ending):
            continue
        if states and fields[3] not in states:
            continue
        with suppress(ValueError):
            remote_port = int(fields[2].rpartition(b":")[2], 16)
            address = _address(fields[1].removesuffix(ending).decode())
            yield SocketRow(address, remote_port, int(fields[7]), int(fields[9]))


def _address(digits: str) -> IpAddress:
    """The kernel prints words of 32 bits, each in the processor's byte order. Raises ValueError."""
    words = [
        int(digits[at : at + _WORD_DIGITS], 16).to_bytes(4, sys.byteorder)
        for at in range(0, len(digits), _WORD_DIGITS)
    ]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address


def has_server(table: bytes, kind: Kind, port: int) -> bool:
    """Whether a socket of this table waits on this port for any sender."""
    return any(rows(table, port, LISTENING if kind == "tcp" else UNCONNECTED))


def read_tables(
    folder: Path,
    kind: Kind,
    *,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Both tables of this kind in the folder, of IPv4 and IPv6 in a row, as far as they can be read by then."""
    parts: list[bytes] = []
    for name in (kind, f"{kind}6"):
        with suppress(OSError), (folder / name).open("rb", buffering=0) as file:
            while clock() <= until and (part := file.read(_CHUNK_BYTES)):
                parts.append(part)
    return b"".join(parts)


def read_open_table(fd: int) -> bytes:
    """An open table from its beginning; empty when it cannot be read."""
    parts: list[bytes] = []
    with suppress(OSError):
        os.lseek(fd, 0, os.SEEK_SET)
        while part := os.read(fd, _CHUNK_BYTES):
            parts.append(part)
    return b"".join(parts)


def holder(
    inode: int,
    pids: Iterable[int],
    *,
    until: float,
    proc: Path = PROC,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """The first of these processes that has the socket open; 0 when none is found by then."""
    wanted = f"socket:[{inode}]"
    for pid in pids:
        for file in _open_files(proc / str(pid) / "fd"):
            if file == wanted:
                return pid
            if clock() > until:
                return 0
        if clock() > until:  # also where no process may be looked at
            return 0
    return 0


def _open_files(folder: Path) -> Iterator[str]:
    """What a process has open; nothing where it has ended or may not be looked at."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(entry.path)
