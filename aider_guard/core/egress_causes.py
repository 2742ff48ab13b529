"""Why a system has no better layer of the air gap, and the setting that would change it. Rules are data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why a layer cannot be, in words, and a line to paste that would change it, "" where none would."""

    words: str
    fix: str = ""


NOT_ENFORCED = "require-airgap is set, and the kernel does not enforce the air gap here"
_CONTAINER = "docker run --security-opt seccomp=unconfined"

CAUSES: Mapping[str, Cause] = {
    # kernel.org Documentation/admin-guide/sysctl/user.rst; 0 forbids them.
    "max-user-namespaces": Cause(
        "user namespaces are switched off (user.max_user_namespaces is 0)",
        "sudo sysctl user.max_user_namespaces=15000",
    ),
    # Ubuntu 23.10 and later: a namespace can be made, and has no capabilities in it.
    "apparmor": Cause(
        "AppArmor keeps user namespaces from ordinary users"
        " (kernel.apparmor_restrict_unprivileged_userns is 1)",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    # Debian's and Arch's own switch, before they took the kernel's.
    "userns-clone": Cause(
        "user namespaces are switched off for ordinary users (kernel.unprivileged_userns_clone is 0)",
        "sudo sysctl kernel.unprivileged_userns_clone=1",
    ),
    # The default profile of Docker allows unshare(2) to nobody without CAP_SYS_ADMIN, and pidfd_getfd(2) likewise.
    "container": Cause("the container forbids namespaces", _CONTAINER),
    "pidfd": Cause("the container forbids to take a descriptor of another process", _CONTAINER),
    "ptrace": Cause(
        "no process may look into another one (kernel.yama.ptrace_scope is 2 or more)",
        "sudo sysctl kernel.yama.ptrace_scope=1",
    ),
    "no-namespaces": Cause("this kernel has no user namespaces"),
    "no-notify": Cause("this kernel is older than Linux 5.9, the first that can ask about a call"),
    "no-table": Cause("the numbers of this processor's system calls are not known"),
    "page": Cause("a browser outside must reach the page that Aider serves"),
    "not-linux": Cause("only Linux has such a layer"),
}

NAMESPACES: Sequence[tuple[str, str, str]] = (
    ("user/max_user_namespaces", "0", "max-user-namespaces"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor"),
    ("kernel/unprivileged_userns_clone", "0", "userns-clone"),
)
"""What forbids namespaces: a file below /proc/sys, what it says then, and the cause."""
FILTER: Sequence[tuple[str, str, str]] = (
    ("kernel/yama/ptrace_scope", "2", "ptrace"),
    ("kernel/yama/ptrace_scope", "3", "ptrace"),
)
"""What forbids to decide about another process's system calls."""


def cause_of(
    switches: Sequence[tuple[str, str, str]], read: Callable[[str], str], otherwise: str
) -> str:
    """The cause that the system's own settings tell, else *otherwise*.

    *read* gives what a file below /proc/sys says, "" where it cannot be read.
    """
    told = (cause for name, forbids, cause in switches if read(name).strip() == forbids)
    return next(told, otherwise)


def causes(because: str) -> tuple[Cause, ...]:
    """What a ``because`` says, in its order; what is none of the table's stands for itself."""
    return tuple(CAUSES.get(one, Cause(one)) for one in because.split("; ") if one)


def in_words(because: str) -> str:
    """Why there is no better layer, in words."""
    return "; ".join(cause.words for cause in causes(because))


def fix(because: str) -> str:
    """The first setting that would allow a better layer; "" where none is known."""
    return next((cause.fix for cause in causes(because) if cause.fix), "")
