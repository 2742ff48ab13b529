"""Changes what programs in a jail see of some files: shows a copy, or makes them read-only.

For a process that has just got a mount namespace of its own, with all rights there. Its mounts are not visible outside.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import kernel
from aider_guard.airgap.own_files import movable_folders

# ssh reads some of its settings only when they are root's or the user's own (readconf.c of OpenSSH).
#
# In a user namespace with one user, root's files belong to the overflow user, and ssh ends with "Bad owner or
# permissions". It checks the user's own file and every included file, not the system's file itself.

_SYSTEM: Final = ("/etc/ssh", "/usr/etc/ssh")  # the second one is where openSUSE has it
_INCLUDE: Final = re.compile(r"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
_MOST_DEPTH: Final = 16  # ssh goes no deeper


def checked_files(system: tuple[str, ...] = _SYSTEM) -> tuple[str, ...]:
    """Return the real paths of the settings files whose owner this user's ssh checks, each once."""
    own = os.path.expanduser("~/.ssh")
    paths = [os.path.realpath(f"{own}/config"), *_included(f"{own}/config", own)]
    for folder in system:
        paths += _included(f"{folder}/ssh_config", "/etc/ssh")
    return tuple(dict.fromkeys(path for path in paths if os.path.isfile(path)))


def _included(path: str, folder: str, depth: int = 1) -> Iterator[str]:
    """The files that this file includes, and those that they include; a relative name is one in *folder*."""
    for pattern in _patterns(path) if depth <= _MOST_DEPTH else ():
        for name in glob.iglob(os.path.join(folder, os.path.expanduser(pattern))):  # noqa: PTH207  # ssh's patterns are of whole paths
            yield os.path.realpath(name)
            yield from _included(name, folder, depth + 1)


def _patterns(path: str) -> Iterator[str]:
    """What the ``Include`` lines of a file say; ssh, too, goes on without a file that it cannot read."""
    with (
        contextlib.suppress(OSError),
        open(path, encoding="utf-8", errors="surrogateescape") as file,
    ):
        for match in filter(None, map(_INCLUDE.match, file)):
            with contextlib.suppress(ValueError):  # an open quote: ssh reports it
                yield from shlex.split(match[1], comments=True)


_MOST_BYTES: Final = 1 << 16
"""A larger file is not copied: the files in question are settings and process numbers."""
_FOLDER: Final = "size=16m,nr_inodes=4096"
_ROOTS: Final = ("/proc/sys", "/sys")
"""Kernel settings that root may write; some start programs outside (kernel.core_pattern, core(5))."""


@dataclass(frozen=True)
class _Copy:
    content: bytes
    mode: int


def readable_by_owner() -> Mapping[str, _Copy]:
    """Return copies of root's files that ssh will not read in a user namespace. To be called outside, before it."""
    if os.geteuid() == 0:
        return {}
    roots = (path for path in checked_files() if os.stat(path).st_uid == 0)
    return {path: copy for path in roots if (copy := _read(path))}


def show_as_own(files: Mapping[str, _Copy]) -> None:
    """Show each copy, which the user owns, in the place of its file. Raises OSError."""
    if not files:
        return
    with contextlib.ExitStack() as stack:
        targets = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in files}
        for fd in targets.values():
            stack.callback(os.close, fd)
        folder = os.path.dirname(next(iter(files)))  # it is there, and hidden only for a moment
        kernel.mount_memory(folder, _FOLDER)
        stack.callback(kernel.unmount, folder)
        for path, copy in files.items():
            new = f"{folder}/{targets[path]}"
            _write(new, copy)
            kernel.bind_mount(new, f"/proc/self/fd/{targets[path]}")


def forbid_changes(files: Sequence[str], but: Sequence[str]) -> None:
    """Make files and folders read-only, with all below them *but* for some folders. Raises OSError.

    The folders above them become mounts, too, which no program can rename: another folder could take the place of one.
    """
    above = {folder for path in files for folder in movable_folders(path)}
    for path in (*sorted(above), *files, *filter(os.path.isdir, but)):
        with contextlib.suppress(FileNotFoundError):
            kernel.bind_mount(path, path)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            kernel.keep_as_it_is(path)


def protect_kernel_settings() -> None:
    """Make the kernel's settings read-only for root: they are those of the whole machine. Raises OSError."""
    if os.geteuid() != 0:
        return
    for folder in filter(os.path.isdir, _ROOTS):
        kernel.bind_mount(folder, folder)
        kernel.forbid_writing(folder)


def _read(path: str) -> _Copy | None:
    """A copy of a plain file; None where it is no such file, is too large, or cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        with open(path, "rb") as file:
            return _Copy(file.read(_MOST_BYTES), stat.S_IMODE(status.st_mode))
    except OSError:
        return None


def _write(path: str, copy: _Copy) -> None:
    with open(path, "xb") as file:
        file.write(copy.content)
        os.fchmod(file.fileno(), copy.mode)
