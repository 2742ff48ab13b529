"""The threads whose system calls wait for the guard: their memory, their sockets, their programs' names."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from aider_guard.airgap import kernel
from aider_guard.airgap.programs import program_of


@dataclass
class Caller:
    """The thread behind a notification: its memory and its descriptors, by the right to trace it (ptrace(2)).

    ``is_valid`` says that the thread is still the one that called. What is read before it says so is not to be used.
    """

    thread: int
    is_valid: Callable[[], bool]
    _lines: bytes = field(default=b"", init=False)

    @property
    def process(self) -> int:
        """The number of its process. Raises OSError when it is gone."""
        return int(self._status(b"Tgid"))

    @property
    def is_ours(self) -> bool:
        """Whether files are open to it as to the guard: not so when root started it as somebody else."""
        return int(self._status(b"Uid").split()[3]) == os.geteuid()

    @property
    def program(self) -> str:
        """The program's name; "" where it cannot be told."""
        try:
            return program_of(self.process)
        except OSError:
            return ""

    def read(self, address: int, length: int) -> bytes:
        """A copy of its memory. Raises OSError: there is less (EFAULT), it is gone, or may not be traced (EPERM)."""
        fd = os.open(f"/proc/{self.thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, length, address)
        except (OverflowError, OSError):
            data = b""
        finally:
            os.close(fd)
        self.check()
        if len(data) < length:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def write(self, address: int, data: bytes) -> None:
        """Change its memory. Raises OSError as ``read`` does."""
        fd = os.open(f"/proc/{self.thread}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.check()
            os.pwrite(fd, data, address)
        except OverflowError:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
        finally:
            os.close(fd)

    def take(self, number: int) -> socket.socket:
        """A duplicate of its socket with this number.

        Raises OSError: it has no such socket (EBADF, ENOTSOCK), or may not be traced (EPERM).
        """
        pidfd = kernel.pidfd_open(self.process)
        try:
            fd = kernel.take_fd(pidfd, number)
        finally:
            os.close(pidfd)
        try:
            self._is_its_own(fd, number)
            return socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise

    def _is_its_own(self, fd: int, number: int) -> None:
        """A thread may have descriptors of its own (CLONE_FILES, clone(2)); what was taken is the process's."""
        self.check()
        if self.thread != self.process:
            mine, its = os.fstat(fd), os.stat(f"/proc/{self.thread}/fd/{number}")
            if (mine.st_dev, mine.st_ino) != (its.st_dev, its.st_ino):
                raise OSError(errno.EPERM, "a thread with descriptors of its own")

    def check(self) -> None:
        """Raises OSError(ESRCH) when the thread is gone, and what was looked at may be another's."""
        if not self.is_valid():
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _status(self, name: bytes) -> bytes:
        """A line of its status (proc_pid_status(5)). Raises OSError when it is gone."""
        if not self._lines:
            with open(f"/proc/{self.thread}/status", "rb", buffering=0) as file:
                self._lines = file.read()
        return self._lines.partition(b"\n" + name + b":")[2].partition(b"\n")[0]
