"""Receives system calls that wait for the guard's answer, and reads the threads that made them (seccomp_unotify(2))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aider_guard.airgap import kernel
from aider_guard.airgap.proc import program_of

# linux/seccomp.h: struct seccomp_notif holds id, pid, flags and struct seccomp_data; struct seccomp_notif_resp id, val,
# error and flags; struct seccomp_notif_addfd id, flags, the guard's descriptor, the caller's, and its flags. The
# numbers of the ioctls contain the sizes (asm-generic/ioctl.h).
_NOTIFICATION: Final = struct.Struct("<QIIiIQ6Q")
_ANSWER: Final = struct.Struct("<QqiI")
_GIVEN: Final = struct.Struct("<QIIII")
_ID: Final = struct.Struct("<Q")
_RECEIVE: Final = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND: Final = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_IS_VALID: Final = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID
_ADD_FD: Final = 0x40182103  # SECCOMP_IOCTL_NOTIF_ADDFD
_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_AND_SEND: Final = 2  # SECCOMP_ADDFD_FLAG_SEND

_GONE: Final = (errno.ENOENT, errno.EINTR)
_OWN_DESCRIPTORS: Final = "a thread with descriptors of its own"
_SIGNALS: Final = (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigCgt")
_IDS: Final = (b"Uid", b"Gid", b"Groups")
"""Lines of a thread's status; the first two are its real, effective and saved numbers, and that for files."""


@dataclass(frozen=True)
class Notification:
    """A system call that waits: its number, its arguments, and its thread, which is 0 where it cannot be seen."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]

    def integer(self, argument: int) -> int:
        """An argument as the kernel takes it for an int: the lower half, signed."""
        low = self.arguments[argument] & 0xFFFFFFFF
        return low - (1 << 32) if low & 0x80000000 else low


@dataclass(frozen=True)
class Result:
    """Ends the call with a value, or with the number of an error."""

    value: int = 0
    error: int = 0


@dataclass(frozen=True)
class Continue:
    """Lets the kernel carry the call out as it is. What its descriptor stands for may have changed since."""


@dataclass(frozen=True)
class GiveDescriptor:
    """Ends the call with a new descriptor, the caller's duplicate of this socket."""

    socket: socket.socket
    close_on_exec: bool


@dataclass(frozen=True)
class Pending:
    """A call that takes time: it is attempted until it has a result, or the program would have given up."""

    attempt: Callable[[], Result | None]
    give_up: Callable[[int], Result]
    """The result when it ends before, by this error, unless a part is done."""
    close: Callable[[], None]
    """Closes what the attempts need."""
    patience_seconds: float
    ready: socket.socket | None = None
    """Turns writable when the next attempt may have a result. Without it they follow each other by the clock."""


Answer = Result | Continue | GiveDescriptor | Pending


