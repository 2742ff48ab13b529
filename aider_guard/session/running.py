"""The Aider that runs now: its process on the relay, and its end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from aider_guard.core.actions import Handoff
from aider_guard.loop import READ, Loop
from aider_guard.session.child import Child, LineModes
from aider_guard.session.launches import Launches
from aider_guard.session.relay import Relay
from aider_guard.session.terminal import Terminal
from aider_guard.session.turns import Turns


class Running:
    """At most one Aider at a time. As a ``with``, none is left behind."""

    def __init__(self, terminal: Terminal, relay: Relay, loop: Loop, launches: Launches) -> None:
        self._terminal = terminal
        self._relay = relay
        self._loop = loop
        self._launches = launches
        self.child: Child | None = None
        self.turns: Turns | None = None
        self.readable: Callable[[], None] = lambda: None
        """Called when Aider wrote something."""

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.child is not None:
            self._loop.forget(self.child.fd)
            self.child.end()

    def start(self, handoff: Handoff) -> None:
        """Start Aider again. Raises LaunchError."""
        size, attributes = self._terminal.size(), self._terminal.attributes()
        self.adopt(self._launches.start(size, attributes, handoff))

    def adopt(self, child: Child) -> None:
        """Relay this Aider from now on."""
        self.child, self.turns = child, None
        child.resize(self._terminal.size())
        self._relay.attach(child.fd)
        self._loop.watch(child.fd, READ, lambda _events: self.readable())

    def line_modes(self) -> LineModes | None:
        """How Aider's terminal treats what is typed; None when no Aider runs."""
        return self.child.line_modes() if self.child is not None else None

    def has_begun(self) -> None:
        """Aider's files exist from now on: its turns can be counted."""
        files = self._launches.current.files if self._launches.current else None
        if files is not None:
            self.turns = Turns(files.analytics_log, files.chat_history, files.bell)

    def resize(self) -> None:
        """Give Aider the terminal's size."""
        if self.child is not None:
            self.child.resize(self._terminal.size())

    def signal(self, signum: int) -> None:
        """Send a signal to Aider's process group."""
        if self.child is not None:
            self.child.signal(signum)

    def reap(self, take: Callable[[bytes], None]) -> int | None:
        """Aider's status once it ended, after *take* got all that it wrote; None while it runs."""
        child = self.child
        status = child.poll() if child is not None else None
        if child is None or status is None:
            return None
        while data := self._relay.read_child():
            take(data)
        self.child = None
        self._loop.forget(child.fd)
        self._relay.detach()
        child.end()
        return status
