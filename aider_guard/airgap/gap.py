"""What every layer of the air gap promises to the session that uses it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from aider_guard.core.egress import Attempt, Layer
from aider_guard.session.loop import Loop

Enter = Callable[[], None]
"""Runs in the fork that becomes Aider, last before its program. What it raises ends the fork: nothing runs outside."""


class Gap(Protocol):
    """One session's air gap. Every launch of the session enters the same one. Closing it ends what serves it, and
    what still runs inside reaches nothing any more.
    """

    @property
    def layer(self) -> Layer:
        """Which layer it is."""

    def listen(self) -> tuple[int, int]:
        """A socket that listens on 127.0.0.1 where programs inside find it: its descriptor, which is the caller's
        from now on, and its port. Raises OSError.
        """

    def entering(self) -> AbstractContextManager[Enter | None]:
        """Start a program in the ``with``: what it gives is to run in the fork; None where nothing is to be done.

        Leaving it means that the program runs inside. Raises OSError when that could not be.
        """

    def watch(self, loop: Loop, report: Callable[[Attempt], None]) -> None:
        """Serve what is inside from this loop, never blocking it, and report each attempt (several of the same kind
        at once with their number).
        """

    def flush(self) -> None:
        """Report what happened until now and was not reported yet."""

    def close(self) -> None:
        """Stop serving. Twice is no error."""
