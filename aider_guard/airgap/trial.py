"""Whether the filter of system calls works here: a child is put under it, and must be refused."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack, closing
from typing import Final

from aider_guard.airgap.calls import FAULT
from aider_guard.airgap.gap import Enter
from aider_guard.airgap.names import Names
from aider_guard.airgap.seccomp import SeccompGap
from aider_guard.core.egress import Attempt
from aider_guard.loop import Loop

TRIAL_SECONDS: Final = 1.0
_NOBODY: Final = ("192.0.2.1", 9)  # documentation (RFC 5737), the discard port


def try_filter(within_seconds: float = TRIAL_SECONDS) -> None:
    """Have a child refused by the filter once.

    Raises OSError when that does not work here, and RuntimeError when the guard cannot judge a call.
    """
    seen: list[Attempt] = []
    with closing(SeccompGap(Names())) as gap, ExitStack() as stack:
        with gap.entering() as enter:
            child = _Child(enter)
            stack.callback(child.end)
        with Loop() as loop:
            gap.watch(loop, seen.append)
            until = time.monotonic() + within_seconds
            while not child.has_ended() and time.monotonic() < until:
                loop.run_once(0.005)
            gap.close()
    if fault := next((one.host for one in seen if one.host.startswith(FAULT)), ""):
        raise RuntimeError(fault)
    if not child.was_refused or not seen:
        raise OSError("the filter was installed, and did not hold")


class _Child:
    """A fork that is to be refused."""

    def __init__(self, enter: Enter) -> None:
        self._status: int | None = None
        self._number = os.fork()
        if self._number == 0:
            os._exit(_be_refused(enter))

    @property
    def was_refused(self) -> bool:
        """Whether it has ended after that."""
        return self._status == 0

    def has_ended(self) -> bool:
        """Whether it is gone by now."""
        if self._status is None:
            ended, status = os.waitpid(self._number, os.WNOHANG)
            self._status = status if ended else None
        return self._status is not None

    def end(self) -> None:
        """Wait for its end, and see to it that it comes."""
        if not self.has_ended():
            os.kill(self._number, signal.SIGKILL)
            os.waitpid(self._number, 0)


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
