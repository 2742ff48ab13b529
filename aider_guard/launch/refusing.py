"""An address of this machine that takes no connection, for proxies that lead nowhere."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def refusing_address() -> Iterator[str]:
    """The URL of a port of this machine that takes no connection: bound, so that nobody else can have it, and not
    listened on, so that the system refuses every connection at once.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
