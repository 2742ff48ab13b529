"""Finds the program behind a connection or a datagram, and asks the kernel about sockets (proc(5), sock_diag(7))."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from aider_guard.core.printable import printable
from aider_guard.proc_net import PROC, Kind, SocketRow, holder, read_tables, rows

_MOST_LETTERS: Final = 40
_MOST_NEIGHBOURS: Final = 4096
_AIDERS_START: Final = "inside_aider.py"
_INTERPRETER: Final = re.compile(
    r"(python|pypy|node|nodejs|ruby|perl|bash|dash|zsh|sh)[0-9.]*", re.IGNORECASE
)
_SHELL: Final = re.compile(r"(ba|da|z|k|fi)?sh")
_WITH_VALUE: Final = ("-W", "-X", "-r", "--require", "--import")


def display_name(arguments: Sequence[str], name: str) -> str:
    """Return a program's name: that of its file, or of the script or module that an interpreter runs.

    It is short and printable. *name* is the kernel's name for it, used where there are no arguments.
    """
    program = os.path.basename(arguments[0].rstrip("/")).lstrip("-") if arguments else ""
    if _INTERPRETER.fullmatch(program):
        program = _script(arguments[1:]) or program
    shown = printable(program or name, replacement="?")
    return shown[:_MOST_LETTERS].strip()


def _script(arguments: Sequence[str]) -> str:
    rest = iter(arguments)
    for argument in rest:
        if argument == "-m":
            return next(rest, "")
        if argument == "-c":
            return ""
        if argument in _WITH_VALUE:
            next(rest, "")
        elif not argument.startswith("-"):
            script = os.path.basename(argument)
            return "aider" if script == _AIDERS_START else script
    return ""


def program_of(pid: int) -> str:
    """Return the name of a process's program; "" where it is gone or may not be looked at."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return display_name(process.cmdline(), process.name())
    except (psutil.Error, OSError, ValueError):
        return ""


def tree(pid: int, *, proc: Path = PROC) -> Iterator[int]:
    """A process and its descendants, nearest first; those that lost their parents are not among them."""
    waiting, seen = [pid], {pid}
    while waiting:
        current = waiting.pop(0)
        yield current
        fresh = [child for child in children(current, proc=proc) if child not in seen]
        seen.update(fresh)
        waiting += fresh


def children(pid: int, *, proc: Path = PROC) -> Iterator[int]:
    """The processes that a process's threads started (proc_tid_children(5)); none where the kernel has no such file."""
    for file in (proc / str(pid) / "task").glob("*/children"):
        with suppress(OSError, ValueError):
            yield from map(int, file.read_text().split())


def neighbours(pid: int, *, proc: Path = PROC) -> Iterator[int]:
    """The processes in the network of this one, newest first, as far as they may be looked at.

    Daemons are among them, which have left its tree.
    """
    with suppress(OSError):
        network = os.stat(proc / str(pid) / "ns" / "net").st_ino
        numbers = [int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()]
        for number in sorted(numbers, reverse=True)[:_MOST_NEIGHBOURS]:
            with suppress(OSError):
                if os.stat(proc / str(number) / "ns" / "net").st_ino == network:
                    yield number


def only_program(pid: int, *, proc: Path = PROC) -> str:
    """Return the only other program in the network of a process, not counting shells; "" where there are several.

    It must have sent the packet that was seen there, as the process itself reports its own (the audit hook). Without
    another program it is that of the process. A program that waits for a child may have sent the packet as well.
    """
    others = [other for other in neighbours(pid, proc=proc) if other != pid]
    if not others:
        return program_of(pid)
    names: set[str] = set()
    for other in others:
        if not _is_shell(other, proc):
            names.add(program_of(other))
        if len(names) > 1:
            return ""
    return names.pop() if names else _only_script(others, proc)


