"""What one way out is, and how the witness and the guard's reports know it: each has a port and a word of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

OUTSIDE, OUTSIDE_6 = "192.0.2.10", "2001:db8::10"
"""The other machine of a box (documentation addresses: RFC 5737, RFC 3849)."""
MACHINE, MACHINE_6 = "192.0.2.1", "2001:db8::1"
"""The box's own machine, where the guard runs, on the network between both."""
NAME_SERVER = "192.0.2.53"
FIRST_PORT, FIRST_SERVICE, FIRST_SERVER = 20000, 22000, 24000
"""Of each way: its port of the other machine, of a service of the machine, and for a server of its own."""
BYSTANDERS_PORT = 19999
"""Where a program outside the air gap is connected before anything is tried."""
OLLAMA_PORT = 11434

_WORD = re.compile(rb"zq(\d{3})x", re.IGNORECASE)

LAYERS = ("netns", "seccomp")
USERS = ("root", "user")


@dataclass(frozen=True)
class Way:
    """One way out.

    ``code`` runs inside, in a process of its own, with the names of inside.py. ``named`` is what a report of the guard
    must hold; in it ``{out}``, ``{port}``, ``{service}`` and ``{word}`` are replaced. ``silent`` says for a layer, or
    for "both", why no report can name it. ``sockets`` are paths where a daemon listens, each with a kind after a space.
    """

    id: str
    kind: str
    code: str
    named: str = "{out}:{port}"
    silent: Mapping[str, str] = field(default_factory=dict)
    sockets: Sequence[str] = ()
    later: Mapping[str, str] = field(default_factory=dict)
    """Why something may come out at the next start of the guard, for a layer or for "both"; not in this session."""
    has_service: bool = False
    """Whether it is after a service of the machine itself, on its loopback interface."""
    stage: str = "session"
    """When it runs: in a ``session``; it waits for the ``end`` of that; in one whose guard is ``killed``; or in a run
    without a conversation, which has the user's terminal (``keys``)."""

    def why_silent(self, layer: str) -> str:
        """Why no report of this layer can name it; "" when one must."""
        return self.silent.get(layer) or self.silent.get("both", "")

    def why_later(self, layer: str) -> str:
        """Why it may do something at the guard's next start in this layer; "" when it must not."""
        return self.later.get(layer) or self.later.get("both", "")


@dataclass(frozen=True)
class Numbered:
    """A way with its number, from which its ports and its word come."""

    way: Way
    number: int

    @property
    def port(self) -> int:
        """Its port of the other machine."""
        return FIRST_PORT + self.number

    @property
    def service(self) -> int:
        """The port of its service of the machine."""
        return FIRST_SERVICE + self.number

    @property
    def word(self) -> str:
        """What it sends."""
        return f"zq{self.number:03d}x"

    def name(self, uid: int) -> str:
        """What a report must hold in a session of this user."""
        facts = {"port": self.port, "service": self.service, "word": self.word, "uid": uid}
        return self.way.named.format(out=OUTSIDE, runtime=f"/run/user/{uid}", **facts)


def numbered(ways: Iterable[Way]) -> tuple[Numbered, ...]:
    """Give each its number."""
    return tuple(Numbered(way, number) for number, way in enumerate(ways))


def words_in(data: bytes) -> set[int]:
    """The numbers of the ways whose words are in some bytes."""
    return {int(word) for word in _WORD.findall(data)}
