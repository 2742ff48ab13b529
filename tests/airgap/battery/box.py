"""Builds a box around this process: another machine's files, processes, users and network, with nothing of this one.

The system's folders are there, read-only. ``/tmp``, ``/run``, ``/home``, ``/root`` and ``/dev`` are the box's own, and
end with it; so do its processes, which see no others. Its network has two machines with a cable between them: this
process is on one, the witness goes to the other (outside.py). Needs user namespaces, ``ip`` (iproute2) and Linux 5.12.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

from airgap.battery.way import MACHINE, MACHINE_6, NAME_SERVER, OUTSIDE, OUTSIDE_6

from aider_guard.airgap import kernel

CHECKOUT = Path(__file__).resolve().parents[3]
HOME = Path("/home/tester")
USER = 1000
"""The ordinary user of a box."""
_ALL_USERS = "0 0 4294967295"
_KINDS = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWNET
    | 0x08000000  # CLONE_NEWIPC
    | 0x20000000  # CLONE_NEWPID
    | 0x04000000  # CLONE_NEWUTS
)
# linux/mount.h, linux/fcntl.h, asm-generic/unistd.h (the same on x86-64), asm/unistd_64.h
_BIND, _PRIVATE, _DETACH = 0x1000 | 0x4000, 0x40000 | 0x4000, 2
_MOUNT_SETATTR, _READ_ONLY, _RECURSIVE = 442, 1, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
_SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "sys", "usr")
_OWN = ("tmp", "run", "home", "root", "proc", "dev", "nix", "var")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class NoBoxError(Exception):
    """There can be no box on this machine; says why."""


def _mount(source: str, target: object, kind: str = "", flags: int = 0, options: str = "") -> None:
    texts = [os.fsencode(str(one)) if one else None for one in (source, target, kind, options)]
    if kernel.libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3]):
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")


def _show(folder: str, root: Path) -> None:
    """Show a folder of this machine, and what is mounted in it, in the box: read-only."""
    target = root / folder.lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    _mount(folder, target, flags=_BIND)
    attributes = struct.pack("QQQQ", _READ_ONLY, 0, 0, 0)
    where = os.fsencode(target)
    if kernel.libc().syscall(_MOUNT_SETATTR, -100, where, _RECURSIVE, attributes, len(attributes)):
        raise OSError(ctypes.get_errno(), f"{folder} cannot be shown read-only (Linux 5.12)")


def _build_files(root: Path) -> None:
    _mount("none", "/", flags=_PRIVATE)
    _mount("tmpfs", root, "tmpfs", options="mode=755")
    for name in filter(lambda name: os.path.lexists(f"/{name}"), _SYSTEM):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
        else:
            _show(f"/{name}", root)
    for name in _OWN:
        (root / name).mkdir(exist_ok=True)
    for folder in sorted({sys.base_prefix, sys.prefix, str(CHECKOUT)}):
        if not (root / folder[1:]).exists():
            _show(folder, root)
    _mount("proc", root / "proc", "proc")
    dev = root / "dev"
    for name in _DEVICES:
        (dev / name).touch()
        _mount(f"/dev/{name}", dev / name, flags=_BIND)
    for folder in ("pts", "shm"):
        (dev / folder).mkdir()
    _mount("devpts", dev / "pts", "devpts", options="newinstance,ptmxmode=0666,mode=0666")
    for link, to in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd")):
        (dev / link).symlink_to(to)
    (root / "var" / "tmp").mkdir()
    (root / "var" / "run").symlink_to("/run")
    for folder in ("tmp", "dev/shm", "var/tmp"):
        (root / folder).chmod(0o1777)
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    if kernel.libc().syscall(number, b".", b"."):
        raise OSError(ctypes.get_errno(), "pivot_root")
    kernel.libc().umount2(b".", _DETACH)
    os.chdir("/")
    _answer_names()


def _answer_names() -> None:
    texts = {
        "/etc/resolv.conf": f"nameserver {NAME_SERVER}\noptions timeout:2 attempts:1\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    for path, text in texts.items():
        real = Path(os.path.realpath(path))
        if real.is_relative_to("/run"):
            real.parent.mkdir(parents=True)
            real.write_text(text)
        elif real.exists():
            ours = Path("/tmp") / real.name
            ours.write_text(text)
            _mount(str(ours), real, flags=_BIND)


def run_ip(*lines: str) -> None:
    """Run commands of ``ip`` in this process's network. Raises OSError with its words."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}")


