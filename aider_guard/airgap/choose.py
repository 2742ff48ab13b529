"""Chooses the air gap's layer: tries to make each one, the best first, and takes the first that works."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from aider_guard.airgap import kernel
from aider_guard.airgap.dns import NameTable
from aider_guard.airgap.gap import Enter, Gap, Unenforced
from aider_guard.core import egress
from aider_guard.core.egress import ENFORCED, Allowed, Attempt, Layer, LayerChoice, Place
from aider_guard.loop import Loop

if TYPE_CHECKING:
    from aider_guard.airgap.jail import NamespaceSetup
    from aider_guard.airgap.unix_sockets import KnownSockets

LAYERS: tuple[Layer, ...] = ENFORCED
"""The layers to try. No setting and no variable changes them: tests replace them to see a system that allows fewer."""
_BY_CONTAINERS: Final = (errno.EPERM, errno.ENOSYS)
_FORBIDDEN: Final = (*_BY_CONTAINERS, errno.EACCES, errno.ENOSPC, errno.EUSERS)
"""Errors of unshare(2) that a setting of the system can cause; ENOSPC is a limit that is full."""


class LayerSelection:
    """Chooses a layer, beginning when its ``with`` does. Leaving the ``with`` closes what was opened and not used.

    With *is_open* no layer is tried. A program that *serves_page* must be reachable by a browser outside. Of the
    guard's own files programs inside may change those in the *writable* folders.
    """

    def __init__(
        self,
        allowed: Sequence[Allowed],
        environment: Mapping[str, str],
        *,
        is_open: bool = False,
        serves_page: bool = False,
        writable: Sequence[str] = (),
        started: Sequence[str] = (),
    ) -> None:
        self._writable, self.started = writable, started
        self._serves_page = serves_page
        self._environment, self._is_open = environment, is_open
        self._names = NameTable()
        self._sockets = egress.socket_paths(allowed)
        self._allowed: dict[tuple[str, int], Place] = {}
        for place in egress.places(allowed):  # two names may be the same address inside
            self._allowed.setdefault(self._inside(place), place)
        self._layers = LAYERS
        self._stack = ExitStack()
        self._setup: NamespaceSetup | None = None
        self._causes: list[str] = []

    @property
    def because(self) -> str:
        """Why no better layer was chosen: causes of core/egress_messages.py, split by ``"; "``."""
        return "; ".join(self._causes)

    def __enter__(self) -> LayerSelection:
        """Begin to make the network namespace, in a child process; it takes a few milliseconds."""
        if self._may_try("netns"):
            from aider_guard.airgap.jail import NamespaceSetup

            try:
                setup = NamespaceSetup(
                    tuple(self._allowed), self._environment, self._writable, self.started
                )
            except OSError as error:
                self._causes.append(_why_no_namespaces(error))
            else:
                self._setup = self._stack.enter_context(setup)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def finish(self) -> Gap:
        """Return the air gap of the best layer that works. The caller closes it."""
        if self._is_open:
            return Unenforced("open")
        return self._try(self._netns) or self._try(self._seccomp) or Unenforced("asked")

    def _try(self, layer: Callable[[], Gap | None]) -> Gap | None:
        """Return the layer, or None where it fails, for whatever reason: no start may fail because of it."""
        try:
            return layer()
        except Exception as error:  # noqa: BLE001  # reported as the cause
            words = f"a layer could not be tried ({error!r})"
            self._causes.append(words.replace(";", ","))  # semicolons split causes
            return None

    def _may_try(self, layer: Layer) -> bool:
        if not kernel.IS_LINUX:
            self._causes = ["not-linux"]
        elif layer not in self._layers:
            self._causes.append(f"{layer} was not tried")
        elif layer == "netns" and self._serves_page:
            self._causes.append("page")
        else:
            return not self._is_open
        return False

    def _inside(self, place: Place) -> tuple[str, int]:
        """The address and port of an allowed place as programs inside see it."""
        host = place.host
        if host != "localhost" and (":" in host or host.replace(".", "").isdecimal()):
            return host, place.port
        address = "" if host == "localhost" else self._names.address_of(host)
        return address or "127.0.0.1", place.port

    def _known(self) -> KnownSockets:
        """The Unix sockets outside that programs inside may reach."""
        from aider_guard.airgap.unix_sockets import known_sockets

        return known_sockets(self._environment, self._sockets)

    def _netns(self) -> Gap | None:
        if self._setup is None:
            return None
        from aider_guard.airgap.netns import NetnsGap

        try:
            jail, places = self._setup.finish(), tuple(self._allowed.values())
            return NetnsGap(jail, self._names, places, known=self._known())
        except OSError as error:
            self._causes.append(_why_no_namespaces(error))
            return None
        finally:
            self._stack.close()  # the child has done its work

    def _seccomp(self) -> Gap | None:
        if not self._may_try("seccomp"):
            return None
        from aider_guard.airgap.seccomp import SeccompGap

        try:
            try_filter()
            return SeccompGap(self._names, tuple(self._allowed.values()), known=self._known())
        except OSError as error:
            otherwise = "no-notify" if error.errno == errno.EINVAL else "pidfd"
            self._causes.append(egress.cause_of(egress.FILTER, _read, otherwise))
            return None


def _why_no_namespaces(error: OSError) -> str:
    """The cause that the system's settings show, else "container" for its usual errors, else the error itself."""
    if not os.path.exists("/proc/self/ns/user"):
        return "no-namespaces"
    where = f": {error.filename}" if error.filename else ""
    fault = f"{error.strerror or error}{where}".replace(";", ",")
    words = f"a network namespace could not be made ({fault})"
    if error.errno not in _FORBIDDEN:
        return words
    otherwise = "container" if error.errno in _BY_CONTAINERS else words
    return egress.cause_of(egress.NAMESPACES, _read, otherwise)


