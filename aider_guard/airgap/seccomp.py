"""The layer for systems that forbid namespaces: the kernel asks the guard about each call that could lead out.

The guard serves from its loop. When it ends, by whatever means, every such call fails with ENOSYS.
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
from typing import Final, Literal

from aider_guard.airgap import bpf, kernel, sockets
from aider_guard.airgap import kernel as airgap_kernel
from aider_guard.airgap.dns import NameServer, NameTable
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Enter, ProgramFinder
from aider_guard.airgap.kernel import KEPT
from aider_guard.airgap.notify import (
    CallingThread,
    FilterListener,
    GiveDescriptor,
    Notification,
    Result,
)
from aider_guard.airgap.proc import children
from aider_guard.airgap.rules import EgressRules, Endpoint, MaskedSockets
from aider_guard.airgap.syscalls import FULL, InProgress, RetryConnect, SyscallHandlers
from aider_guard.core.egress import Attempt, Place
from aider_guard.loop import WRITE, Loop
from aider_guard.proc_net import PROC

# How a fork enters the seccomp layer, and how the guard gets its end of the filter.
#
# The filter's listener (seccomp_unotify(2)) comes into being in the fork, and from then on the fork's own sendmsg(2)
# waits for the guard. So a second thread, which began before the filter and is not held by it, sends the descriptor; it
# has ended before the program starts. The guard finds it in its socket whenever it looks.

# linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3
_WAIT_KILLABLE: Final = (
    1 << 5
)  # from Linux 5.19 on: no signal's handler makes a call that the guard does begin anew
_PATIENCE_SECONDS: Final = 10.0


def install_filter(channel: socket.socket, program: bytes) -> None:
    """In the fork: put it under the filter, and send the listener through *channel*. Raises OSError."""
    kernel.forbid_new_privileges()
    kernel.keep_capabilities(KEPT)
    airgap_kernel.restrict_tracing()
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
    airgap_kernel.allow_tracing()


def receive_listener(channel: socket.socket, seconds: float = _PATIENCE_SECONDS) -> tuple[int, int]:
    """In the guard: the listener that the fork has sent, and the fork's number. Raises OSError when there is none."""
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


# Connections that programs inside wait for, while the guard serves others.

_AGAIN_SECONDS: Final = 0.02
"""After so long for each that waits a connection is tried again, which takes milliseconds."""
_MOST: Final = 128
"""So many wait for a queue; further ones are told that it is full."""


class PendingConnects:
    """Owns what it is given to finish."""

    def __init__(self) -> None:
        self._ends: dict[tuple[FilterListener, int], Callable[[], None]] = {}

    def wait(self, loop: Loop, listener: FilterListener, call: int, progress: InProgress) -> None:
        """Answer the call when its connection has been made, or not."""
        sock = progress.socket

        def finish(_events: int) -> None:
            error = sockets.outcome(sock)
            self._end(listener, call)
            listener.answer(call, Result(error=error))

        def end() -> None:
            loop.forget(sock.fileno())
            sock.close()

        self._ends[listener, call] = end
        loop.watch(sock.fileno(), WRITE, finish)

    def try_again(
        self, loop: Loop, listener: FilterListener, call: int, retry: RetryConnect
    ) -> None:
        """Answer the call when its server has taken it, or when the program would have given up."""
        until = time.monotonic() + retry.patience_seconds
        name = f"queue of {listener.fd} {call}"

        def end() -> None:
            loop.cancel(name)
            retry.close()

        def attempt() -> None:
            is_over = time.monotonic() >= until or not listener.is_valid(call)
            error = errno.EAGAIN if is_over else retry.attempt()
            if error in FULL and not is_over:
                loop.after(name, _AGAIN_SECONDS * len(self._ends), attempt)
            else:
                self._end(listener, call)
                listener.answer(call, Result(error=error))

        self._ends[listener, call] = end
        if len(self._ends) > _MOST:
            self._end(listener, call)
            listener.answer(call, Result(error=errno.EAGAIN))
        else:
            loop.after(name, _AGAIN_SECONDS, attempt)

    def forget(self, listener: FilterListener) -> None:
        """Let go of all that came by this listener."""
        for owner, call in [key for key in self._ends if key[0] is listener]:
            self._end(owner, call)

    def _end(self, listener: FilterListener, call: int) -> None:
        self._ends.pop((listener, call))()


