"""The air gap by a filter of system calls, for systems that forbid namespaces: the guard answers each risky call.

The kernel stops a call that could lead out until the guard, which serves from its loop, has answered. When the guard
ends, by whatever means, such calls fail with ENOSYS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import socket
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Final

from aider_guard.airgap import bpf, filter_install, kernel
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.filter_server import FilterServer
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, Gap, ProgramFinder, Report
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.proc import children
from aider_guard.airgap.rules import EgressRules, OwnServers
from aider_guard.airgap.syscalls import SyscallHandlers
from aider_guard.airgap.unix_sockets import NONE_KNOWN, KnownSockets, UnixSockets
from aider_guard.core.egress import Layer, Place
from aider_guard.loop import Loop
from aider_guard.proc_net import PROC

# The guard adopts processes inside whose parents have ended, in place of init.
#
# With Yama (kernel.yama.ptrace_scope is 1, Ubuntu's default) the guard may trace its descendants only, and each call
# of a daemon that init adopted would be refused. The guard must then wait for adopted processes, or they remain
# as zombies, but not for programs that it has started: the code that started them needs their status.

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """Adopt descendants that lose their parents, for the length of a ``with`` (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    prctl, before = kernel.libc().prctl, ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def reap(started: Container[int]) -> None:
    """Wait for children that have ended inside, except for those that this process has *started*. Never blocks.

    A process inside is under more filters than this one. For other children their starters wait.
    """
    with contextlib.suppress(OSError):  # no children at all
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        _, filters = _state(os.getpid())
        for child in {ended.si_pid, *children(os.getpid())}:
            state, its_filters = _state(child)
            if state == "Z" and its_filters > filters and child not in started:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)


def _state(process: int) -> tuple[str, int]:
    """A process's state, Z when it has ended, and the number of its filters (Linux 5.9); "" when it is gone."""
    lines = ""
    with contextlib.suppress(OSError):
        lines = (PROC / str(process) / "status").read_text(errors="replace")
    fields = dict(line.partition(":\t")[::2] for line in lines.splitlines())
    return fields.get("State", "")[:1], int(fields.get("Seccomp_filters", "0"))


_QUEUE: Final = 128
_HERE: Final = "127.0.0.1"


class SeccompGap(Gap):
    """Enforces by a filter of system calls. Owns its sockets.

    Args:
        names: the names that addresses inside stand for.
        allowed: places that may be reached, each by a relay of its own.
        known: the Unix sockets outside that may be reached.
        machine: the machine's name, as in uname(2).

    Raises:
        OSError: the numbers of this machine's system calls are not known, or it has no sockets left.
    """

    layer: Layer = "seccomp"

    def __init__(
        self,
        names: NameTable,
        allowed: Sequence[Place] = (),
        *,
        known: KnownSockets = NONE_KNOWN,
        machine: str = platform.machine(),
    ) -> None:
        numbers = bpf.CALLS.get(machine)
        if numbers is None:
            raise OSError(f"seccomp: not tried on {machine}")
        self._program = bpf.program(numbers)
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
            relays = [(stack.enter_context(_listener()), place) for place in allowed]
            self.relays = tuple((sock.fileno(), place) for sock, place in relays)
            redirects = {
                (_HERE if place.host == "localhost" else place.host, place.port): sock.getsockname()
                for sock, place in relays
            }
            own = OwnServers()
            unix = stack.enter_context(contextlib.closing(UnixSockets(known, own.__contains__)))
            self._rules = EgressRules(redirects, dns.getsockname(), names, unix, own)
            self._server = FilterServer(SyscallHandlers(numbers, self._rules))
            self._owned = stack.pop_all()

    def listen(self) -> tuple[int, int]:
        """See ``Gap``: a socket of this machine that programs inside may reach."""
        listener = _listener()
        port: int = listener.getsockname()[1]
        self._rules.ports.add(port)
        return listener.detach(), port

    @contextlib.contextmanager
    def entering(self) -> Iterator[Enter]:
        """See ``Gap``. Programs that are inside already are served as before."""
        if not self._is_prepared:
            self._owned.enter_context(kernel.forbid_tracing())
            self._owned.enter_context(adopt_orphans())
            self._is_prepared = True
        self._entering += 1  # nothing is reaped until the process that is started is known
        try:
            with filter_install.entering(partial(_enter, self._program), self._took) as enter:
                yield enter
        finally:
            self._entering -= 1
        self.reap()

    def _took(self, listener: int, process: int) -> None:
        self._started.add(process)
        self._server.add(listener)

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """See ``Gap``. Until then each call that needs an answer waits."""
        self._rules.report = report
        self._server.watch(loop)
        self._name_server.watch(loop, report, programs)

    def reap(self) -> None:
        """See ``Gap``. Processes that outlive the gap are adopted by the guard's own parent."""
        if not self._entering:
            reap(self._started)

    def flush(self) -> None:
        """See ``Gap``."""
        self._server.flush()
        self._name_server.flush()

    def close(self) -> None:
        """See ``Gap``: calls that need an answer fail with ENOSYS from now on."""
        self._server.close()
        self._owned.close()


def _enter(program: bytes, channel: socket.socket) -> None:
    """Run in the fork."""
    kernel.forbid_new_privileges()
    kernel.keep_capabilities(KEPT)
    kernel.restrict_tracing()
    filter_install.install_filter(channel, program)


def _listener() -> socket.socket:
    return socket.create_server((_HERE, 0), backlog=_QUEUE)
