"""Daemons inside the seccomp layer: the guard is their parent, and waits for them and no other children."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
from airgap.seccomp_world import PYTHON, ended, world

from aider_guard.airgap import kernel

DAEMON = """
go, start = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(go, 1)
        tell([os.getpid(), os.getppid(), error_of(socket.create_connection, ("192.0.2.10", 443), 5)])
        os._exit(3)
    os._exit(0)
os.wait()
os.write(start, b".")
os.read(arguments, 1)
os._exit(7)
"""
_ENDED = os.WEXITED | os.WNOWAIT


def takes_orphans() -> bool:
    """Whether this process does (PR_GET_CHILD_SUBREAPER, prctl(2))."""
    answer = ctypes.c_int()
    kernel.libc().prctl(37, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def test_a_daemon_is_left_to_the_guard() -> None:
    """So that the guard may trace it where only descendants may be (Yama). No program's status is lost."""
    reading, writing = os.pipe()
    with world() as here, os.fdopen(writing, "wb", 0) as go, os.fdopen(reading, "rb", 0):
        started = here.start(DAEMON, reading, pass_fds=(reading,))
        with (
            ended(started) as program,
            subprocess.Popen([*PYTHON, "raise SystemExit(5)"]) as bystander,
        ):
            daemon, parent, error = here.next(program)
            assert (parent, error) == (os.getpid(), "ECONNREFUSED")
            os.waitid(os.P_PID, daemon, _ENDED)
            go.write(b".")
            for pid in (program.pid, bystander.pid):
                os.waitid(os.P_PID, pid, _ENDED)

            here.gap.reap()

            with pytest.raises(ChildProcessError):
                os.waitid(os.P_PID, daemon, _ENDED)
            assert (program.wait(), bystander.wait()) == (7, 5)


def test_nothing_is_reaped_while_a_program_enters() -> None:
    """It is not known yet that the guard started it; what ended meanwhile is waited for afterwards."""
    with world() as here:
        with here.gap.entering() as enter:
            child = os.fork()
            if child == 0:
                enter()
                os._exit(7)
            os.waitid(os.P_PID, child, _ENDED)
            here.gap.reap()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_only_while_there_is_a_gap() -> None:
    """Afterwards orphans go where they went before."""
    before = takes_orphans()
    with world() as here:
        assert here.run("tell(1)") == 1
        assert takes_orphans()
    assert takes_orphans() == before