# Processes inside whose parents have ended: the guard takes them, in the place of init.
#
# Where Yama holds (kernel.yama.ptrace_scope is 1, Ubuntu's default), the guard may look into its descendants only, and
# a daemon that init took would have each of its calls refused. Whoever takes orphans has to wait for them, or they
# remain as zombies; programs that were started on purpose are waited for by who started them, who needs their status.

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """What loses its parent meanwhile becomes a child of this process (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    prctl, before = kernel.libc().prctl, ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def reap(started: Container[int]) -> None:
    """Wait for the children of this process that have ended inside, but for those that it has *started*. Never blocks.

    Inside is who is held by more filters than this process. A child that is not is somebody's who waits for it.
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
    """Its state, Z when it has ended, and how many filters hold it (Linux 5.9); "" when it is gone."""
    lines = ""
    with contextlib.suppress(OSError):
        lines = (PROC / str(process) / "status").read_text(errors="replace")
    fields = dict(line.partition(":\t")[::2] for line in lines.splitlines())
    return fields.get("State", "")[:1], int(fields.get("Seccomp_filters", "0"))


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
        self._pending = PendingConnects()
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
            self._relays = tuple((one.fileno(), place) for one, place in relays)
            redirects = {_key(place): one.getsockname() for one, place in relays}
            self._rules = EgressRules(
                redirects, dns.getsockname(), names, MaskedSockets(masked), abstract
            )
            self._calls = SyscallHandlers(numbers, self._rules)
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
        listener = _listener()
        port: int = listener.getsockname()[1]
        self._rules.ports.add(port)
        return listener.detach(), port

    @contextlib.contextmanager
    def entering(self) -> Iterator[Enter]:
        """See ``Gap``. What runs inside from earlier on is served as before."""
        if not self._is_prepared:
            self._owned.enter_context(kernel.forbid_tracing())
            self._owned.enter_context(adopt_orphans())
            self._is_prepared = True
        mine, theirs = socket.socketpair()
        with mine, theirs, self._reap_afterwards():
            yield Enter(partial(install_filter, theirs, self._program), (theirs.fileno(),))
            theirs.close()  # so that a fork that ended is noticed
            fd, process = receive_listener(mine)
            self._started.add(process)
        listener = FilterListener(fd)
        self._listeners.append(listener)
        if self._loop is not None:
            self._watch(self._loop, listener)

    def watch(
        self,
        loop: Loop,
        report: Callable[[Attempt], None],
        programs: ProgramFinder = UNKNOWN_PROGRAM,
    ) -> None:
        """See ``Gap``. Without it, or before, each call that is asked about waits."""
        self._loop, self._rules.report = loop, report
        for listener in self._listeners:
            self._watch(loop, listener)
        self._name_server.watch(loop, report, programs)

    @contextlib.contextmanager
    def _reap_afterwards(self) -> Iterator[None]:
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
            reap(self._started)

    def flush(self) -> None:
        """See ``Gap``."""
        for listener in tuple(self._listeners):
            self._serve(listener)
        self._name_server.flush()

    def close(self) -> None:
        """See ``Gap``: the calls that are asked about fail with ENOSYS from now on."""
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
            case InProgress():
                self._pending.wait(self._served_from(), listener, call.id, answer)
            case RetryConnect():
                self._pending.try_again(self._served_from(), listener, call.id, answer)
            case GiveDescriptor(sock):
                with sock:
                    listener.answer(call.id, answer)
            case _:
                listener.answer(call.id, answer)

    def _served_from(self) -> Loop:
        assert self._loop is not None, "calls are served from a loop"
        return self._loop

    def _forget(self, listener: FilterListener) -> None:
        self._pending.forget(listener)
        if self._loop is not None:
            self._loop.forget(listener.fd)
        self._listeners.remove(listener)
        listener.close()


def _listener() -> socket.socket:
    return socket.create_server((_HERE, 0), backlog=_QUEUE)


def _key(place: Place) -> Endpoint:
    return (_HERE if place.host == "localhost" else place.host), place.port
