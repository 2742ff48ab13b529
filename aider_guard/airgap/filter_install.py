"""Installs a filter of system calls that asks the guard, and hands its listener from the fork to the guard."""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from aider_guard.airgap import kernel
from aider_guard.airgap.gap import Enter

# The filter is installed in the fork, which gets its listener (seccomp_unotify(2)) and must send it to the guard. From
# then on the fork's own sendmsg(2) waits for the guard, so a second thread sends the descriptor: it began before the
# filter, which does not hold it, and ends before the program starts.

# linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3
# From Linux 5.19 on: a signal handler does not make a call start again that the guard is carrying out.
_WAIT_KILLABLE: Final = 1 << 5
_PATIENCE_SECONDS: Final = 10.0


def install_filter(channel: socket.socket, program: bytes) -> None:
    """Run in the fork, which has forbidden new privileges: install the filter, and send its listener.

    Raises OSError.
    """
    listeners: queue.SimpleQueue[int] = queue.SimpleQueue()
    failures: list[OSError] = []

    def send() -> None:
        listener = listeners.get()
        try:
            if listener >= 0:
                socket.send_fds(channel, [b"%d" % os.getpid()], [listener])
        except OSError as error:
            failures.append(error)

    outside = threading.Thread(target=send)
    outside.start()
    listener = -1
    try:
        listener = _install(program)
    finally:
        listeners.put(listener)
        outside.join()
    os.close(listener)
    if failures:
        raise failures[0]
    kernel.allow_tracing()


@contextmanager
def entering(
    enter: Callable[[socket.socket], None],
    took: Callable[[int, int], None],
    fds: Sequence[int] = (),
) -> Iterator[Enter]:
    """Start a program under a filter: as ``Gap.entering``, for an *enter* that installs one and needs *fds*.

    *took* gets the filter's listener and the number of the process. Raises OSError when no filter was installed.
    """
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield Enter(partial(enter, theirs), (*fds, theirs.fileno()))
        theirs.close()  # so that a fork that ended is noticed
        took(*receive_listener(mine))


def receive_listener(channel: socket.socket, seconds: float = _PATIENCE_SECONDS) -> tuple[int, int]:
    """Run in the guard: receive the listener and the fork's process number. Raises OSError when none comes."""
    channel.settimeout(seconds)
    process, fds, _, _ = socket.recv_fds(channel, 16, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise OSError(errno.ECHILD, "no filter was installed")
    return fds[0], int(process)


def can_ask(program: bytes) -> bool:
    """Whether the kernel lets this process install a filter that asks. It is installed, and nothing answers it."""
    try:
        os.close(_install(program))
    except OSError:
        return False
    return True


def _install(program: bytes) -> int:
    try:
        return kernel.filter_calls(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return kernel.filter_calls(program, _NEW_LISTENER)
