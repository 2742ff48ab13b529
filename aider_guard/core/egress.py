"""Values of the air gap: its layers, why there is no better one, attempts to leave it, and the allowed places."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Layer = Literal["netns", "seccomp", "asked", "open"]
"""How Aider is confined: in a network namespace, by a filter of system calls, by mere requests to behave, or not."""
Protocol = Literal["tcp", "udp", "dns", "unix", "http", "other"]
"""How it was tried; ``http`` is a request to a cloud that came to the door, which answered it."""

ENFORCED: Final[tuple[Layer, ...]] = ("netns", "seccomp")
"""The layers that the kernel enforces; only for these the words say "blocked"."""

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z"
)


@dataclass(frozen=True)
class Place:
    """A host, by its name or address, and a port, as in ``--allow``."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:  # of a socket, in what was let through
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SocketPath:
    """A Unix socket by its path, as in ``--allow``."""

    path: str

    def __str__(self) -> str:
        return self.path


Allowed = Place | SocketPath
"""What the user lets through the air gap."""


@dataclass(frozen=True)
class Attempt:
    """A program in the air gap tried to reach something else than the door, ``count`` times.

    ``host`` is the name if it is known, else the address; for the protocol ``unix`` it is a path and the port is 0. A
    name that was only looked up has the protocol ``dns`` and port 53. ``program`` is "" where unknown.
    """

    host: str
    port: int
    protocol: Protocol
    program: str = ""
    count: int = 1
    is_allowed: bool = False
    """Whether the user lets it through: then it was no attempt to leave, and is counted as what passed."""


@dataclass(frozen=True)
class LayerChoice:
    """The best layer that worked when it was tried, and why no better one did.

    ``because`` is "" for the best, else ids of ``CAUSES`` below or free words, split by ``"; "``.
    """

    layer: Layer
    because: str = ""


def parse_place(text: str) -> Place:
    """Parse ``HOST:PORT`` or ``[IPv6]:PORT`` with exactly one port. Raises ValueError for anything else."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]") and "%" not in host:
        return Place(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    host = host.lower().removesuffix(".")
    if re.fullmatch(r"[0-9.]+", host):
        return Place(str(ipaddress.IPv4Address(host)), int(port))
    if not _NAME.match(host):
        raise ValueError(text)
    return Place(host, int(port))


def parse_allowed(text: str) -> Allowed:
    """Parse a place, or the complete path of a socket. Raises ValueError for anything else, patterns included."""
    path = text.strip()
    if not path.startswith("/"):
        return parse_place(text)
    if not path.isprintable() or "*" in path or path.endswith("/") or ".." in path.split("/"):
        raise ValueError(text)
    return SocketPath(re.sub("/+", "/", path))


def places(allowed: Sequence[Allowed]) -> tuple[Place, ...]:
    """Return the hosts and ports among what the user allows."""
    return tuple(one for one in allowed if isinstance(one, Place))


def socket_paths(allowed: Sequence[Allowed]) -> tuple[str, ...]:
    """Return the paths of sockets among what the user allows."""
    return tuple(one.path for one in allowed if isinstance(one, SocketPath))


def layer_in_words(layer: Layer) -> str:
    """Return in words what a layer does."""
    return {
        "netns": "the kernel blocks: Aider runs in a network of its own",
        "seccomp": "the kernel blocks: each connection of Aider's is decided by the guard",
        "asked": "nothing is blocked: Aider and its programs are only asked to behave",
        "open": "the network is open: nothing is blocked",
    }[layer]


# Why a system has no better layer of the air gap, and the setting that would change that.


@dataclass(frozen=True)
class Cause:
    """Why a layer is not possible, in words, and a command that would change that, "" where none would."""

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
    # The default profile of Docker allows unshare(2) and pidfd_getfd(2) only with CAP_SYS_ADMIN.
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
"""The settings that forbid namespaces: a file below /proc/sys, the value that forbids, and the cause."""
FILTER: Sequence[tuple[str, str, str]] = (
    ("kernel/yama/ptrace_scope", "2", "ptrace"),
    ("kernel/yama/ptrace_scope", "3", "ptrace"),
)
"""The settings that forbid to decide about another process's system calls, likewise."""


def cause_of(
    switches: Sequence[tuple[str, str, str]], read: Callable[[str], str], otherwise: str
) -> str:
    """Return the cause by the system's own settings, else *otherwise*.

    *read* returns the content of a file below /proc/sys, "" where it cannot be read.
    """
    forbidding = (cause for name, forbids, cause in switches if read(name).strip() == forbids)
    return next(forbidding, otherwise)


def causes(because: str) -> tuple[Cause, ...]:
    """Return the causes in a ``because``, in order; free words are a cause of their own."""
    return tuple(CAUSES.get(place, Cause(place)) for place in because.split("; ") if place)


def in_words(because: str) -> str:
    """Return in words why there is no better layer."""
    return "; ".join(cause.words for cause in causes(because))


def fix(because: str) -> str:
    """Return the first command that would allow a better layer; "" where none is known."""
    return next((cause.fix for cause in causes(because) if cause.fix), "")
