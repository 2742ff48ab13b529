"""What happened at the air gap. ``Event`` (core/events.py) has these in its union."""

from __future__ import annotations

from dataclasses import dataclass

from aider_guard.core.egress import Attempt, Layer, Protocol

MOST_CHARACTERS = 253
"""Of a name or a path that somebody tried: a host's name has no more (RFC 1035)."""


def printable(text: str) -> str:
    """A text of an attempt as it may be shown and written down: it can hold anything, on purpose too."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)[:MOST_CHARACTERS]


@dataclass(frozen=True)
class AirGapChosen:
    """This layer keeps Aider in from now on. ``because`` is why no better one, as in ``Found``."""

    layer: Layer
    because: str = ""


@dataclass(frozen=True)
class EgressBlocked:
    """A program in the air gap tried to reach something else than the door, ``count`` times more.

    The facts are those of ``Attempt``. With the layer ``asked`` it was turned away where it asked, which is no block.
    """

    host: str
    port: int
    protocol: Protocol
    program: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        """Keep only what may be shown, whoever made it."""
        object.__setattr__(self, "host", printable(self.host))
        object.__setattr__(self, "program", printable(self.program))

    @classmethod
    def of(cls, attempt: Attempt) -> EgressBlocked:
        """The event of an attempt."""
        return cls(
            attempt.host, attempt.port, attempt.protocol, attempt.program, count=attempt.count
        )


@dataclass(frozen=True)
class EgressAllowed:
    """A place that the user lets through was reached, ``count`` times more."""

    host: str
    port: int
    count: int = 1


EgressEvent = AirGapChosen | EgressBlocked | EgressAllowed
