"""Processes inside whose parents have ended: the guard takes them, in the place of init.

Where Yama holds (kernel.yama.ptrace_scope is 1, Ubuntu's default), the guard may look into its descendants only, and a
daemon that init took would have each of its calls refused. Whoever takes orphans has to wait for them, or they remain
as zombies; programs that were started on purpose are waited for by who started them, who needs their status.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

from aider_guard.airgap import kernel

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_PROC: Final = Path("/proc")


@contextlib.contextmanager
def adopted() -> Iterator[None]:
    """What loses its parent meanwhile becomes a child of this process (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    prctl, before = kernel.libc().prctl, ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def reap(started: Container[int]) -> None:
    """Wait for the children of this process that have ended inside, but for those that it has *started*. Never blocks.

    Inside is who is held by more filters than this process. A child that is not is somebody's who waits for it.
    """
    with contextlib.suppress(OSError):  # no children at all
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        _, filters = _state(os.getpid())
        for child in {ended.si_pid, *_children()}:
            state, its_filters = _state(child)
            if state == "Z" and its_filters > filters and child not in started:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)


def _children() -> Iterator[int]:
    """Of all threads (proc_tid_children(5)); none where the kernel does not tell."""
    for children in (_PROC / "self" / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, children.read_text().split())


def _state(process: int) -> tuple[str, int]:
    """Its state, Z when it has ended, and how many filters hold it (Linux 5.9); "" when it is gone."""
    lines = ""
    with contextlib.suppress(OSError):
        lines = (_PROC / str(process) / "status").read_text(errors="replace")
    fields = dict(line.partition(":\t")[::2] for line in lines.splitlines())
    return fields.get("State", "")[:1], int(fields.get("Seccomp_filters", "0"))
