"""The layer for systems that forbid namespaces: the kernel asks the guard about each call that could lead out.

The guard serves from its loop. When it ends, by whatever means, every such call fails with ENOSYS.
"""

from __future__ import annotations

import contextlib
import platform
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal

from aider_guard.airgap import callfilter, handover, orphans, readable
from aider_guard.airgap.callers import Caller
from aider_guard.airgap.calls import Again, Calls, Later
from aider_guard.airgap.gap import NOBODY, Enter, Whose
from aider_guard.airgap.names import Names
from aider_guard.airgap.nameserver import NameServer
from aider_guard.airgap.notifications import Give, Listener, Notification
from aider_guard.airgap.permits import Endpoint, Permits
from aider_guard.airgap.unfinished import Unfinished
from aider_guard.airgap.unixsockets import Masked
from aider_guard.core.egress import Attempt, Place
from aider_guard.loop import Loop

_AT_ONCE: Final = 16
_BUDGET_SECONDS: Final = 0.01
"""How many calls are answered in a row, and for how long, before the terminal gets its turn."""
_QUEUE: Final = 128
_HERE: Final = "127.0.0.1"


class SeccompGap:
    """Implements ``gap.Gap`` by a filter of system calls. Owns its sockets.

    Args:
        names: of whom attempts tell.
        allowed: places that are let through: each is reached by a relay of its own.
        masked: real paths of sockets, or of folders of them, that are not to be reached.
        abstract: which abstract Unix sockets may be reached, by their name. None by default: nobody can tell
            whose they are, and a network namespace holds them all.
        machine: as uname(2) calls it.

    Raises:
        OSError: the numbers of this machine's system calls are not known, or it has no sockets left.
    """

    def __init__(
        self,
        names: Names,
        allowed: Sequence[Place] = (),
        *,
        masked: Sequence[str] = (),
        abstract: Callable[[str], bool] = lambda _name: False,
        machine: str = platform.machine(),
    ) -> None:
        numbers = callfilter.CALLS.get(machine)
        if numbers is None:
            raise OSError(f"seccomp: not tried on {machine}")
        self._program = callfilter.program(numbers)
        self._listeners: list[Listener] = []
        self._unfinished = Unfinished()
        self._loop: Loop | None = None
        self._is_prepared = False
        self._entering = 0
        self._started: set[int] = set()
        with contextlib.ExitStack() as stack:
            dns = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            dns.bind((_HERE, 0))
            dns.setblocking(False)
            self._name_server = stack.enter_context(
                contextlib.closing(NameServer([dns], names, allowed))
            )
            relays = [(stack.enter_context(_listening()), place) for place in allowed]
            self._relays = tuple((one.fileno(), place) for one, place in relays)
            redirects = {_key(place): one.getsockname() for one, place in relays}
            self._permits = Permits(redirects, dns.getsockname(), names, Masked(masked), abstract)
            self._calls = Calls(numbers, self._permits)
            self._owned = stack.pop_all()

    @property
    def diag(self) -> None:
        """See ``Gap``."""

    @property
    def layer(self) -> Literal["seccomp"]:
        """The second best."""
        return "seccomp"

    @property
    def relays(self) -> tuple[tuple[int, Place], ...]:
        """See ``Gap``."""
        return self._relays

    def listen(self) -> tuple[int, int]:
        """See ``Gap``: a socket of this machine's loopback, that programs inside may reach."""
        listener = _listening()
        port: int = listener.getsockname()[1]
        self._permits.ports.add(port)
        return listener.detach(), port

    @contextlib.contextmanager
    def entering(self) -> Iterator[Enter]:
        """See ``Gap``. What runs inside from earlier on is served as before."""
        if not self._is_prepared:
            self._owned.enter_context(readable.by_nobody())
            self._owned.enter_context(orphans.adopted())
            self._is_prepared = True
        mine, theirs = socket.socketpair()
        with mine, theirs, self._reaping_later():
            yield Enter(partial(handover.enter, theirs, self._program), (theirs.fileno(),))
            theirs.close()  # so that a fork that ended is noticed
            fd, process = handover.received(mine)
            self._started.add(process)
        listener = Listener(fd)
        self._listeners.append(listener)
        if self._loop is not None:
            self._watch(self._loop, listener)

    def watch(self, loop: Loop, report: Callable[[Attempt], None], whose: Whose = NOBODY) -> None:
        """See ``Gap``. Without it, or before, each call that is asked about waits."""
        self._loop, self._permits.report = loop, report
        for listener in self._listeners:
            self._watch(loop, listener)
        self._name_server.watch(loop, report, whose)

    @contextlib.contextmanager
    def _reaping_later(self) -> Iterator[None]:
        """While it is not known yet whom the guard has started itself."""
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1
        self.reap()

    def reap(self) -> None:
        """See ``Gap``. What outlives the gap is left to whoever comes after the guard."""
        if not self._entering:
            orphans.reap(self._started)

    def look(self) -> None:
        """See ``Gap``."""
        for listener in tuple(self._listeners):
            self._serve(listener)
        self._name_server.look()

    def close(self) -> None:
        """See ``Gap``: the calls that are asked about fail with ENOSYS from now on."""
        for listener in tuple(self._listeners):
            self._forget(listener)
        self._owned.close()

    def _watch(self, loop: Loop, listener: Listener) -> None:
        loop.watch(listener.fd, selectors.EVENT_READ, lambda _events: self._serve(listener))

    def _serve(self, listener: Listener) -> None:
        until = time.monotonic() + _BUDGET_SECONDS
        for _ in range(_AT_ONCE):
            try:
                call = listener.receive()
            except EOFError:
                self._forget(listener)
                return
            if call is None:
                return
            self._answer(listener, call)
            if time.monotonic() > until:
                return

    def _answer(self, listener: Listener, call: Notification) -> None:
        caller = Caller(call.thread, lambda: listener.is_valid(call.id))
        answer = self._calls.decide(call, caller)
        match answer:
            case Later():
                self._unfinished.wait(self._served_from(), listener, call.id, answer)
            case Again():
                self._unfinished.try_again(self._served_from(), listener, call.id, answer)
            case Give(sock):
                with sock:
                    listener.answer(call.id, answer)
            case _:
                listener.answer(call.id, answer)

    def _served_from(self) -> Loop:
        assert self._loop is not None, "calls are served from a loop"
        return self._loop

    def _forget(self, listener: Listener) -> None:
        self._unfinished.forget(listener)
        if self._loop is not None:
            self._loop.forget(listener.fd)
        self._listeners.remove(listener)
        listener.close()


def _listening() -> socket.socket:
    return socket.create_server((_HERE, 0), backlog=_QUEUE)


def _key(place: Place) -> Endpoint:
    return (_HERE if place.host == "localhost" else place.host), place.port
