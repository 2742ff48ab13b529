"""The door's listening socket. The guard holds it for the whole session, so that each new sidecar takes over its port.

A connection that comes while no sidecar serves waits in the socket's queue: Aider sees a slow answer, not a refusal.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from aider_guard.airgap.gap import Gap
from aider_guard.errors import LaunchError

_TOKEN_BYTES = 24


@dataclass(frozen=True)
class DoorListener:
    """Where the door is: its socket, and the secret that only this session's Aider is told."""

    socket: socket.socket
    token: str

    @property
    def port(self) -> int:
        """The port of 127.0.0.1."""
        port: int = self.socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """The descriptor that a sidecar inherits."""
        return self.socket.fileno()


@contextlib.contextmanager
def door_socket(gap: Gap) -> Iterator[DoorListener]:
    """Listen on a free port of the loopback that Aider has in its air gap. Raises LaunchError when that cannot be."""
    try:
        fd, _port = gap.listen()
    except OSError as error:
        raise LaunchError(f"the door cannot listen on 127.0.0.1: {error.strerror}") from error
    with socket.socket(fileno=fd) as listener:
        yield DoorListener(listener, secrets.token_urlsafe(_TOKEN_BYTES))
