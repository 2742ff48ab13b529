"""An Aider that was just started, and waits to ask. Kept apart so that little is imported before it runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from aider_guard.airgap.gap import Enter, Gap
from aider_guard.airgap.served import Border
from aider_guard.errors import LaunchError
from aider_guard.launch.aider import Aider
from aider_guard.launch.start_command import aider_command
from aider_guard.session.child import Child
from aider_guard.session.terminal import Size


@dataclass(frozen=True)
class Started:
    """Aider's process, and the socket on which it asks before it begins."""

    child: Child
    channel: socket.socket


def start_aider(
    aider: Aider,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    size: Size,
    attributes: list[Any] | None,
    *,
    border: Border,
) -> Started:
    """Start Aider in the air gap, in a pty of this size. Raises LaunchError when it cannot be started."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ExitStack() as unless_inside:
        with theirs, entering(border.gap) as enter:
            child = Child.spawn(
                bordered_command(aider, theirs, arguments, border),
                size=size,
                env=environment,
                pass_fds=passed_fds(theirs, border),
                attributes=attributes,
                preexec=enter,
                preexec_fds=enter.fds if enter is not None else (),
            )
            unless_inside.enter_context(child)
        unless_inside.pop_all()
    return Started(child, ours)


def bordered_command(
    aider: Aider, channel: socket.socket, arguments: Sequence[str], border: Border
) -> list[str]:
    """The command line of an Aider behind this border."""
    mouth, allowed = border.mouth_fd, border.allowed
    return aider_command(aider, channel, arguments, mouth_fd=mouth, allowed=allowed)


def passed_fds(channel: socket.socket, border: Border) -> list[int]:
    """The descriptors that such an Aider is given."""
    return [channel.fileno(), *([border.mouth_fd] if border.mouth_fd >= 0 else [])]


@contextmanager
def entering(gap: Gap) -> Iterator[Enter | None]:
    """``Gap.entering``, with its faults as LaunchError."""
    try:
        with gap.entering() as enter:
            yield enter
    except OSError as error:
        raise LaunchError(f"Aider cannot be started in the air gap: {error}.") from error
