"""What Aider's own Python tells of itself: each attempt is one datagram, from launch/inside/listening_in.py.

A datagram is one JSON object in ASCII, ``{"host": "example.org", "port": 443, "protocol": "tcp"}``. Whoever runs inside
could send others: what is none of these is left out.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Final

from aider_guard.core.egress import Attempt
from aider_guard.loop import READ, Loop

PROGRAM: Final = "aider"
_MOST_BYTES: Final = 1024
_AT_ONCE: Final = 64
_MOST_LETTERS: Final = 253  # a name's (RFC 1035, 2.3.4)


def attempt_of(datagram: bytes) -> Attempt | None:
    """The attempt that a datagram tells of; None when it is garbage."""
    try:
        told = json.loads(datagram)
    except (ValueError, RecursionError):
        return None
    match told:
        case {
            "host": str(host),
            "port": int(port),
            "protocol": ("tcp" | "udp" | "dns" | "other") as protocol,
            **rest,
        } if not rest and _is_host(host) and type(port) is int and 0 <= port <= 0xFFFF:
            return Attempt(host, port, protocol, PROGRAM)
    return None


def _is_host(host: str) -> bool:
    """Whether it may be shown: it comes to the user's terminal."""
    return 0 < len(host) <= _MOST_LETTERS and all("!" <= letter <= "~" for letter in host)


class Hearsay:
    """Reads what is told, in the guard's loop. The socket stays its owner's."""

    def __init__(self, ear: socket.socket, loop: Loop, report: Callable[[Attempt], None]) -> None:
        self._ear = ear
        self._loop = loop
        self._report = report
        ear.setblocking(False)
        loop.watch(ear.fileno(), READ, lambda _events: self._hear())

    def close(self) -> None:
        """Hear no more. Twice is no error."""
        self._loop.forget(self._ear.fileno())

    def _hear(self) -> None:
        for _ in range(_AT_ONCE):  # who floods us must not keep the loop from its other work
            try:
                datagram = self._ear.recv(_MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self.close()  # the other end is gone for good
                return
            attempt = attempt_of(datagram)
            if attempt is not None:
                self._report(attempt)