def _only_script(shells: Iterable[int], proc: Path) -> str:
    """The script of the only shell that waits for no other; "" for a shell without a script."""
    leaves = [pid for pid in shells if not any(child != pid for child in tree(pid, proc=proc))]
    names = {program_of(pid) for pid in leaves}
    name = names.pop() if len(names) == 1 else ""
    return "" if _SHELL.fullmatch(name) else name


def _is_shell(pid: int, proc: Path) -> bool:
    """Whether this is a shell, whatever it runs; False where that is not known."""
    with suppress(OSError):
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0", 1)
        return bool(_SHELL.fullmatch(os.path.basename(os.fsdecode(words[0])).lstrip("-")))
    return False


# The kernel is asked for one socket by sock_diag(7). /proc/net/tcp has it too, but each reading lists every connection
# of the machine: milliseconds for a thousand.

End = tuple[str, int]
"""An address and a port."""

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_REQUEST: Final = 1  # NLM_F_REQUEST, linux/netlink.h
_ALL_STATES: Final = 0xFFFFFFFF
_LOOPBACK_INDEX: Final = 1  # the first interface of every network namespace
_HERE: Final = "127.0.0.1"
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_KIND: Final = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, before its socket
_SOCKET: Final = struct.Struct("=2s2s16s16sIII")  # struct inet_diag_sockid
_ANSWER: Final = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
_NO_COOKIE: Final = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def diag_socket() -> socket.socket:
    """Open a socket for questions about the network that this process is in now. Raises OSError where there is none.

    It stays in that network, also when another process gets it.
    """
    family: int = getattr(socket, "AF_NETLINK", -1)
    channel = socket.socket(family, socket.SOCK_RAW, _SOCK_DIAG)
    channel.setblocking(False)
    return channel


_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE, linux/netlink.h
_DUMP: Final = 0x300  # NLM_F_DUMP
_MOST_BYTES: Final = 1 << 16


