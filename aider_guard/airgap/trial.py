"""Whether the filter of system calls works here: a child is put under it, and must be refused."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Final

from aider_guard.airgap.calls import FAULT
from aider_guard.airgap.gap import Enter
from aider_guard.airgap.names import Names
from aider_guard.airgap.seccomp import SeccompGap
from aider_guard.core.egress import Attempt
from aider_guard.session.loop import Loop

TRIAL_SECONDS: Final = 1.0
_NOBODY: Final = ("192.0.2.1", 9)  # documentation (RFC 5737), the discard port


def try_filter(within_seconds: float = TRIAL_SECONDS) -> None:
    """Have a child refused by the filter once.

    Raises OSError when that does not work here, and RuntimeError when the guard cannot judge a call.
    """
    gap, seen, child = SeccompGap(Names()), list[Attempt](), 0
    try:
        with gap.entering() as enter:
            assert enter is not None
            child = os.fork()
            if child == 0:
                os._exit(_be_refused(enter))
        _serve(gap, seen, child, within_seconds)
    finally:
        gap.close()
        status = _ended(child) if child else 0
    fault = next((one.host for one in seen if one.host.startswith(FAULT)), "")
    if fault:
        raise RuntimeError(fault)
    if status or not seen:
        raise OSError("the filter was installed, and did not hold")


def _serve(gap: SeccompGap, seen: list[Attempt], child: int, seconds: float) -> None:
    """Until the child has ended; it stays to be waited for."""
    has_ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with Loop() as loop:
        gap.watch(loop, seen.append)
        until = time.monotonic() + seconds
        while os.waitid(os.P_PID, child, has_ended) is None and time.monotonic() < until:
            loop.run_once(0.005)
        gap.close()  # while there is the loop that watches it


def _ended(child: int) -> int:
    """Its status, after it was killed if it still ran."""
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


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
