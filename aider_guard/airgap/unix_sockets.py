"""Decides which Unix sockets programs inside may reach: their own, some agents and the display, and the user's own.

A socket that is a file is reached through the file system, past every network namespace, and a daemon behind it may go
out or start programs. So none is reached but those that are known. Known is a socket, not a file: a file can be moved
to another name from inside. The kernel tells which socket listens behind a file, and by which name that was bound
(unix_diag, linux/unix_diag.h).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap.notify import CallingThread
from aider_guard.airgap.proc import diag_socket, dump
from aider_guard.paths import sessions_dir

_AGENTS: Final = ("S.gpg-agent", "S.gpg-agent.ssh", "S.gpg-agent.extra", "S.scdaemon", "S.keyboxd")
"""Sockets of GnuPG: they sign, and know keys. Its dirmngr is none of them: it fetches keys from servers."""


@dataclass(frozen=True)
class KnownSockets:
    """Paths of sockets outside that may be reached: ``*`` is any part of a name. *allowed* ones are counted."""

    paths: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()


NONE_KNOWN: Final = KnownSockets()


def known_sockets(environment: Mapping[str, str], allowed: Sequence[str]) -> KnownSockets:
    """Return which sockets outside may be reached.

    These are the agents of ssh and GnuPG, which sign and do not connect, the display, sessions of the guard, and the
    *allowed* ones.
    """
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    home = environment.get("HOME") or "/nonexistent"
    display = environment.get("WAYLAND_DISPLAY", "")
    gnupg = (f"{runtime}/gnupg", f"{runtime}/gnupg/d.*", f"{home}/.gnupg")
    folders = (*gnupg, *filter(None, [environment.get("GNUPGHOME")]))
    paths = [
        *allowed,
        environment.get("SSH_AUTH_SOCK", ""),
        *(f"{folder}/{name}" for folder in folders for name in _AGENTS),
        "/tmp/.X11-unix/X*",  # noqa: S108  # the X server's own place
        f"{runtime}/wayland-*",
        display,
        f"{sessions_dir(environment)}/*/control",  # for ``aider-guard status``: it answers, and may restart Aider
        f"{tempfile.gettempdir()}/aider-guard-*/control",  # where the other path is too long
    ]
    names = (name for path in paths if path.startswith("/") for name in _names(path))
    return KnownSockets(
        tuple(dict.fromkeys(names)), frozenset(name for path in allowed for name in _names(path))
    )


def _names(path: str) -> Iterator[str]:
    """The names by which a server may bind this path: links are followed now, before a program inside can make one."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    yield from (path, real)
    if real.startswith("/run/"):
        yield f"/var{real}"  # the older name


# struct unix_diag_req, unix_diag_msg, nlattr, unix_diag_vfs (linux/unix_diag.h, linux/netlink.h)
_QUESTION: Final = struct.Struct("=BBHIIIII")
_ANSWER: Final = struct.Struct("=BBBxI8x")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FILE: Final = struct.Struct("=II")
_ALL_STATES: Final = 0xFFFFFFFF
_SHOW_NAME_AND_FILE: Final = 1 | 2
_NAME, _VFS = 0, 1
_DEVICE_SHIFT: Final = 20  # MINORBITS, linux/kdev_t.h: how the kernel packs a device's number


@dataclass(frozen=True)
class BoundSocket:
    """A Unix socket with a name: its number, the name by which it was bound, and its file's device and inode."""

    number: int
    name: bytes
    device: tuple[int, int] = (0, 0)
    inode: int = 0


def bound_sockets(channel: socket.socket) -> list[BoundSocket]:
    """Ask the kernel for all Unix sockets with a name in the network of *channel* (sock_diag(7)).

    Those that a server has accepted are among them, with the name and file of the server. Raises OSError where the
    kernel does not answer.
    """
    question = _QUESTION.pack(
        socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME_AND_FILE, _ALL_STATES, _ALL_STATES
    )
    found = []
    for body in dump(channel, question):
        attributes = dict(_attributes(body[_ANSWER.size :]))
        if _NAME in attributes:
            inode, device = _FILE.unpack(attributes.get(_VFS, bytes(_FILE.size)))
            numbers = device >> _DEVICE_SHIFT, device & ((1 << _DEVICE_SHIFT) - 1)
            found.append(
                BoundSocket(_ANSWER.unpack_from(body)[3], attributes[_NAME], numbers, inode)
            )
    return found


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[max(_ATTRIBUTE.size, length + 3 & ~3) :]


# The file of a Unix socket is opened once, judged, and connected to by that descriptor, so that it cannot be exchanged
# in between.


@dataclass(frozen=True)
class HeldFile:
    """A file that is held open: its real path, and a path that leads to it even when files are renamed."""

    real_path: str
    through: str
    number: tuple[int, int]
    """Device and inode, as in stat(2)."""
    is_socket: bool = True
    devices: Callable[[], set[tuple[int, int]]] = set
    """The device of its file system, major and minor; stat(2) gives another one for btrfs."""

    def is_of(self, bound: BoundSocket) -> bool:
        """Whether this is the file of a socket."""
        device, inode = self.number
        if bound.inode != inode & 0xFFFFFFFF:  # unix_diag has 32 bits of it
            return False
        is_here = bound.device == (os.major(device), os.minor(device))
        return is_here or bound.device in self.devices()


