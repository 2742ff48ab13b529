"""The interface that every layer of the air gap implements, and the layer that enforces nothing."""

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
    """Puts a fork that becomes Aider into the air gap: it is called there last, before the program starts.

    What it raises ends the fork, and no program runs. It needs the descriptors ``fds`` in the fork; the program must
    not inherit them, so they are closed when it starts.
    """

    run: Callable[[], None]
    fds: tuple[int, ...] = ()

    def __call__(self) -> None:
        """Enter the air gap. Raises OSError."""
        self.run()


class ProgramFinder(Protocol):
    """Names the program behind an attempt where the layer itself cannot; "" where it is not known."""

    def only(self) -> str:
        """The only program that runs inside."""

    def asker(self, port: int) -> str:
        """The program that sent a datagram from this port and waits for the answer."""


class UnknownProgram:
    """Implements ``ProgramFinder`` where no program can be found."""

    def only(self) -> str:
        """See ``ProgramFinder``."""
        return ""

    def asker(self, port: int) -> str:
        """See ``ProgramFinder``."""
        del port
        return ""


UNKNOWN_PROGRAM: Final[ProgramFinder] = UnknownProgram()


class Gap(Protocol):
    """One session's air gap, which every launch of the session enters.

    Closing it ends what serves it; programs that still run inside can connect to nothing from then on.
    """

    @property
    def layer(self) -> Layer:
        """Which layer this is."""

    @property
    def diag(self) -> socket.socket | None:
        """A socket that asks the kernel about the network inside; None where that is this machine's."""

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """The allowed places, each with a socket that listens for programs inside in its stead."""

    def listen(self) -> tuple[int, int]:
        """Open a socket that listens on 127.0.0.1 as programs inside see it. Raises OSError.

        Returns its descriptor, which is the caller's from now on, and its port.
        """

    def entering(self) -> AbstractContextManager[Enter | None]:
        """Start a program inside: a ``with`` that gives what must run in the fork, None where nothing must.

        After the ``with`` the program runs inside. Raises OSError when it does not.
        """

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """Serve what is inside from this loop, never blocking it, and report each attempt."""

    def flush(self) -> None:
        """Report the attempts so far at once. Used at the end, when the loop no longer runs."""

    def reap(self) -> None:
        """Wait for ended processes that lost their parents inside (zombies); never blocks. Main thread only."""

    def close(self) -> None:
        """Stop serving. Twice is no error."""


# The layers without enforcement use the sockets of this machine.

_QUEUE = 128


def listen_here() -> tuple[int, int]:
    """Open a socket on a free port of this machine's 127.0.0.1: its descriptor and port. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0), backlog=_QUEUE) as listener:
        port: int = listener.getsockname()[1]
        return listener.detach(), port


class Unenforced:
    """Implements ``Gap`` without enforcement: Aider is only asked to behave ("asked"), or not even that ("open")."""

    diag: Final = None
    relays: Final[tuple[tuple[int, Place], ...]] = ()  # programs connect to allowed places directly

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def listen(self) -> tuple[int, int]:
        """See ``Gap``."""
        return listen_here()

    @contextmanager
    def entering(self) -> Iterator[None]:
        """See ``Gap``: programs start as outside."""
        yield None

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """See ``Gap``: the kernel reports no attempts here."""

    def flush(self) -> None:
        """See ``Gap``."""

    def reap(self) -> None:
        """See ``Gap``: the guard adopts no processes here."""

    def close(self) -> None:
        """See ``Gap``."""