def set_switches() -> None:
    """Have fast open on both sides without a cookie, and echo requests for all, in this network (ip-sysctl)."""
    groups = "0 65535" if _maps_all() else "0 0"
    for name, value in (("tcp_fastopen", "1543"), ("ping_group_range", groups)):
        path = Path("/proc/sys/net/ipv4") / name
        if path.exists():
            path.write_text(value)


def _maps_all() -> bool:
    """Whether this user namespace has other users than root."""
    return int(Path("/proc/self/gid_map").read_text().split()[2]) > 1


def lay_cable(other: int) -> None:
    """Join this network with that of another process, which is the other machine."""
    run_ip(
        "link set lo up",
        f"link add net0 type veth peer name net0 netns {other}",
        f"address add {MACHINE}/24 broadcast + dev net0",
        f"address add {MACHINE_6}/64 dev net0 nodad",
        "link set net0 up",
        f"route add default via {OUTSIDE}",
        f"route add default via {OUTSIDE_6}" if os.path.exists("/proc/net/if_inet6") else "",
    )
    set_switches()


def be_other_machine() -> None:
    """Take every address that comes over the cable."""
    run_ip(
        "link set lo up",
        f"address add {OUTSIDE}/24 broadcast + dev net0",
        f"address add {NAME_SERVER}/32 dev net0",
        f"address add {OUTSIDE_6}/64 dev net0 nodad",
        "link set net0 up",
        "route add local 0.0.0.0/0 dev lo table main",
        "route add local ::/0 dev lo table main" if os.path.exists("/proc/net/if_inet6") else "",
    )
    set_switches()


def why_not() -> str:
    """Why there can be no box on this machine; "" when it has what is looked for."""
    if not kernel.IS_LINUX or os.uname().machine not in _PIVOT_ROOT:
        return "a box needs Linux on x86-64 or aarch64"
    return "" if shutil.which("ip") else "a box needs ip (iproute2)"


def run_in_box(work: Callable[[], None], folder: Path) -> None:
    """Run *work* in a box, as its root and its first process. *folder* is empty and stays so.

    Raises NoBoxError when this machine allows no box.
    """
    if reason := why_not():
        raise NoBoxError(reason)
    words, theirs = os.pipe()
    go, unshared = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _run_child(work, folder, (go[0], unshared[1], theirs))
    for fd in (theirs, unshared[1], go[0]):
        os.close(fd)
    try:
        if os.read(unshared[0], 1):
            _write_maps(child)
            os.write(go[1], b".")
        with open(words, encoding="utf-8", closefd=False) as reading:
            reason = reading.read()
    finally:
        os.waitpid(child, 0)
        for fd in (words, go[1], unshared[0]):
            os.close(fd)
    if reason:
        raise NoBoxError(reason)


def _run_child(work: Callable[[], None], folder: Path, fds: Sequence[int]) -> None:
    """Become the box's first process; never returns. A fault before *work* is written to the last descriptor."""
    go, unshared, words = fds
    try:
        kernel.libc().prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        kernel.unshare(_KINDS)
        os.write(unshared, b".")
        os.read(go, 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        first = os.fork()
        if first:
            os.close(words)
            os.waitpid(first, 0)
            os._exit(0)
        kernel.libc().prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        _build_files(folder)
    except BaseException as error:  # noqa: BLE001  # told to the parent
        os.write(words, f"a box cannot be made here: {error}".encode())
        os._exit(1)
    os.close(words)
    try:
        work()
    except BaseException:  # noqa: BLE001  # this is the child's end
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _write_maps(child: int) -> None:
    """Map all users where root may, else this user to the box's root."""
    texts = {"uid_map": _ALL_USERS, "gid_map": _ALL_USERS}
    if os.geteuid():
        texts = {
            "setgroups": "deny",
            "uid_map": f"0 {os.geteuid()} 1",
            "gid_map": f"0 {os.getegid()} 1",
        }
    for name, text in texts.items():
        Path(f"/proc/{child}/{name}").write_text(text)


def become_user() -> bool:
    """Become the ordinary user of the box. False: only root is mapped here, and it is the only user of a namespace."""
    try:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    except OSError:
        kernel.unshare(kernel.CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{USER} 0 1"),
            ("gid_map", f"{USER} 0 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
        return False
    kernel.libc().prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is the user's own again
    return True


def take_terminal(fd: int) -> None:
    """Make this terminal that of this session of processes."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
