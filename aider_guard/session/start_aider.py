"""Opens the door's socket and starts Aider in its air gap and its pty.

Nothing else of the session is loaded before: Aider takes seconds to import what it needs, and the guard loads the rest
of its own code meanwhile.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from aider_guard.airgap.gap import Enter, Gap
from aider_guard.airgap.served import Sandbox
from aider_guard.errors import LaunchError
from aider_guard.launch.aider import Aider
from aider_guard.launch.start_command import aider_command
from aider_guard.session.aider_process import Child
from aider_guard.session.terminal import Size

_TOKEN_BYTES = 24


@dataclass(frozen=True)
class DoorListener:
    """The door's listening socket, and the secret in its address, which only this session's Aider is told."""

    socket: socket.socket
    token: str

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        port: int = self.socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """The descriptor that a sidecar inherits."""
        return self.socket.fileno()


@contextmanager
def door_socket(gap: Gap) -> Iterator[DoorListener]:
    """Listen on a free port of the loopback that Aider has in its air gap. Raises LaunchError when that cannot be.

    The guard holds the socket for the whole session, so that each new sidecar takes over its port. A connection that
    comes while no sidecar serves waits in the socket's queue: Aider sees a slow answer, not a refusal.
    """
    try:
        fd, _port = gap.listen()
    except OSError as error:
        raise LaunchError(f"the door cannot listen on 127.0.0.1: {error.strerror}") from error
    with socket.socket(fileno=fd) as listener:
        yield DoorListener(listener, secrets.token_urlsafe(_TOKEN_BYTES))


@dataclass(frozen=True)
class NextPromptPipe:
    """The pipe on which each Aider of a session tells its next prompts to the sidecar; -1 for both ends without one.

    The guard holds both ends and never reads: what is told goes nowhere else.
    """

    read_fd: int = -1
    write_fd: int = -1


@contextmanager
def next_prompt_pipe(*, wanted: bool) -> Iterator[NextPromptPipe]:
    """Open the pipe for the session. Raises LaunchError when that cannot be."""
    if not wanted:
        yield NextPromptPipe()
        return
    try:
        read_fd, write_fd = os.pipe()
    except OSError as error:
        raise LaunchError(f"a pipe cannot be opened: {error.strerror}") from error
    os.set_blocking(write_fd, False)  # a full pipe must not stop the thread that writes in Aider
    try:
        yield NextPromptPipe(read_fd, write_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)


@dataclass(frozen=True)
class Started:
    """The process of an Aider that was just started, and the socket on which it asks before it begins."""

    child: Child
    channel: socket.socket


def start_aider(
    aider: Aider,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    size: Size,
    attributes: list[Any] | None,
    *,
    sandbox: Sandbox,
    next_prompts: NextPromptPipe = NextPromptPipe(),  # a frozen value
    ahead: bool = False,
) -> Started:
    """Start Aider in the air gap, in a pty of this size. Raises LaunchError when it cannot be started.

    One that is started *ahead* waits for its turn before it asks (launch/inside/standby.py).
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ExitStack() as unless_inside:
        with theirs, entering(sandbox.gap) as enter:
            child = Child.spawn(
                sandboxed_command(aider, theirs, arguments, sandbox, ahead=ahead),
                size=size,
                env=environment,
                pass_fds=passed_fds(theirs, sandbox, next_prompts),
                attributes=attributes,
                preexec=enter,
                preexec_fds=enter.fds if enter is not None else (),
            )
            unless_inside.enter_context(child)
        unless_inside.pop_all()
    return Started(child, ours)


def sandboxed_command(
    aider: Aider,
    channel: socket.socket,
    arguments: Sequence[str],
    sandbox: Sandbox,
    *,
    ahead: bool = False,
) -> list[str]:
    """Return the command line of an Aider inside this sandbox."""
    return aider_command(
        *(aider, channel, arguments),
        report_fd=sandbox.report_fd,
        allowed=sandbox.allowed,
        ahead=ahead,
    )


def passed_fds(
    channel: socket.socket,
    sandbox: Sandbox,
    next_prompts: NextPromptPipe = NextPromptPipe(),  # a frozen value
) -> list[int]:
    """Return the descriptors that an Aider inside this sandbox inherits."""
    return [
        channel.fileno(),
        *(fd for fd in (sandbox.report_fd, next_prompts.write_fd) if fd >= 0),
    ]


@contextmanager
def entering(gap: Gap) -> Iterator[Enter | None]:
    """Enter the air gap as ``Gap.entering`` does, with its errors as LaunchError."""
    try:
        with gap.entering() as enter:
            yield enter
    except OSError as error:
        raise LaunchError(f"Aider cannot be started in the air gap: {error}.") from error
