"""The air gap by a filter of system calls, for systems that forbid namespaces: the guard answers each risky call.

The kernel stops a call that could lead out until the guard, which serves from its loop, has answered. When the guard
ends, by whatever means, such calls fail with ENOSYS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Final

from aider_guard.airgap import bpf, kernel
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, Gap, ProgramFinder, Report
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.notify import (
    CallingThread,
    FilterListener,
    GiveDescriptor,
    Notification,
    Pending,
    Result,
)
from aider_guard.airgap.proc import children
from aider_guard.airgap.rules import EgressRules, MaskedSockets
from aider_guard.airgap.syscalls import SyscallHandlers
from aider_guard.core.egress import Layer, Place
from aider_guard.loop import WRITE, Loop
from aider_guard.proc_net import PROC

# The filter is installed in the fork, which gets its listener (seccomp_unotify(2)) and must send it to the guard. From
# then on the fork's own sendmsg(2) waits for the guard, so a second thread sends the descriptor: it began before the
# filter, which does not hold it, and ends before the program starts.

# linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3
# From Linux 5.19 on: a signal handler does not make a call start again that the guard is carrying out.
_WAIT_KILLABLE: Final = 1 << 5
_PATIENCE_SECONDS: Final = 10.0


def install_filter(channel: socket.socket, program: bytes) -> None:
    """Run in the fork: install the filter, and send its listener through *channel*. Raises OSError."""
    kernel.forbid_new_privileges()
    kernel.keep_capabilities(KEPT)
    kernel.restrict_tracing()
    listeners: queue.SimpleQueue[int] = queue.SimpleQueue()
    failures: list[OSError] = []

    def send() -> None:
        listener = listeners.get()
        try:
            if listener >= 0:
                socket.send_fds(channel, [b"%d" % os.getpid()], [listener])
        except OSError as error:
            failures.append(error)

    outside = threading.Thread(target=send)
    outside.start()
    listener = -1
    try:
        listener = _install(program)
    finally:
        listeners.put(listener)
        outside.join()
    os.close(listener)
    if failures:
        raise failures[0]
    kernel.allow_tracing()


def receive_listener(channel: socket.socket, seconds: float = _PATIENCE_SECONDS) -> tuple[int, int]:
    """Run in the guard: receive the listener and the fork's process number. Raises OSError when none comes."""
    channel.settimeout(seconds)
    process, fds, _, _ = socket.recv_fds(channel, 16, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise OSError(errno.ECHILD, "no filter was installed")
    return fds[0], int(process)


def _install(program: bytes) -> int:
    try:
        return kernel.filter_calls(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return kernel.filter_calls(program, _NEW_LISTENER)


_AGAIN_SECONDS: Final = 0.02
"""Times the number of waiting calls: the pause before one is tried again, which takes milliseconds."""
_LOOK_SECONDS: Final = 0.1
"""The pause between two looks at a program whose call is tried again when its socket is ready."""
_MOST: Final = 128
_MOST_READY: Final = 512
"""How many calls may wait, by the clock or for their sockets; further ones fail at once."""
_START_AGAIN: Final = (
    512  # ERESTARTSYS, linux/errno.h: the kernel makes it EINTR where the handler wants that
)


class PendingCalls:
    """Carries out calls that take time, while the guard serves others. Owns what they need."""

    def __init__(self) -> None:
        self._ends: dict[tuple[FilterListener, int], Callable[[], None]] = {}

    def wait(
        self,
        loop: Loop,
        listener: FilterListener,
        call: int,
        caller: CallingThread,
        pending: Pending,
    ) -> None:
        """Answer the call when it has a result, when the program would have given up, or at a signal for it."""
        until = time.monotonic() + pending.patience_seconds
        name = f"call of {listener.fd} {call}"

        def end() -> None:
            loop.cancel(name)
            if pending.ready is not None:
                loop.forget(pending.ready.fileno())
            pending.close()

        def settle(action: Callable[[], Result | None]) -> None:
            try:
                result = action()
            except OSError as error:
                result = Result(error=error.errno or errno.EPERM)
            if result is not None:
                self._end(listener, call)
                listener.answer(call, result)

        def look() -> None:
            if not listener.is_valid(call) or time.monotonic() >= until:
                settle(partial(pending.give_up, errno.EAGAIN))
            elif caller.is_interrupted():
                settle(partial(pending.give_up, _START_AGAIN))
            elif pending.ready is None:
                settle(pending.attempt)
            if (listener, call) in self._ends:
                look_again()

        def look_again() -> None:
            pause_seconds = _LOOK_SECONDS if pending.ready else _AGAIN_SECONDS * len(self._ends)
            loop.after(name, min(pause_seconds, max(0.0, until - time.monotonic())), look)

        self._ends[listener, call] = end
        if len(self._ends) > (_MOST_READY if pending.ready else _MOST):
            settle(partial(pending.give_up, errno.EAGAIN))
            return
        if pending.ready is not None:
            loop.watch(pending.ready.fileno(), WRITE, lambda _events: settle(pending.attempt))
        look_again()

    def forget(self, listener: FilterListener) -> None:
        """Drop all calls of this listener."""
        for owner, call in [key for key in self._ends if key[0] is listener]:
            self._end(owner, call)

    def _end(self, listener: FilterListener, call: int) -> None:
        self._ends.pop((listener, call))()


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


_AT_ONCE: Final = 16
_BUDGET_SECONDS: Final = 0.01
"""How many calls are answered in a row, and for how long, before the loop serves the terminal."""
_QUEUE: Final = 128
_HERE: Final = "127.0.0.1"


class SeccompGap(Gap):
    """Enforces by a filter of system calls. Owns its sockets.

    Args:
        names: the names that addresses inside stand for.
        allowed: places that may be reached, each by a relay of its own.
        masked: real paths of sockets, or of folders of them, that must not be reached.
        abstract: whether an abstract Unix socket may be reached, by its name. None by default: their owners are not
            known, and a network namespace keeps programs from all of them.
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
        masked: Sequence[str] = (),
        abstract: Callable[[str], bool] = lambda _name: False,
        machine: str = platform.machine(),
    ) -> None:
        numbers = bpf.CALLS.get(machine)
        if numbers is None:
            raise OSError(f"seccomp: not tried on {machine}")
        self._program = bpf.program(numbers)
        self._listeners: list[FilterListener] = []
        self._pending = PendingCalls()
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
            relays = [(stack.enter_context(_listener()), place) for place in allowed]
            self.relays = tuple((sock.fileno(), place) for sock, place in relays)
            redirects = {
                (_HERE if place.host == "localhost" else place.host, place.port): sock.getsockname()
                for sock, place in relays
            }
            self._rules = EgressRules(
                redirects, dns.getsockname(), names, MaskedSockets(masked), abstract
            )
            self._calls = SyscallHandlers(numbers, self._rules)
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
        mine, theirs = socket.socketpair()
        self._entering += 1  # nothing is reaped until the process that is started is known
        try:
            with mine, theirs:
                yield Enter(partial(install_filter, theirs, self._program), (theirs.fileno(),))
                theirs.close()  # so that a fork that ended is noticed
                fd, process = receive_listener(mine)
                self._started.add(process)
        finally:
            self._entering -= 1
        self.reap()
        listener = FilterListener(fd)
        self._listeners.append(listener)
        if self._loop is not None:
            self._watch(self._loop, listener)

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """See ``Gap``. Until then each call that needs an answer waits."""
        self._loop, self._rules.report = loop, report
        for listener in self._listeners:
            self._watch(loop, listener)
        self._name_server.watch(loop, report, programs)

    def reap(self) -> None:
        """See ``Gap``. Processes that outlive the gap are adopted by the guard's own parent."""
        if not self._entering:
            reap(self._started)

    def flush(self) -> None:
        """See ``Gap``."""
        for listener in tuple(self._listeners):
            self._serve(listener)
        self._name_server.flush()

    def close(self) -> None:
        """See ``Gap``: calls that need an answer fail with ENOSYS from now on."""
        for listener in tuple(self._listeners):
            self._forget(listener)
        self._owned.close()

    def _watch(self, loop: Loop, listener: FilterListener) -> None:
        loop.watch(listener.fd, selectors.EVENT_READ, lambda _events: self._serve(listener))

    def _serve(self, listener: FilterListener) -> None:
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

    def _answer(self, listener: FilterListener, call: Notification) -> None:
        caller = CallingThread(call.thread, lambda: listener.is_valid(call.id))
        answer = self._calls.decide(call, caller)
        match answer:
            case Pending():
                assert self._loop is not None, "calls are served from a loop"
                self._pending.wait(self._loop, listener, call.id, caller, answer)
            case GiveDescriptor(sock):
                with sock:
                    listener.answer(call.id, answer)
            case _:
                listener.answer(call.id, answer)

    def _forget(self, listener: FilterListener) -> None:
        self._pending.forget(listener)
        if self._loop is not None:
            self._loop.forget(listener.fd)
        self._listeners.remove(listener)
        listener.close()


def _listener() -> socket.socket:
    return socket.create_server((_HERE, 0), backlog=_QUEUE)