def dump(channel: socket.socket, question: bytes) -> list[bytes]:
    """Ask the kernel for all sockets of a kind: the bodies of its answers. Raises OSError where it does not answer."""
    size = _HEADER.size + len(question)
    channel.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST | _DUMP, 0, 0) + question)
    found: list[bytes] = []
    while True:
        data = channel.recv(_MOST_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, *_ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[max(_HEADER.size, length + 3 & ~3) :]
            if kind == _DONE:
                return found
            if kind == _ERROR:
                raise OSError("sock_diag")
            found.append(body)


def connection_inode(channel: socket.socket, port: int, server_port: int) -> int:
    """Return the number of the socket that is connected from this port of 127.0.0.1 to that one; 0 without one."""
    answer = _connection(channel, (_HERE, port), (_HERE, server_port))
    return int(_ANSWER.unpack_from(answer)[-1]) if answer else 0


def has_receiver(channel: socket.socket, kind: Kind, source: End, to: End) -> bool:
    """Whether a socket receives what is sent from one end to the other: a connected one, or one that waits there.

    The kernel searches as it does for a packet, so sockets that wait at all addresses, or at those of both versions,
    are found. A TCP connection that has just ended is found as well.
    """
    if kind == "udp":
        return bool(_ask(channel, kind, source, to))
    return bool(_ask(channel, kind, to, source) or _connection(channel, source, to))


def has_server(channel: socket.socket, kind: Kind, place: End) -> bool:
    """Whether a server waits at this place for any sender."""
    any_sender = "::" if ":" in place[0] else "0.0.0.0"  # noqa: S104  # no end of any connection
    return has_receiver(channel, kind, (any_sender, 0), place)


def _connection(channel: socket.socket, own: End, other: End) -> bytes:
    """One end of a TCP connection, for ``_ANSWER``; empty without one, also where a server listens at the port."""
    answer = _ask(channel, "tcp", own, other)
    ports = own[1].to_bytes(2, "big") + other[1].to_bytes(2, "big")
    return answer if answer and _ANSWER.unpack_from(answer)[4][:4] == ports else b""


def _ask(channel: socket.socket, kind: Kind, own: End, other: End) -> bytes:
    """Ask the kernel for one socket: its answer, for ``_ANSWER``; empty when there is none.

    For UDP it takes the ends the other way round (udp_dump_one, net/ipv4/udp_diag.c).
    """
    family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
    packed = (socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (own, other))
    ports = (port.to_bytes(2, "big") for _, port in (own, other))
    ends = _SOCKET.pack(*ports, *packed, _LOOPBACK_INDEX, _NO_COOKIE, _NO_COOKIE)
    request = _KIND.pack(family, _PROTOCOLS[kind], 0, _ALL_STATES) + ends
    try:
        channel.send(
            _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request
        )
        answer = channel.recv(4096)
    except OSError:
        return b""
    if len(answer) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return b""
    return answer[_HEADER.size :]


# On Linux a connection's program is found by the socket's number, which the kernel or ``/proc/PID/net`` tells, and
# ``/proc/PID/fd``. Elsewhere it stays unknown: the system lists connections only process by process, which takes longer
# than a loop may wait.

SEARCH_SECONDS: Final = 0.02
BUDGET_SECONDS: Final = 0.1
BUDGET_SHARE: Final = 0.1


class Peers:
    """Names the programs behind connections and datagrams; takes no more than a tenth of its thread's time.

    ``root`` gives the process whose tree and network are searched, 0 when there is none; ``diag`` is a ``diag_socket``
    made in that network, without which its table is read. A search ends after ``search_seconds`` of the thread's own
    work: time in which other programs had the processor does not count.
    """

    def __init__(
        self,
        root: Callable[[], int],
        *,
        diag: socket.socket | None = None,
        proc: Path = PROC,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
        search_seconds: float = SEARCH_SECONDS,
    ) -> None:
        self._root = root
        self._diag = diag
        self._proc = proc
        self._search_seconds = search_seconds
        self._clock = clock
        self._worked = worked
        self._credit_seconds = BUDGET_SECONDS
        self._credited_at = clock()

    def program(self, port: int, server_port: int) -> str:
        """Return the program that is connected from *port* to *server_port*; "" where it is not found in time."""

        def inode(root: int, until: float) -> int:
            if self._diag is not None:
                return connection_inode(self._diag, port, server_port)
            connections = self._rows(root, "tcp", port, until)
            return next((row.inode for row in connections if row.remote_port == server_port), 0)

        return self._in_budget(lambda until: self._holder_of(inode, until))

    def asker(self, port: int) -> str:
        """Return the program that sent a datagram from *port* and waits for the answer; "" as for ``program``."""

        def inode(root: int, until: float) -> int:
            return next((row.inode for row in self._rows(root, "udp", port, until)), 0)

        return self._in_budget(lambda until: self._holder_of(inode, until))

    def only(self) -> str:
        """Return the only program inside (``only_program``); "" where there are several, or the time is used up."""
        root = self._root()
        return self._in_budget(lambda _until: only_program(root, proc=self._proc)) if root else ""

    def _rows(self, root: int, kind: Kind, port: int, until: float) -> Iterator[SocketRow]:
        folder = self._proc / str(root) / "net"
        return rows(read_tables(folder, kind, until=until, clock=self._worked), port)

    def _in_budget(self, find: Callable[[float], str]) -> str:
        now = self._clock()
        earned = (now - self._credited_at) * BUDGET_SHARE
        self._credit_seconds = min(BUDGET_SECONDS, self._credit_seconds + earned)
        self._credited_at = now
        if self._credit_seconds <= 0:
            return ""
        began = self._worked()
        name = find(began + self._search_seconds)
        self._credit_seconds -= self._worked() - began
        return name

    def _holder_of(self, inode_of: Callable[[int, float], int], until: float) -> str:
        root, proc = self._root(), self._proc
        inode = inode_of(root, until) if root else 0
        if not inode:
            return ""
        for pids in (tree(root, proc=proc), neighbours(root, proc=proc)):
            if pid := holder(inode, pids, until=until, proc=proc, clock=self._worked):
                return program_of(pid)
        return ""
