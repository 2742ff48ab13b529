"""Words of the air gap: layers, attempts to get out, and what the user lets through. Pure values."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

Layer = Literal["netns", "seccomp", "asked", "open"]
"""What keeps Aider in: a network namespace, a filter of system calls, only requests to behave, or nothing."""
Protocol = Literal["tcp", "udp", "dns", "unix", "other"]

ENFORCED: Final[tuple[Layer, ...]] = ("netns", "seccomp")
"""The layers by which the kernel blocks; only of these "blocked" is said."""

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z"
)


@dataclass(frozen=True)
class Place:
    """A host, by its name or address, and a port: what ``allow`` lets through."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Attempt:
    """Somebody in the air gap tried to reach something else than the door, ``count`` times.

    ``host`` is the name that was asked for, as far as it is known, else the address; for the protocol ``unix`` it is a
    path and the port is 0. A name that was only looked up has the protocol ``dns`` and port 53. ``program`` is "" where
    it is not known.
    """

    host: str
    port: int
    protocol: Protocol
    program: str = ""
    count: int = 1


@dataclass(frozen=True)
class LayerChoice:
    """The best layer that worked when it was tried, and why no better one did.

    ``because`` is "" for the best, else causes of core/egress_causes.py or words of its own, split by ``"; "``.
    """

    layer: Layer
    because: str = ""


def parse_place(text: str) -> Place:
    """``HOST:PORT`` or ``[IPv6]:PORT``, exactly one port. Raises ValueError for anything else."""
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
