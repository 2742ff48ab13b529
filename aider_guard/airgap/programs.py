"""The names of programs, their sockets, and who is near whom, as Linux tells it (proc(5))."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import psutil

PROC: Final = Path("/proc")
_MOST_LETTERS: Final = 40
_CHUNK_BYTES: Final = 1 << 15
_MOST_NEIGHBOURS: Final = 4096
_AIDERS_START: Final = "inside_aider.py"
_INTERPRETER: Final = re.compile(
    r"(python|pypy|node|nodejs|ruby|perl|bash|dash|zsh|sh)[0-9.]*", re.IGNORECASE
)
_SHELL: Final = re.compile(r"(ba|da|z|k|fi)?sh")
_WITH_VALUE: Final = ("-W", "-X", "-r", "--require", "--import")


def told_name(arguments: Sequence[str], name: str) -> str:
    """What a program is called: its file, or the script or module that an interpreter runs. Printable, and short.

    *name* is what the system calls it, for processes that have no arguments.
    """
    program = os.path.basename(arguments[0].rstrip("/")).lstrip("-") if arguments else ""
    if _INTERPRETER.fullmatch(program):
        program = _script(arguments[1:]) or program
    shown = "".join(letter if letter.isprintable() else "?" for letter in program or name)
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
    """The name of a process; "" where it is gone or may not be looked at."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return told_name(process.cmdline(), process.name())
    except (psutil.Error, OSError, ValueError):
        return ""


def socket_inode(table: bytes, port: int, server_port: int) -> int:
    """The number of the connected socket with this port of its own, connected to that port; 0 without one.

    *table* is /proc/net/tcp, /proc/net/tcp6, or both in a row.
    """
    ours, theirs = f":{port:04X}".encode(), f":{server_port:04X}".encode()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[1].endswith(ours) and fields[2].endswith(theirs):
            with suppress(ValueError):
                return int(fields[9])
    return 0


def datagram_inode(table: bytes, port: int) -> int:
    """The number of a socket that sends from this port; 0 without one. *table* is /proc/net/udp, udp6, or both."""
    ours = f":{port:04X}".encode()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[1].endswith(ours):
            with suppress(ValueError):
                return int(fields[9])
    return 0


def read_table(
    pid: int,
    kind: Literal["tcp", "udp"] = "tcp",
    *,
    until: float,
    proc: Path = PROC,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """The sockets of the network that a process is in, as far as can be read by then; empty when it is gone."""
    parts: list[bytes] = []
    for name in (kind, f"{kind}6"):
        path = proc / str(pid) / "net" / name
        with suppress(OSError), path.open("rb", buffering=0) as file:
            while clock() <= until and (part := file.read(_CHUNK_BYTES)):
                parts.append(part)
    return b"".join(parts)


def tree(pid: int, *, proc: Path = PROC) -> Iterator[int]:
    """A process and what it started, as far as that still has its parents, nearest first (proc_tid_children(5))."""
    waiting, seen = [pid], {pid}
    while waiting:
        current = waiting.pop(0)
        yield current
        for children in (proc / str(current) / "task").glob("*/children"):
            with suppress(OSError, ValueError):
                fresh = [one for one in map(int, children.read_text().split()) if one not in seen]
                seen.update(fresh)
                waiting += fresh


def neighbours(pid: int, *, proc: Path = PROC) -> Iterator[int]:
    """All processes that may be looked at in the network of this one, newest first: daemons have left its tree."""
    with suppress(OSError):
        network = os.stat(proc / str(pid) / "ns" / "net").st_ino
        numbers = [int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()]
        for number in sorted(numbers, reverse=True)[:_MOST_NEIGHBOURS]:
            with suppress(OSError):
                if os.stat(proc / str(number) / "ns" / "net").st_ino == network:
                    yield number


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
            break
    return 0


def _open_files(folder: Path) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                yield os.readlink(entry.path)


def only_program(pid: int, *, proc: Path = PROC) -> str:
    """The one program besides a process in its network, shells aside; "" where there are several.

    Whoever sent a packet there a moment ago was it, as long as the process itself tells of its own (the audit hook).
    With none besides, it is the program of that process. One that waits for a child may have sent it all the same.
    """
    others = [other for other in neighbours(pid, proc=proc) if other != pid]
    if not others:
        return program_of(pid)
    names: set[str] = set()
    for one in others:
        if not _is_shell(one, proc):
            names.add(program_of(one))
        if len(names) > 1:
            return ""
    return names.pop() if names else _only_script(others, proc)


def _only_script(shells: Iterable[int], proc: Path) -> str:
    """What the one shell runs that waits for no other; "" for what was typed."""
    leaves = [one for one in shells if not any(child != one for child in tree(one, proc=proc))]
    names = {program_of(one) for one in leaves}
    name = names.pop() if len(names) == 1 else ""
    return "" if _SHELL.fullmatch(name) else name


def _is_shell(pid: int, proc: Path) -> bool:
    """Whether it is one, whatever it runs; not so where that cannot be told."""
    with suppress(OSError):
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0", 1)
        return bool(_SHELL.fullmatch(os.path.basename(os.fsdecode(words[0])).lstrip("-")))
    return False
