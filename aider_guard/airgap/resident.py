"""Living in a jail: whose user identifiers mean what there, and how a process gets in for good."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Final

from aider_guard.airgap import callfilter, kernel
from aider_guard.airgap.capabilities import KEPT

_KINDS: Final = (kernel.CLONE_NEWUSER, kernel.CLONE_NEWNET, kernel.CLONE_NEWNS)


@dataclass
class Namespaces:
    """Descriptors of a jail's namespaces; they keep it in being while nobody is in it."""

    user: int
    net: int
    mount: int

    def enter(self) -> None:
        """Make this process, and whatever it becomes, live there. For a process with one thread. Raises OSError."""
        folder = os.getcwd()
        for fd, kind in zip((self.user, self.net, self.mount), _KINDS, strict=True):
            kernel.setns(fd, kind)
        os.chdir(folder)  # the mount namespace put us at its root
        kernel.keep_capabilities(KEPT if os.geteuid() == 0 else frozenset())
        filter_calls()

    def close(self) -> None:
        """Let go of them. Twice is no error."""
        for name in ("user", "net", "mount"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


def filter_calls() -> None:
    """Refuse this process, and whatever it becomes, the calls that no namespace holds. Raises OSError."""
    kernel.forbid_new_privileges()
    calls = callfilter.CALLS.get(platform.machine())
    if calls is not None:
        kernel.filter_calls(callfilter.program_in_a_jail(calls))


def write_maps(process: int) -> None:
    """Say who is who in the user namespace that a process has just made (user_namespaces(7)).

    Root keeps all users that there are here; everybody else may only be themselves, and other users' files seem to be
    nobody's. Raises OSError.
    """
    if os.geteuid() == 0 and _write_all(process):
        return
    _write(process, "setgroups", "deny")
    _write(process, "uid_map", f"{os.geteuid()} {os.geteuid()} 1")
    _write(process, "gid_map", f"{os.getegid()} {os.getegid()} 1")


def _write_all(process: int) -> bool:
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/self/{name}", encoding="ascii") as lines:
                ours = [line.split() for line in lines]
            _write(process, name, "".join(f"{first} {first} {count}\n" for first, _, count in ours))
    except PermissionError:  # a root of a container that may not
        return False
    return True


def _write(process: int, name: str, text: str) -> None:
    with open(f"/proc/{process}/{name}", "w", encoding="ascii") as file:
        file.write(text)
