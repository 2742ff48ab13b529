"""A wall between the programs inside and the user's other processes: the former may not trace the latter (landlock(7)).

Without it a program of the same user could write into a shell outside and have that connect, wherever Yama does not
forbid it (kernel.yama.ptrace_scope). Nothing else is restricted: not the file system, not the network.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any, Final

from aider_guard.airgap import kernel

# asm-generic/unistd.h, the same on every architecture
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
# linux/landlock.h
_ASK_VERSION: Final = 1 << 0
_PATH_BENEATH: Final = 1
_MAKE_CHAR: Final = 1 << 6
_REFER: Final = (
    1 << 13
)  # from version 2 on; not allowed, files could not be moved to another folder
_SCOPE_ABSTRACT: Final = 1 << 0
_WITH_SCOPES: Final = 6
_WITH_REFER: Final = 2


def separate() -> bool:
    """From now on this thread, and what it starts, may trace only what is as separated as itself.

    Needs no_new_privs. False where the kernel has no Landlock, or one that would restrict more than that.
    """
    libc = kernel.libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < _WITH_REFER:
        return False
    try:
        rules = _scope(libc) if version >= _WITH_SCOPES else _everything(libc)
        try:
            _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
        finally:
            os.close(rules)
    except OSError:
        return False
    return True


def _scope(libc: Any) -> int:
    """Rules without a file in them. Abstract sockets outside are the guard's to connect to, by its own rule."""
    return _ruleset(libc, struct.pack("<QQQ", 0, 0, _SCOPE_ABSTRACT))


def _everything(libc: Any) -> int:
    """Rules that allow, everywhere, all that they are about."""
    about = _MAKE_CHAR | _REFER
    rules = _ruleset(libc, struct.pack("<Q", about))
    try:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            beneath = struct.pack("<Qi", about, root)
            _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0))
        finally:
            os.close(root)
    except OSError:
        os.close(rules)
        raise
    return rules


def _ruleset(libc: Any, attributes: bytes) -> int:
    return _checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
    return result
