"""The door's listening socket. The guard holds it for the whole session, so that each new sidecar takes over its port.

A connection that comes while no sidecar serves waits in the socket's queue: Aider sees a slow answer, not a refusal.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from aider_guard.errors import LaunchError

_QUEUE = 128
_TOKEN_BYTES = 24


@dataclass(frozen=True)
class Listening:
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
def door_socket() -> Iterator[Listening]:
    """Listen on a free port of this machine's loopback. Raises LaunchError when that is not possible."""
    try:
        listener = socket.create_server(("127.0.0.1", 0), backlog=_QUEUE)
    except OSError as error:
        raise LaunchError(f"the door cannot listen on 127.0.0.1: {error.strerror}") from error
    with listener:
        yield Listening(listener, secrets.token_urlsafe(_TOKEN_BYTES))
