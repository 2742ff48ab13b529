"""Which program is at the other end of a connection on this machine, or asked for a name.

Linux: the kernel tells the socket's number (airgap/diag.py, or ``/proc/PID/net``, proc_pid_net(5)), and whose it is
stands in ``/proc/PID/fd``. Elsewhere it stays unknown: the system tells connections only process by process, which
takes longer than a loop may wait.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aider_guard.airgap.diag import ask_inode
from aider_guard.airgap.programs import (
    PROC,
    datagram_inode,
    holder,
    neighbours,
    only_program,
    program_of,
    read_table,
    socket_inode,
    tree,
)

SEARCH_SECONDS: Final = 0.02
BUDGET_SECONDS: Final = 0.1
BUDGET_SHARE: Final = 0.1


class Peers:
    """Names the programs at the other end of connections, and takes no more than a tenth of its thread's time.

    ``root`` gives the process whose tree and network are looked at, 0 when there is none; ``diag`` is a socket of
    airgap/diag.py made in that network, without which its table is read. A search ends after ``search_seconds`` of
    work: on a busy machine the time in which others had the processor finds nobody.
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
        """The program that has *port* and is connected to *server_port*; "" where that cannot be told in time."""

        def inode(root: int, until: float) -> int:
            if self._diag is not None:
                return ask_inode(self._diag, port, server_port)
            table = read_table(root, until=until, proc=self._proc, clock=self._worked)
            return socket_inode(table, port, server_port)

        return self._in_budget(lambda until: self._holder_of(inode, until))

    def asker(self, port: int) -> str:
        """The program that sent a datagram from *port* and waits for the answer; "" as for ``program``."""

        def inode(root: int, until: float) -> int:
            table = read_table(root, "udp", until=until, proc=self._proc, clock=self._worked)
            return datagram_inode(table, port)

        return self._in_budget(lambda until: self._holder_of(inode, until))

    def only(self) -> str:
        """The only program there is (``only_program``); "" where that cannot be told, or not in time."""
        root = self._root()
        return self._in_budget(lambda _until: only_program(root, proc=self._proc)) if root else ""

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
            if found := holder(inode, pids, until=until, proc=proc, clock=self._worked):
                return program_of(found)
        return ""