@contextlib.contextmanager
def open_as_caller(path: bytes, caller: CallingThread) -> Iterator[HeldFile]:
    """Open the file as the caller would, from its root and folder. Raises OSError as a connection would."""
    start, path = _start_for_guard(path, caller)
    folder = os.open(start, os.O_PATH | os.O_CLOEXEC)
    try:
        with caller.rights():
            fd = os.open(path or b".", os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        caller.check()
        with hold(fd, caller.process) as file:
            yield file
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold(fd: int, process: int) -> Iterator[HeldFile]:
    """The file behind a descriptor, which was found in the mounts of this process."""
    status, through = os.fstat(fd), f"/proc/self/fd/{fd}"
    real = os.readlink(through).removesuffix(" (deleted)")  # the kernel's word for a removed file
    number = status.st_dev, status.st_ino
    yield HeldFile(
        real, through, number, stat.S_ISSOCK(status.st_mode), lambda: _devices(fd, process)
    )


def _devices(fd: int, process: int) -> set[tuple[int, int]]:
    """The device of the mount that a descriptor's file is in (proc_pid_mountinfo(5)); none where it is not found."""
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            mount = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
        for one in (str(process), "self"):
            with open(f"/proc/{one}/mountinfo", "rb") as rows:
                for row in rows:
                    fields = row.split(maxsplit=3)
                    if fields[0] == mount.encode():
                        major, _, minor = fields[2].partition(b":")
                        return {(int(major), int(minor))}
    return set()


def _start_for_guard(path: bytes, caller: CallingThread) -> tuple[bytes, bytes]:
    """A folder and the caller's path from there: the guard has another root, folder and ``/proc/self``."""
    itself = b"/proc/%d/" % caller.process
    for prefix, start in (
        (b"/proc/self/", b""),
        (b"/proc/thread-self/", b""),
        (b"/dev/fd/", b"fd/"),
    ):
        if path.startswith(prefix):
            return itself + start, path.removeprefix(prefix).lstrip(b"/")
    start = b"root" if path.startswith(b"/") else b"cwd"
    return b"/proc/%d/%s" % (caller.thread, start), path.lstrip(b"/")


class UnixSockets:
    """Tells which Unix sockets programs inside may reach.

    Args:
        known: which sockets outside may be reached.
        is_own: whether a socket is one of the programs inside, by its number.
        inside: a socket that asks the kernel about the network inside; None where that is this machine's. All sockets
            in a network of their own are the programs' own.
    """

    def __init__(
        self,
        known: KnownSockets,
        is_own: Callable[[int], bool],
        inside: socket.socket | None = None,
    ) -> None:
        self._known, self._allowed = _pattern(known.paths), known.allowed
        self._is_own, self._inside = is_own, inside
        self._channel = diag_socket()
        # A server may bind one name and link it to another (ssh's shared connections): the sockets that are at a
        # known place now are known by their numbers.
        self._numbers = set(self._at(known.paths))

    def close(self) -> None:
        """Close what it asks the kernel with. Twice is no error."""
        self._channel.close()

    def may_reach_file(self, file: HeldFile) -> bool:
        """Whether the socket behind this file may be reached. False where the kernel does not tell whose it is."""
        with contextlib.suppress(OSError):
            if self._inside is not None and any(map(file.is_of, bound_sockets(self._inside))):
                return True
            return any(
                self._is_known(one) for one in bound_sockets(self._channel) if file.is_of(one)
            )
        return False

    def is_allowed(self, file: HeldFile) -> bool:
        """Whether a file that may be reached is one that the user lets through."""
        return file.real_path in self._allowed

    def may_reach_name(self, name: bytes) -> bool:
        """Whether an abstract socket may be reached: one of a program inside. Those outside belong to anybody."""
        if self._inside is not None:
            return True  # the kernel finds no others in this network
        with contextlib.suppress(OSError):
            named = (one for one in bound_sockets(self._channel) if one.name == b"\0" + name)
            return any(self._is_own(one.number) for one in named)
        return False

    def _is_known(self, bound: BoundSocket) -> bool:
        if self._is_own(bound.number) or bound.number in self._numbers:
            return True
        name = os.fsdecode(bound.name.rstrip(b"\0"))
        return bool(self._known.fullmatch(name))

    def _at(self, known: Sequence[str]) -> Iterator[int]:
        """The numbers of the sockets that are at these paths now."""
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            files = []
            for path in known:
                with contextlib.suppress(OSError):
                    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    files.append(stack.enter_context(hold(fd, os.getpid())))
            if files:
                for bound in bound_sockets(self._channel):
                    if any(file.is_of(bound) for file in files):
                        yield bound.number


def _pattern(paths: Sequence[str]) -> re.Pattern[str]:
    """What matches these paths, in which ``*`` is any part of a name."""
    return re.compile(
        "|".join(re.escape(path).replace(r"\*", "[^/]*") for path in paths) or r"\b\B"
    )
