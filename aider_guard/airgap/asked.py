"""No layer of the kernel's: Aider is only asked to behave, or not even that. Its sockets are those of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aider_guard.airgap.gap import NOBODY, Whose
from aider_guard.core.egress import Attempt, Layer, Place
from aider_guard.loop import Loop

_QUEUE = 128


def listen_here() -> tuple[int, int]:
    """A socket that listens on a free port of 127.0.0.1 of this machine: its descriptor and port. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0), backlog=_QUEUE) as listener:
        port: int = listener.getsockname()[1]
        return listener.detach(), port


class NoGap:
    """Implements ``gap.Gap`` for the layers "asked" and "open"."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    @property
    def diag(self) -> None:
        """See ``Gap``."""

    @property
    def layer(self) -> Layer:
        """Which of the two it is."""
        return self._layer

    def listen(self) -> tuple[int, int]:
        """See ``Gap``."""
        return listen_here()

    @contextmanager
    def entering(self) -> Iterator[None]:
        """See ``Gap``: there is nothing to enter."""
        yield None

    def watch(self, loop: Loop, report: Callable[[Attempt], None], whose: Whose = NOBODY) -> None:
        """See ``Gap``: nothing is seen by the kernel."""

    def look(self) -> None:
        """See ``Gap``."""

    def reap(self) -> None:
        """See ``Gap``: nothing is left to the guard."""

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """See ``Gap``: whoever is let through goes out directly."""
        return ()

    def close(self) -> None:
        """See ``Gap``."""