def _read(switch: str) -> str:
    """The text of a file below /proc/sys; empty where it cannot be read."""
    try:
        with open(f"/proc/sys/{switch}", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def find_layer(
    environment: Mapping[str, str] = os.environ, allowed: Sequence[Allowed] = ()
) -> LayerChoice:
    """Make the best layer that this system allows, close it, and say which it was and why it is no better one."""
    with LayerSelection(allowed, environment) as selection:
        gap = selection.finish()
        gap.close()
        return LayerChoice(gap.layer, selection.because)


# The trial of the system call filter: a child enters it and must be refused a connection.

TRIAL_SECONDS: Final = 5.0
"""It takes some milliseconds; a machine that is busy must not be taken for one that cannot."""


def try_filter(within_seconds: float = TRIAL_SECONDS) -> None:
    """Check that the filter works here: a child that has entered it must be refused.

    Raises OSError when the filter does not work, and RuntimeError when the guard cannot judge a call.
    """
    from aider_guard.airgap.seccomp import SeccompGap
    from aider_guard.airgap.syscalls import FAULT

    attempts: list[Attempt] = []
    with closing(SeccompGap(NameTable())) as gap, ExitStack() as stack:
        with gap.entering() as enter:
            child = _TrialProcess(enter)
            stack.callback(child.end)
        with Loop() as loop:
            gap.watch(loop, attempts.append)
            until = time.monotonic() + within_seconds
            while not child.has_ended() and time.monotonic() < until:
                loop.run_once(0.005)
            gap.close()
    if fault := next((attempt.host for attempt in attempts if attempt.host.startswith(FAULT)), ""):
        raise RuntimeError(fault)
    if not child.was_refused or not attempts:
        raise OSError("the filter was installed, and did not hold")


class _TrialProcess:
    """A forked child that enters the filter and tries to connect."""

    def __init__(self, enter: Enter) -> None:
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            os._exit(_trial_status(enter))

    @property
    def was_refused(self) -> bool:
        """Whether it has ended, and its connection was refused."""
        return self._status == 0

    def has_ended(self) -> bool:
        """Whether it has ended by now."""
        if self._status is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if ended else None
        return self._status is not None

    def end(self) -> None:
        """Kill it unless it has ended, and wait for it."""
        if not self.has_ended():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _trial_status(enter: Enter) -> int:
    """Run in the child: connect, and return the exit status, which is 0 when the connection was refused."""
    try:
        enter()
        with socket.socket() as sock:
            sock.connect(("192.0.2.1", 9))  # documentation (RFC 5737), the discard port
    except ConnectionRefusedError:
        return 0
    except BaseException:  # noqa: BLE001  # a child that must not go on as the guard
        return 2
    return 1
