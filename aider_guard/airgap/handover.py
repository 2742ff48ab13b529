"""How a fork enters the seccomp layer, and how the guard gets its end of the filter.

The filter's listener (seccomp_unotify(2)) comes into being in the fork, and from then on the fork's own sendmsg(2)
waits for the guard. So a second thread, which began before the filter and is not held by it, sends the descriptor; it
has ended before the program starts. The guard finds it in its socket whenever it looks.
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
from typing import Final

from aider_guard.airgap import kernel, landlock, readable
from aider_guard.airgap.capabilities import KEPT

# linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3
_WAIT_KILLABLE: Final = (
    1 << 5
)  # from Linux 5.19 on: no signal's handler makes a call that the guard does begin anew
_PATIENCE_SECONDS: Final = 10.0


def enter(channel: socket.socket, program: bytes) -> None:
    """In the fork: put it under the filter, and send the listener through *channel*. Raises OSError."""
    kernel.forbid_new_privileges()
    kernel.keep_capabilities(KEPT)
    landlock.separate()
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
    readable.by_the_guard()


def received(channel: socket.socket, seconds: float = _PATIENCE_SECONDS) -> tuple[int, int]:
    """In the guard: the listener that the fork has sent, and the fork's number. Raises OSError when there is none."""
    channel.settimeout(seconds)
    process, fds, _, _ = socket.recv_fds(channel, 16, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise OSError(errno.ECHILD, "no filter was installed")
    return fds[0], int(process)


def _install(program: bytes) -> int:
    try:
        return kernel.filter_calls(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return kernel.filter_calls(program, _NEW_LISTENER)
