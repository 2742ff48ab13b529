"""The interface that every layer of the air gap implements, and the layer that enforces nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from aider_guard.core.egress import Attempt, Layer, Place
from aider_guard.loop import Loop

Report = Callable[[Attempt], None]
"""Takes each attempt."""


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


class Gap:
    """One session's air gap, which every launch of the session enters.

    Closing it ends what serves it; programs that still run inside can connect to nothing from then on.
    """

    layer: Layer
    diag: socket.socket | None = None
    """A socket that asks the kernel about the network inside; None where that is this machine's."""
    relays: tuple[tuple[int, Place], ...] = ()
    """The allowed places that are reached by a relay, each with a socket that listens for programs inside."""

    def listen(self) -> tuple[int, int]:
        """Open a socket that listens on 127.0.0.1 as programs inside see it. Raises OSError.

        Returns its descriptor, which is the caller's from now on, and its port.
        """
        raise NotImplementedError

    def entering(self) -> AbstractContextManager[Enter | None]:
        """Start a program inside: a ``with`` that gives what must run in the fork, None where nothing must.

        After the ``with`` the program runs inside. Raises OSError when it does not.
        """
        raise NotImplementedError

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """Serve what is inside from this loop, never blocking it, and report each attempt."""

    def flush(self) -> None:
        """Report the attempts so far at once. Used at the end, when the loop no longer runs."""

    def reap(self) -> None:
        """Wait for ended processes that lost their parents inside (zombies); never blocks. Main thread only."""

    def close(self) -> None:
        """Stop serving. Twice is no error."""


class Unenforced(Gap):
    """Enforces nothing: Aider is only asked to behave ("asked"), or not even that ("open").

    Programs use the sockets of this machine, and connect to allowed places directly.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def listen(self) -> tuple[int, int]:
        """See ``Gap``: the socket is this machine's."""
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            port: int = listener.getsockname()[1]
            return listener.detach(), port

    @contextmanager
    def entering(self) -> Iterator[None]:
        """See ``Gap``: programs start as outside."""
        yield None
