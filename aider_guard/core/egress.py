"""Values of the air gap: its layers, attempts to leave it, and the places that the user allows."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

Layer = Literal["netns", "seccomp", "asked", "open"]
"""How Aider is confined: in a network namespace, by a filter of system calls, by mere requests to behave, or not."""
Protocol = Literal["tcp", "udp", "dns", "unix", "other"]

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
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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


@dataclass(frozen=True)
class LayerChoice:
    """The best layer that worked when it was tried, and why no better one did.

    ``because`` is "" for the best, else ids of ``CAUSES`` (core/egress_messages.py) or free words, split by ``"; "``.
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
