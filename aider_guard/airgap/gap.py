"""What every layer of the air gap promises to the session that uses it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from aider_guard.core.egress import Attempt, Layer, Place
from aider_guard.loop import Loop


@dataclass(frozen=True)
class Enter:
    """Called in the fork that becomes Aider, last before its program. What it raises ends the fork, with nothing run.

    It needs the descriptors ``fds`` there, and the program must not have them: they are closed when it starts.
    """

    run: Callable[[], None]
    fds: tuple[int, ...] = ()

    def __call__(self) -> None:
        """Get in. Raises OSError."""
        self.run()


class ProgramFinder(Protocol):
    """Names programs inside where a layer itself cannot tell who it was; "" where that is not known."""

    def only(self) -> str:
        """The only program that there is."""

    def asker(self, port: int) -> str:
        """The one that sent a datagram from this port and waits for the answer."""


class UnknownProgram:
    """Implements ``Whose`` where nobody is known."""

    def only(self) -> str:
        """See ``Whose``."""
        return ""

    def asker(self, port: int) -> str:
        """See ``Whose``."""
        del port
        return ""


UNKNOWN_PROGRAM: Final[ProgramFinder] = UnknownProgram()


class Gap(Protocol):
    """One session's air gap. Every launch of the session enters the same one. Closing it ends what serves it, and
    what still runs inside reaches nothing any more.
    """

    @property
    def layer(self) -> Layer:
        """Which layer it is."""

    @property
    def diag(self) -> socket.socket | None:
        """For questions about the network inside; None where that is this machine's."""

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """Listening sockets for programs inside, and the place that each stands for: what is allowed."""

    def listen(self) -> tuple[int, int]:
        """A socket that listens on 127.0.0.1 where programs inside find it: its descriptor, which is the caller's
        from now on, and its port. Raises OSError.
        """

    def entering(self) -> AbstractContextManager[Enter | None]:
        """Start a program in the ``with``: what it gives is to run in the fork; None where nothing is to be done.

        Leaving it means that the program runs inside. Raises OSError when that could not be.
        """

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """Serve what is inside from this loop, never blocking it, and report each attempt."""

    def flush(self) -> None:
        """Report what has happened until now: at the end nobody waits for it any more."""

    def reap(self) -> None:
        """Wait for what has ended inside and was left to the guard by its parents; never blocks. Main thread only."""

    def close(self) -> None:
        """Stop serving. Twice is no error."""


# No layer of the kernel's: Aider is only asked to behave, or not even that. Its sockets are those of this machine.

_QUEUE = 128


def listen_here() -> tuple[int, int]:
    """A socket that listens on a free port of 127.0.0.1 of this machine: its descriptor and port. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0), backlog=_QUEUE) as listener:
        port: int = listener.getsockname()[1]
        return listener.detach(), port


class Unenforced:
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

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """See ``Gap``: nothing is seen by the kernel."""

    def flush(self) -> None:
        """See ``Gap``."""

    def reap(self) -> None:
        """See ``Gap``: nothing is left to the guard."""

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """See ``Gap``: whoever is let through goes out directly."""
        return ()

    def close(self) -> None:
        """See ``Gap``."""