class FilterListener:
    """The guard's end of one filter, whose descriptor it owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def waiting(self) -> bool:
        """Whether a call waits. Raises EOFError when no process is left under the filter."""
        for _, events in self._poll.poll(0):
            if events & select.POLLIN:
                return True
            raise EOFError
        return False

    def receive(self) -> Notification | None:
        """Return the next call, None when none waits. Never blocks. Raises EOFError as ``waiting`` does."""
        if not self.waiting():  # the ioctl blocks, whatever the descriptor's flags
            return None
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.fd, _RECEIVE, buffer)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        fields = _NOTIFICATION.unpack(buffer)
        return Notification(fields[0], fields[1], fields[3], fields[6:])

    def answer(self, identifier: int, result: Result | Continue | GiveDescriptor) -> None:
        """Answer the call. A caller that is gone meanwhile is no error."""
        match result:
            case Result(value, error):
                self._send(_SEND, _ANSWER.pack(identifier, value, -error, 0))
            case Continue():
                self._send(_SEND, _ANSWER.pack(identifier, 0, 0, _CONTINUE))
            case GiveDescriptor(sock, close_on_exec):
                flags = os.O_CLOEXEC if close_on_exec else 0
                self._give(identifier, sock.fileno(), flags)

    def _give(self, identifier: int, fd: int, flags: int) -> None:
        try:
            try:
                self._send(_ADD_FD, _GIVEN.pack(identifier, _AND_SEND, fd, 0, flags))
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOTTY}:
                    raise
                # A kernel older than 5.14 adds the descriptor first, and is answered with its number.
                number = self._send(_ADD_FD, _GIVEN.pack(identifier, 0, fd, 0, flags))
                self.answer(identifier, Result(number))
        except OSError as error:  # the caller has too many
            self.answer(identifier, Result(error=error.errno or errno.EMFILE))

    def _send(self, request: int, raw: bytes) -> int:
        try:
            result: int = fcntl.ioctl(self.fd, request, bytearray(raw))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return 0
        return result

    def is_valid(self, identifier: int) -> bool:
        """Whether this call still waits, and its thread's number does not belong to another thread by now."""
        try:
            fcntl.ioctl(self.fd, _IS_VALID, _ID.pack(identifier))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor: each call under the filter that needs an answer fails with ENOSYS from now on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class CallingThread:
    """The thread behind a notification: reads its memory and descriptors by the right to trace it (ptrace(2)).

    ``is_valid`` tells whether it is still the thread that called. What was read may be used only if it is afterwards.
    """

    thread: int
    is_valid: Callable[[], bool]
    _lines: bytes = field(default=b"", init=False)

    @property
    def process(self) -> int:
        """The number of its process. Raises OSError when it is gone."""
        return int(self._status(b"Tgid"))

    def rights(self) -> contextlib.AbstractContextManager[None]:
        """Be its user for the length of a ``with``, which for root may be another than the guard's. Raises OSError."""
        ids = {name: [int(one) for one in self._status(name).split()] for name in _IDS}
        (_, user, _, files), (_, group, *_), groups = ids.values()
        if {user, files} == {os.geteuid()}:
            return contextlib.nullcontext()
        return kernel.acting_as(user, group, groups)

    @property
    def program(self) -> str:
        """The program's name; "" where it is not known."""
        try:
            return program_of(self.process)
        except OSError:
            return ""

    def read(self, address: int, length: int) -> bytes:
        """Copy some of its memory. Raises OSError: there is less (EFAULT), it is gone, or may not be traced (EPERM)."""
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
        """Write to its memory. Raises OSError as ``read`` does."""
        fd = os.open(f"/proc/{self.thread}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.check()
            os.pwrite(fd, data, address)
        except OverflowError:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
        finally:
            os.close(fd)

    def take(self, number: int) -> socket.socket:
        """Duplicate its socket with this number.

        Raises OSError: it has no such socket (EBADF, ENOTSOCK), or may not be traced (EPERM).
        """
        fd = self.take_file(number)
        try:
            return socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise

    def take_file(self, number: int) -> int:
        """Duplicate its descriptor with this number, whatever it is of. Raises OSError as ``take`` does."""
        pidfd = kernel.pidfd_open(self.process)
        try:
            fd = kernel.take_fd(pidfd, number)
        except OSError as error:
            if error.errno == errno.EBADF and os.path.lexists(f"/proc/{self.thread}/fd/{number}"):
                raise OSError(errno.EPERM, _OWN_DESCRIPTORS) from None
            raise
        finally:
            os.close(pidfd)
        try:
            self._check_ownership(fd, number)
        except OSError:
            os.close(fd)
            raise
        return fd

    def is_interrupted(self) -> bool:
        """Whether a signal waits for it that it handles: such a one ends a call (signal(7)).

        The kernel gives one for a whole process to its first thread, where that takes it (``complete_signal``,
        kernel/signal.c).
        """
        self._lines = b""
        try:
            pending, common, blocked, caught = (int(self._status(one), 16) for one in _SIGNALS)
            common *= self.thread == self.process
        except (OSError, ValueError):  # it is gone
            return False
        return bool((pending | common) & ~blocked & caught)

    def _check_ownership(self, fd: int, number: int) -> None:
        """Check that the duplicate is the thread's: it may have descriptors of its own (CLONE_FILES, clone(2))."""
        self.check()
        if self.thread != self.process:
            mine, its = os.fstat(fd), os.stat(f"/proc/{self.thread}/fd/{number}")
            if not os.path.samestat(mine, its):
                raise OSError(errno.EPERM, _OWN_DESCRIPTORS)

    def check(self) -> None:
        """Raise OSError(ESRCH) when the thread is gone: what was read may be another's."""
        if not self.is_valid():
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _status(self, name: bytes) -> bytes:
        """A line of its status (proc_pid_status(5)). Raises OSError when it is gone."""
        if not self._lines:
            with open(f"/proc/{self.thread}/status", "rb", buffering=0) as file:
                self._lines = file.read()
        return self._lines.partition(b"\n" + name + b":")[2].partition(b"\n")[0]
