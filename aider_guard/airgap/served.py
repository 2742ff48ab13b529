"""The sandbox of a session: its air gap, the proxy that refuses, and the reports of Aider's own Python, in one loop."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aider_guard.airgap.choose import LayerSelection
from aider_guard.airgap.gap import Gap, Report
from aider_guard.config import Config, command_words
from aider_guard.core import egress
from aider_guard.core.egress import ENFORCED, Attempt, LayerChoice, Place
from aider_guard.errors import LaunchError, LaunchRefusedError
from aider_guard.loop import READ, Loop
from aider_guard.signals import when_a_child_ends

if TYPE_CHECKING:
    from aider_guard.airgap.proxy import RefusingProxy

EACH_SECONDS: Final = 1.0
"""The same attempt is reported again after this long at the earliest."""
MOST_KINDS: Final = 4096
"""How many different attempts are told apart in a session: random names must not cost memory."""


class AttemptBuffer:
    """Sums repeated attempts: a new kind is reported at once, repetitions once a second with their number."""

    def __init__(self) -> None:
        self._reported_at: dict[Attempt, float] = {}
        self._waiting: dict[Attempt, int] = {}

    def add(self, attempt: Attempt, now: float) -> tuple[Attempt, ...]:
        """Add an attempt; return those to report now: this one if it is new, and those that waited long enough."""
        kind = replace(attempt, count=1)
        if kind not in self._reported_at and len(self._reported_at) >= MOST_KINDS:
            kind = Attempt("(many others)", 0, "other")
        self._waiting[kind] = self._waiting.get(kind, 0) + attempt.count
        return self.due(now)

    @property
    def has_waiting(self) -> bool:
        """Whether attempts wait to be reported."""
        return bool(self._waiting)

    def flush(self) -> tuple[Attempt, ...]:
        """Return all attempts that wait; none waits afterwards."""
        attempts = tuple(replace(kind, count=count) for kind, count in self._waiting.items())
        self._waiting.clear()
        return attempts

    def due(self, now: float) -> tuple[Attempt, ...]:
        """Return the attempts that have waited long enough; they no longer wait."""
        long_ago = now - EACH_SECONDS
        due = [kind for kind in self._waiting if self._reported_at.get(kind, long_ago) <= long_ago]
        self._reported_at.update(dict.fromkeys(due, now))
        return tuple(replace(kind, count=self._waiting.pop(kind)) for kind in due)


_SUMMARY_DEADLINE = "attempts summed"
"""The name of the deadline at which repetitions are reported."""


class Sandbox:
    """Keeps Aider in: the air gap, and what the guard serves for it. Made by ``open_sandbox``."""

    def __init__(
        self,
        gap: Gap,
        proxy_listener: socket.socket,
        report_socket: socket.socket,
        sending_end: socket.socket,
        allowed: Sequence[Place],
        *,
        because: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gap = gap
        self.choice = LayerChoice(gap.layer, because)
        """The layer, and why there is no better one."""
        self._listener = proxy_listener
        self._report_socket, self._sending_end = report_socket, sending_end
        self.allowed = tuple(allowed)
        """The places that the user allows."""
        self._clock = clock
        self._buffer = AttemptBuffer()
        self._report: Report = lambda _attempt: None
        self._loop: Loop | None = None
        self._proxy: RefusingProxy | None = None
        self._audit_reports: AuditReports | None = None

    @property
    def proxy_url(self) -> str:
        """The address of the proxy that refuses."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def report_fd(self) -> int:
        """The descriptor on which Aider's own Python reports its attempts; -1 in an open network."""
        return self._sending_end.fileno() if self.gap.layer != "open" else -1

    def watch(self, loop: Loop, report: Report, root: Callable[[], int]) -> None:
        """Serve from this loop. The same attempt is reported once a second, with its number.

        *root* gives the process that is Aider now, 0 without one.
        """
        self._loop, self._report = loop, report
        # Loaded here, once Aider runs, so that its start is not delayed.
        from aider_guard.airgap.proc import Peers
        from aider_guard.airgap.proxy import RefusingProxy

        peers = Peers(root, diag=self.gap.diag)
        self.gap.watch(loop, self._add, peers)
        self._proxy = RefusingProxy(self._listener, loop, self._add, program=peers.program)
        self._audit_reports = AuditReports(self._report_socket, loop, self._add)

    def reaping(self) -> AbstractContextManager[None]:
        """Wait for orphans from inside as soon as they end, for the length of a ``with``. Main thread only."""
        return when_a_child_ends(self.gap.reap)

    def flush(self) -> None:
        """Report all attempts so far at once."""
        self.gap.flush()
        self._report_all(self._buffer.flush())

    def _report_all(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self._report(attempt)
        if self._loop is not None and self._buffer.has_waiting:
            self._loop.after(
                _SUMMARY_DEADLINE,
                EACH_SECONDS,
                lambda: self._report_all(self._buffer.due(self._clock())),
            )

    def close(self) -> None:
        """Stop serving: programs that still run inside can connect to nothing. Twice is no error."""
        if self._proxy is not None:
            self._proxy.close()
        if self._audit_reports is not None:
            self._audit_reports.close()
        if self._loop is not None:
            self._loop.cancel(_SUMMARY_DEADLINE)
        self._proxy = self._audit_reports = self._loop = None
        self.gap.close()

    def _add(self, attempt: Attempt) -> None:
        self._report_all(self._buffer.add(attempt, self._clock()))


@contextmanager
def open_sandbox(gap: Gap, allowed: Sequence[Place], because: str = "") -> Iterator[Sandbox]:
    """Open the sockets that are served beside the gap. Raises LaunchError when that fails."""
    with ExitStack() as stack:
        try:
            fd, _port = gap.listen()
            listener = stack.enter_context(socket.socket(fileno=fd))
            report_socket, sending_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise LaunchError(f"the air gap cannot be served: {error}") from error
        stack.enter_context(report_socket)
        stack.enter_context(sending_end)
        yield Sandbox(gap, listener, report_socket, sending_end, allowed, because=because)


def choose(
    config: Config,
    environment: Mapping[str, str],
    *,
    serves_page: bool = False,
    writable: Sequence[str] = (),
) -> LayerSelection:
    """The choice of a layer by the user's settings, for a session that has Aider write into the *writable* folders.

    It begins when its ``with`` does.
    """
    return LayerSelection(
        config.allow,
        environment,
        is_open=config.network == "open",
        serves_page=serves_page,
        writable=writable,
        started=_started(config, environment),
    )


def _started(config: Config, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that the guard starts by the user's settings."""
    if not config.notify_after or not (words := command_words(config.notify_command)):
        return ()
    from aider_guard.airgap.own_files import files_of_command

    return files_of_command(words, environment)


@contextmanager
def build_sandbox(selection: LayerSelection, config: Config) -> Iterator[Sandbox]:
    """Open a sandbox with the layer that was chosen.

    Raises LaunchRefusedError when the user requires a layer that the kernel enforces, and there is none.
    """
    with closing(selection.finish()) as gap:
        if config.require_airgap and gap.layer not in ENFORCED:
            cause = selection.because
            words, fix = egress.in_words(cause), egress.fix(cause)
            lines = (f"{egress.NOT_ENFORCED}: {words}", fix)
            raise LaunchRefusedError("\n  ".join(filter(None, lines)))
        with open_sandbox(gap, egress.places(config.allow), selection.because) as sandbox:
            yield sandbox


# Aider's own Python reports each attempt in one datagram (launch/inside/audit_hook.py): a JSON object in ASCII,
# ``{"host": "example.org", "port": 443, "protocol": "tcp"}``. Any program inside could send others, which are ignored.

PROGRAM: Final = "aider"
_MOST_BYTES: Final = 1024
_AT_ONCE: Final = 64
_MOST_LETTERS: Final = 253  # a name's (RFC 1035, 2.3.4)


def attempt_of(datagram: bytes) -> Attempt | None:
    """Return the attempt that a datagram reports; None for any other datagram."""
    try:
        report = json.loads(datagram)
    except (ValueError, RecursionError):
        return None
    match report:
        case {
            "host": str(host),
            "port": int(port),
            "protocol": ("tcp" | "udp" | "dns" | "other") as protocol,
            **flush,
        } if not flush and type(port) is int and 0 <= port <= 0xFFFF:
            is_printable = all("!" <= letter <= "~" for letter in host)  # it is shown to the user
            if is_printable and 0 < len(host) <= _MOST_LETTERS:
                return Attempt(host, port, protocol, PROGRAM)
    return None


class AuditReports:
    """Receives the reports of Aider's Python in the guard's loop. The socket stays its owner's."""

    def __init__(self, report_socket: socket.socket, loop: Loop, report: Report) -> None:
        self._report_socket = report_socket
        self._loop = loop
        self._report = report
        report_socket.setblocking(False)
        loop.watch(report_socket.fileno(), READ, lambda _events: self._receive())

    def close(self) -> None:
        """Stop receiving. Twice is no error."""
        self._loop.forget(self._report_socket.fileno())

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):  # a flood must not keep the loop from its other work
            try:
                datagram = self._report_socket.recv(_MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self.close()  # the other end is gone for good
                return
            if attempt := attempt_of(datagram):
                self._report(attempt)
