"""What the air gap saw in a session: who tried to reach what, how often, and what was let through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from aider_guard.core.egress import ENFORCED, Layer, Place
from aider_guard.core.egress_events import EgressAllowed, EgressBlocked

MOST_DESTINATIONS: Final = 256
"""Told apart in a session: a program can ask for names without end."""
Kind = Literal["host", "lookup", "socket"]


@dataclass(frozen=True)
class Destination:
    """What somebody tried to reach: a port of a host, the address of a name, or the socket at a path."""

    kind: Kind
    host: str
    port: int


@dataclass(frozen=True)
class Tried:
    """How often, and by which program first; "" where that is not known."""

    count: int
    program: str


@dataclass(frozen=True)
class Ledger:
    """Everything that the air gap saw; destinations in the order in which they were first tried."""

    layer: Layer = "open"
    because: str = ""
    tried: Mapping[Destination, Tried] = field(default_factory=dict)
    others: int = 0
    """Attempts to destinations beyond those that are told apart."""
    through: Mapping[Place, int] = field(default_factory=dict)
    untold: tuple[Destination, ...] = ()
    notices: int = 0
    """How many were shown about attempts."""
    began: bool = True
    """Whether Aider was let begin."""

    @property
    def is_enforced(self) -> bool:
        """Whether the kernel blocks, so that this may be said."""
        return self.layer in ENFORCED

    def outside(self) -> dict[Destination, Tried]:
        """All that was tried, without lookups of names that were connected to as well."""
        return {one: tried for one, tried in self.tried.items() if not self._has_followed(one)}

    def news(self) -> dict[Destination, Tried]:
        """What the user was not told of yet."""
        return {one: tried for one, tried in self.outside().items() if one in self.untold}

    def _has_followed(self, one: Destination) -> bool:
        """Whether a name that was looked up was tried, too."""
        return one.kind == "lookup" and any(
            other.host == one.host for other in self.tried if other.kind == "host"
        )


def destination(event: EgressBlocked) -> Destination:
    """What an attempt was for. Names are the same in any case, and with a dot at their end."""
    match event.protocol:
        case "unix":
            return Destination("socket", event.host, 0)
        case "dns":
            return Destination("lookup", _name(event.host), 0)
    return Destination("host", _name(event.host), event.port)


def _name(host: str) -> str:
    return host.lower().removesuffix(".")


def with_blocked(ledger: Ledger, event: EgressBlocked) -> Ledger:
    """The ledger after an attempt."""
    one, count = destination(event), max(event.count, 0)
    before = ledger.tried.get(one)
    if before is None and len(ledger.tried) >= MOST_DESTINATIONS:
        return replace(ledger, others=ledger.others + count)
    if before is None:
        ledger = replace(ledger, untold=(*ledger.untold, one))
    tried = Tried((before.count if before else 0) + count, before.program if before else "")
    tried = replace(tried, program=tried.program or event.program)
    return replace(ledger, tried={**ledger.tried, one: tried})


def with_allowed(ledger: Ledger, event: EgressAllowed) -> Ledger:
    """The ledger after something was let through."""
    place = Place(event.host, event.port)
    count = ledger.through.get(place, 0) + max(event.count, 0)
    return replace(ledger, through={**ledger.through, place: count})
