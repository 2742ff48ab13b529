"""What other programs see of a Python process: its name, and the command line of the program that it stands for.

The guard, like any user of the machine, reads both in /proc (proc_pid_cmdline(5), proc_pid_comm(5)). The kernel shows
the memory in which the process got its arguments, so the process writes there what shall be seen.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
"""prctl(2)."""
_ARGUMENTS_BEGIN, _ARGUMENTS_END = 47, 48
"""Fields of /proc/PID/stat, counted from 0 (proc_pid_stat(5))."""


def encoded(words: list[str]) -> bytes:
    """A command line as the kernel keeps it."""
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def padded(command: list[str], shown: list[str]) -> list[str]:
    """A command with one more word, so that its arguments take exactly the room that ``shown`` needs."""
    missing = len(encoded(shown)) - len(encoded(command)) - 1
    return [*command, "-" * max(missing, 0)]


def show(words: list[str]) -> None:
    """Let others see this command line, and the name of its program. What is longer than the room for it is cut."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end = (int(fields[number - 2]) for number in (_ARGUMENTS_BEGIN, _ARGUMENTS_END))
    content = encoded(words)[: end - begin].ljust(end - begin, b"\0")
    ctypes.memmove(begin, content, len(content))
    name = os.fsencode(os.path.basename(words[0]))
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)


def end_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Have the kernel send this signal when the parent ends; at once if it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), number)
