"""Limits on what the door keeps for its clients: every program inside the sandbox can connect to it, token or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class DoorLimits:
    """The most that the door keeps of requests, of connections, and of bodies in memory."""

    head_bytes: int = 32 * 1024
    """A request's head; each field counts 32 bytes more than its text, as in HTTP/2 (RFC 9113, 6.5.2)."""
    head_seconds: float = 5.0
    """From a connection, or the first byte of a head, to the end of the head."""
    connections_without_token: int = 64
    """Connections on which no request with the token has come yet."""
    pipelined_requests: int = 16
    """Requests that wait on one connection for the answer to an earlier one."""
    bodies_bytes: int = 128 * 1024 * 1024
    """The bodies of all requests that are read or not yet answered, together."""
    small_body_bytes: int = 1024 * 1024
    """A body up to this size may use ``reserved_bytes``, too."""
    reserved_bytes: int = 32 * 1024 * 1024


DEFAULT_LIMITS: Final = DoorLimits()


class NoRoomError(Exception):
    """The bodies of other requests take all the memory there is for bodies."""


class BodyMemory:
    """Counts the bytes of all bodies in memory. Large ones leave a part of it to small ones."""

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._taken_bytes = 0

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """Give one request its share, until it is answered."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self._taken_bytes -= share.size_bytes

    def take(self, more_bytes: int, share_bytes: int) -> None:
        """Count more bytes for a share that then has ``share_bytes``. Raises ``NoRoomError``."""
        limits = self._limits
        is_small = share_bytes <= limits.small_body_bytes
        most_bytes = limits.bodies_bytes + (limits.reserved_bytes if is_small else 0)
        if self._taken_bytes + more_bytes > most_bytes:
            raise NoRoomError
        self._taken_bytes += more_bytes


class BodyShare:
    """The bytes of one request's body in memory."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Make room for a body of this size. Raises ``NoRoomError``."""
        if size_bytes > self.size_bytes:
            self._memory.take(size_bytes - self.size_bytes, size_bytes)
            self.size_bytes = size_bytes
