"""The air gap of a session as its loop serves it: the layer, the proxy that refuses, and what Aider's Python tells."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aider_guard.airgap.choose import LayerSelection
from aider_guard.airgap.gap import Gap
from aider_guard.config import Config
from aider_guard.core import egress_messages
from aider_guard.core.egress import ENFORCED, Attempt, LayerChoice, Place
from aider_guard.errors import LaunchError, LaunchRefusedError
from aider_guard.loop import READ, Loop
from aider_guard.signals import when_a_child_ends

if TYPE_CHECKING:
    from aider_guard.airgap.proxy import RefusingProxy

# Attempts by the thousand, told by the second: each new kind at once, repetitions summed.

EACH_SECONDS: Final = 1.0
"""The same attempt is told again after this long at the earliest."""
MOST_KINDS: Final = 4096
"""So many different attempts are told apart in a session: who asks for random names costs no memory."""
_MANY: Final = Attempt("(many others)", 0, "other")


class AttemptBuffer:
    """What was attempted and not told yet."""

    def __init__(self) -> None:
        self._told_at: dict[Attempt, float] = {}
        self._waiting: dict[Attempt, int] = {}

    def saw(self, attempt: Attempt, now: float) -> tuple[Attempt, ...]:
        """What is to be told now: this attempt if it is new, and what has waited long enough."""
        kind = replace(attempt, count=1)
        if kind not in self._told_at and len(self._told_at) >= MOST_KINDS:
            kind = _MANY
        self._waiting[kind] = self._waiting.get(kind, 0) + attempt.count
        return self.due(now)

    @property
    def waits(self) -> bool:
        """Whether something was not told yet."""
        return bool(self._waiting)

    def rest(self) -> tuple[Attempt, ...]:
        """All that was not told yet; nothing waits afterwards."""
        told = tuple(replace(kind, count=count) for kind, count in self._waiting.items())
        self._waiting.clear()
        return told

    def due(self, now: float) -> tuple[Attempt, ...]:
        """What has waited long enough; it is told with this."""
        due = [
            kind
            for kind in self._waiting
            if now - self._told_at.get(kind, now - EACH_SECONDS) >= EACH_SECONDS
        ]
        for kind in due:
            self._told_at[kind] = now
        return tuple(replace(kind, count=self._waiting.pop(kind)) for kind in due)


_SUMMED = "attempts summed"
"""The instant at which repetitions are told, though nothing new has come."""


class Sandbox:
    """What stands between Aider and everything else. Made by ``open_sandbox``."""

    def __init__(
        self,
        gap: Gap,
        proxy_listener: socket.socket,
        ear: socket.socket,
        mouth: socket.socket,
        allowed: Sequence[Place],
        *,
        because: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gap = gap
        self.found = LayerChoice(gap.layer, because)
        """The layer, and why there is no better one."""
        self._listener, self._ear, self._mouth = proxy_listener, ear, mouth
        self._allowed = tuple(allowed)
        self._clock = clock
        self._counting = AttemptBuffer()
        self._report: Callable[[Attempt], None] = lambda _attempt: None
        self._loop: Loop | None = None
        self._proxy: RefusingProxy | None = None
        self._hearsay: AuditReports | None = None

    @property
    def refusing(self) -> str:
        """The address of the proxy that refuses."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def mouth_fd(self) -> int:
        """By which Aider's own Python tells where it wants to go; -1 where nothing is asked of it."""
        return self._mouth.fileno() if self.gap.layer != "open" else -1

    @property
    def allowed(self) -> tuple[Place, ...]:
        """What the user lets through."""
        return self._allowed

    def watch(self, loop: Loop, report: Callable[[Attempt], None], root: Callable[[], int]) -> None:
        """Serve from this loop. The same attempts are reported once a second, with their number.

        *root* is the process that is Aider now, 0 without one.
        """
        self._loop, self._report = loop, report
        # Aider runs by now: what is loaded here does not delay it.
        from aider_guard.airgap.proc import Peers
        from aider_guard.airgap.proxy import RefusingProxy

        peers = Peers(root, diag=self.gap.diag)
        self.gap.watch(loop, self._saw, peers)
        self._proxy = RefusingProxy(self._listener, loop, self._saw, program=peers.program)
        self._hearsay = AuditReports(self._ear, loop, self._saw)

    def reaping(self) -> AbstractContextManager[None]:
        """Meanwhile who ends inside, and was left to the guard, is waited for at once. For the main thread."""
        return when_a_child_ends(self.gap.reap)

    def look(self) -> None:
        """Report everything that has happened until now."""
        self.gap.look()
        self._tell(self._counting.rest())

    def _tell(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self._report(attempt)
        if self._loop is not None and self._counting.waits:
            self._loop.after(_SUMMED, EACH_SECONDS, self._tell_due)

    def _tell_due(self) -> None:
        self._tell(self._counting.due(self._clock()))

    def close(self) -> None:
        """Serve nobody any more: what still runs inside reaches nothing. Twice is no error."""
        if self._proxy is not None:
            self._proxy.close()
        if self._hearsay is not None:
            self._hearsay.close()
        if self._loop is not None:
            self._loop.cancel(_SUMMED)
        self._proxy = self._hearsay = self._loop = None
        self.gap.close()

    def _saw(self, attempt: Attempt) -> None:
        self._tell(self._counting.saw(attempt, self._clock()))


@contextmanager
def open_sandbox(gap: Gap, allowed: Sequence[Place], because: str = "") -> Iterator[Sandbox]:
    """Make what is served beside the gap. Raises LaunchError when that cannot be."""
    with ExitStack() as stack:
        try:
            fd, _port = gap.listen()
            listener = stack.enter_context(socket.socket(fileno=fd))
            ear, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise LaunchError(f"the air gap cannot be served: {error}") from error
        stack.enter_context(ear)
        stack.enter_context(mouth)
        yield Sandbox(gap, listener, ear, mouth, allowed, because=because)


def choose(
    config: Config, environment: Mapping[str, str], *, serves_page: bool = False
) -> LayerSelection:
    """The choice of a layer by the user's settings; it begins when its ``with`` does."""
    is_open = config.network == "open"
    return LayerSelection(config.allow, environment, is_open=is_open, serves_page=serves_page)


@contextmanager
def chosen_border(choosing: LayerSelection, config: Config) -> Iterator[Sandbox]:
    """The border of the layer that was chosen.

    Raises LaunchRefusedError when the user wants one that the kernel enforces, and there is none.
    """
    with closing(choosing.finish()) as gap:
        if config.require_airgap and gap.layer not in ENFORCED:
            raise LaunchRefusedError(_not_enforced(choosing.because))
        with open_sandbox(gap, config.allow, choosing.because) as border:
            yield border


def _not_enforced(because: str) -> str:
    words, fix = egress_messages.in_words(because), egress_messages.fix(because)
    return "\n  ".join(filter(None, (f"{egress_messages.NOT_ENFORCED}: {words}", fix)))


# What Aider's own Python tells of itself: each attempt is one datagram, from launch/inside/listening_in.py.
#
# A datagram is one JSON object in ASCII, ``{"host": "example.org", "port": 443, "protocol": "tcp"}``. Whoever runs
# inside could send others: what is none of these is left out.

PROGRAM: Final = "aider"
_MOST_BYTES: Final = 1024
_AT_ONCE: Final = 64
_MOST_LETTERS: Final = 253  # a name's (RFC 1035, 2.3.4)


def attempt_of(datagram: bytes) -> Attempt | None:
    """The attempt that a datagram tells of; None when it is garbage."""
    try:
        told = json.loads(datagram)
    except (ValueError, RecursionError):
        return None
    match told:
        case {
            "host": str(host),
            "port": int(port),
            "protocol": ("tcp" | "udp" | "dns" | "other") as protocol,
            **rest,
        } if not rest and _is_host(host) and type(port) is int and 0 <= port <= 0xFFFF:
            return Attempt(host, port, protocol, PROGRAM)
    return None


def _is_host(host: str) -> bool:
    """Whether it may be shown: it comes to the user's terminal."""
    return 0 < len(host) <= _MOST_LETTERS and all("!" <= letter <= "~" for letter in host)


class AuditReports:
    """Reads what is told, in the guard's loop. The socket stays its owner's."""

    def __init__(self, ear: socket.socket, loop: Loop, report: Callable[[Attempt], None]) -> None:
        self._ear = ear
        self._loop = loop
        self._report = report
        ear.setblocking(False)
        loop.watch(ear.fileno(), READ, lambda _events: self._hear())

    def close(self) -> None:
        """Hear no more. Twice is no error."""
        self._loop.forget(self._ear.fileno())

    def _hear(self) -> None:
        for _ in range(_AT_ONCE):  # who floods us must not keep the loop from its other work
            try:
                datagram = self._ear.recv(_MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self.close()  # the other end is gone for good
                return
            attempt = attempt_of(datagram)
            if attempt is not None:
                self._report(attempt)
