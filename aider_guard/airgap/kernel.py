"""Linux system calls that Python has no function for (setns only from 3.12 on). Each raises OSError for C's -1.

Numbers and structures are those of the kernel's own headers, named at each place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

IS_LINUX: Final = sys.platform == "linux"

# linux/sched.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
# linux/mount.h
_MS_RDONLY: Final = 1
_NOT_RUN: Final = 2 | 4 | 8  # MS_NOSUID | MS_NODEV | MS_NOEXEC; statvfs(3) has the same numbers
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MNT_DETACH: Final = 2
# linux/prctl.h
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
# linux/seccomp.h
_SECCOMP_SET_MODE_FILTER: Final = 1
# asm/unistd_64.h and asm-generic/unistd.h; the others are the same numbers on every architecture
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159}
_SETRESUID: Final = {"x86_64": 117, "aarch64": 147}
_SETRESGID: Final = {"x86_64": 119, "aarch64": 149}
_PIDFD_OPEN: Final = 434
_PIDFD_GETFD: Final = 438


@functools.cache
def libc() -> Any:
    """The C library, loaded when it is first needed; its functions leave their error for ``ctypes.get_errno``."""
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones (unshare(2))."""
    _checked(libc().unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of this kind that *fd* is of (setns(2))."""
    _checked(libc().setns(fd, kind), "setns")


def bind_mount(source: str, target: str) -> None:
    """Show *source*, with what is mounted in it, in the place of *target* (mount(2), MS_BIND)."""
    _mount(source, target, None, _MS_BIND | _MS_REC, None)


def mount_memory(target: str, options: str) -> None:
    """Show an empty folder in memory in the place of *target*, for files that are not run (tmpfs(5))."""
    _mount("tmpfs", target, "tmpfs", _NOT_RUN, options)


def forbid_writing(target: str) -> None:
    """Make the mount at *target* read-only in this mount namespace, and let no program be run from it."""
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _NOT_RUN, None)


def keep_as_it_is(target: str) -> None:
    """Make the mount at *target* read-only in this mount namespace; programs may still be run from it."""
    kept = os.statvfs(target).f_flag & _NOT_RUN  # these a user namespace may not clear
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept, None)


def unmount(target: str) -> None:
    """Take the uppermost mount at *target* away; what was bound from it stays (umount2(2), MNT_DETACH)."""
    _checked(libc().umount2(os.fsencode(target), _MNT_DETACH), f"umount of {target}")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    texts = [None if one is None else os.fsencode(one) for one in (source, target, kind, options)]
    result = libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3])
    _checked(result, f"mount over {target}")


def forbid_new_privileges() -> None:
    """From now on no program that this process becomes has more rights than it (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    _checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def keep_capabilities(kept: frozenset[int]) -> None:
    """Let no program that this process becomes have other capabilities than these (capabilities(7), bounding set)."""
    prctl = libc().prctl
    for number in range(64):
        if number not in kept and prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # there are no more


def filter_calls(program: bytes, flags: int = 0) -> int:
    """Have these instructions decide about every later system call of this process and its children (seccomp(2)).

    What is returned depends on the flags: a descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog, linux/filter.h
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.addressof(buffer))
    number = _SECCOMP.get(platform.machine())
    if number is None:
        raise OSError(f"seccomp: not tried on {platform.machine()}")
    result = libc().syscall(number, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(whole))
    return _checked(result, "seccomp")


def pidfd_open(process: int) -> int:
    """A descriptor of a process (pidfd_open(2)). Python built against an older C library has no function for it."""
    return _checked(libc().syscall(_PIDFD_OPEN, process, 0), "pidfd_open")


def take_fd(process: int, number: int) -> int:
    """A duplicate of another process's descriptor; *process* is a pidfd (pidfd_getfd(2))."""
    return _checked(libc().syscall(_PIDFD_GETFD, process, number, 0), "pidfd_getfd")


@contextlib.contextmanager
def acting_as(user: int, group: int, groups: Sequence[int]) -> Iterator[None]:
    """Be another user in this thread, for the length of a ``with``: for files, and to those that ask who connects.

    Needs root. The calls are made directly, as the C library would make all threads follow (nptl(7)). Raises OSError.
    """
    calls = [numbers[platform.machine()] for numbers in (_SETGROUPS, _SETRESGID, _SETRESUID)]
    own_groups, own_group, own_user = os.getgroups(), os.getegid(), os.geteuid()

    def become(user: int, group: int, groups: Sequence[int], order: int) -> None:
        listed = (ctypes.c_uint32 * len(groups))(*groups)
        steps = [(len(groups), listed), (-1, group, -1), (-1, user, -1)]
        for call, arguments in [*zip(calls, steps, strict=True)][::order]:
            _checked(libc().syscall(call, *arguments), "another user")

    try:
        become(user, group, groups, 1)
        yield
    finally:
        become(own_user, own_group, own_groups, -1)


# The capabilities that root keeps in the air gap (linux/capability.h): those about files, users and its own processes.
#
# It loses those that lead around a layer: other processes' memory, the network's settings, raw packets, mounts,
# devices, the kernel's own code.

_KEPT: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,  # ports below 1024, of the inside
    "SYS_CHROOT": 18,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "SETFCAP": 31,
}
KEPT: Final = frozenset(_KEPT.values())


# Protection of the guard against tracing, which gives its memory and descriptors (PR_SET_DUMPABLE, prctl(2)).

# linux/prctl.h
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4


@contextlib.contextmanager
def forbid_tracing() -> Iterator[None]:
    """Forbid all but root to trace this process, for the length of a ``with``.

    Without it a program inside could change the guard's answers, where Yama does not forbid it.
    """
    before = _prctl(_PR_GET_DUMPABLE, 0)
    _prctl(_PR_SET_DUMPABLE, 0)
    try:
        yield
    finally:
        _prctl(_PR_SET_DUMPABLE, 1 if before == 1 else 0)


def allow_tracing() -> None:
    """Allow it again in a fork of the guard: the guard must trace the fork. execve(2) does the same."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(what: int, value: int) -> int:
    result: int = libc().prctl(what, value, 0, 0, 0)
    return result


# Programs inside may not trace the user's other processes (landlock(7)). Without it a program could write into the
# memory of a shell outside and make it connect, where Yama does not forbid it (kernel.yama.ptrace_scope). Nothing else
# is restricted: not the file system, not the network.

# asm-generic/unistd.h, the same on every architecture
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
# linux/landlock.h
_ASK_VERSION: Final = 1 << 0
_PATH_BENEATH: Final = 1
_MAKE_CHAR: Final = 1 << 6
# From version 2 on; not allowed, files could not be moved to another folder.
_REFER: Final = 1 << 13
_SCOPE_ABSTRACT: Final = 1 << 0
_WITH_SCOPES: Final = 6
_WITH_REFER: Final = 2


def restrict_tracing() -> bool:
    """Restrict this thread, and what it starts, to tracing processes under the same restriction.

    Needs no_new_privs. False where the kernel has no Landlock, or one that would restrict more than that.
    """
    system = libc()
    version = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < _WITH_REFER:
        return False
    try:
        rules = _scope(system) if version >= _WITH_SCOPES else _everything(system)
        try:
            _landlock_result(system.syscall(_RESTRICT_SELF, rules, 0))
        finally:
            os.close(rules)
    except OSError:
        return False
    return True


def _scope(libc: Any) -> int:
    """Rules that say nothing of files. The guard itself connects to abstract sockets outside, by its own rules."""
    return _ruleset(libc, struct.pack("<QQQ", 0, 0, _SCOPE_ABSTRACT))


def _everything(libc: Any) -> int:
    """Rules that allow everywhere the rights that they handle."""
    about = _MAKE_CHAR | _REFER
    rules = _ruleset(libc, struct.pack("<Q", about))
    try:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            beneath = struct.pack("<Qi", about, root)
            _landlock_result(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0))
        finally:
            os.close(root)
    except OSError:
        os.close(rules)
        raise
    return rules


def _ruleset(libc: Any, attributes: bytes) -> int:
    return _landlock_result(
        libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    )


def _landlock_result(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
    return result
