"""Whether the filter of system calls works here: a child is put under it, and must be refused."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from aider_guard.airgap.gap import Enter
from aider_guard.airgap.names import Names
from aider_guard.airgap.seccomp import SeccompGap
from aider_guard.core.egress import Attempt
from aider_guard.session.loop import Loop

TRIAL_SECONDS: Final = 1.0
_NOBODY: Final = ("192.0.2.1", 9)  # documentation (RFC 5737), the discard port


def try_filter(within_seconds: float = TRIAL_SECONDS) -> None:
    """Have a child refused by the filter once. Raises OSError when that does not work here."""
    gap, seen = SeccompGap(Names()), list[Attempt]()
    try:
        with gap.entering() as enter:
            assert enter is not None
            child = os.fork()
            if child == 0:
                os._exit(_be_refused(enter))
        with Loop() as loop:
            gap.watch(loop, seen.append)
            until = time.monotonic() + within_seconds
            while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
                loop.run_once(0.005)
            gap.close()
    finally:
        gap.close()
    if not ended[0]:
        os.waitpid(child, 0)  # its call failed when the gap was closed
    if ended[1] or not seen:
        raise OSError("the filter was installed, and did not hold")


def _be_refused(enter: Enter) -> int:
    """In the child: 0 when it was refused as it must be."""
    try:
        enter()
        with socket.socket() as one:
            one.connect(_NOBODY)
    except ConnectionRefusedError:
        return 0
    except BaseException:  # noqa: BLE001  # a child that must not go on as the guard
        return 2
    return 1
