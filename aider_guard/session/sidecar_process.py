"""The sidecar as the guard sees it: its process, which starts again when it is lost, and the door's socket.

No call here blocks, but for stopping the sidecar, which takes a second at most.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aider_guard.core.actions import Request, ServeDoor
from aider_guard.core.codec import WireError
from aider_guard.core.events import SidecarLost
from aider_guard.core.wire import decode, encode
from aider_guard.line_process import LinePipes
from aider_guard.loop import READ, WRITE, Loop
from aider_guard.ollama.access import ServerAccess, to_environment
from aider_guard.ollama.names import public_base

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from aider_guard.core.chat.types import DoorSettings
    from aider_guard.core.egress import Place
    from aider_guard.core.events import Event

MAX_CHUNKS_A_READ: Final = 16
_FINISH_SECONDS: Final = 0.5
_STATUS_SECONDS: Final = 0.05
"""How long after the end of its output its status may come."""
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024


def sidecar_command(
    ollama: str,
    tokenizers: str,
    door_fd: int = -1,
    relays: Sequence[tuple[int, Place]] = (),
    next_prompts_fd: int = -1,
) -> list[str]:
    """Return the command line of a sidecar; ``tokenizers`` is the folder of Aider's encodings, or "".

    Every user can read it, so ``ollama`` is an address without a secret; ``SidecarSupervisor`` hands the complete one
    over in the environment.

    ``door_fd`` is the listening socket it inherits for the door, -1 for none; it relays those of ``relays`` to places.
    From ``next_prompts_fd`` it reads what Aider tells of its next prompts.
    """
    program = [sys.executable, "-m", "aider_guard.sidecar"]
    door = ["--door-fd", str(door_fd)] if door_fd >= 0 else []
    relayed = [word for fd, place in relays for word in ("--relay", f"{fd}={place}")]
    told = ["--next-prompts-fd", str(next_prompts_fd)] if next_prompts_fd >= 0 else []
    return [*program, "--ollama", ollama, "--tokenizers", tokenizers, *door, *relayed, *told]


class SidecarProcess(LinePipes):
    """One run of the sidecar; a lost one is replaced by another. A ``with`` stops it.

    ``fileno()`` becomes readable when ``read()`` has events. Requests that the pipe does
    not take at once are kept, up to a bound, and sent by later calls of ``send``, ``read`` or
    ``flush``.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        stderr: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start a sidecar, without waiting for it. Raises ``OSError`` when that is not possible.

        It gets a session of its own: the terminal's Ctrl-C, Ctrl-Z and hang-up do not reach it.
        """
        super().__init__(command, environment, stderr=stderr, pass_fds=pass_fds, own_session=True)
        self.lost = False
        """Whether ``SidecarLost`` was returned: nothing comes any more, unregister the descriptor."""

    def fileno(self) -> int:
        """The descriptor to wait on for ``read``."""
        return self._from.fileno()

    @property
    def requests_fileno(self) -> int:
        """The descriptor to wait on, for writing, while ``wants_write``."""
        return self._to.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether requests wait for the pipe to take them."""
        return bool(self.pending)

    def read(self) -> tuple[Event, ...]:
        """Return the events that have come since. The last one ever is ``SidecarLost``, once."""
        events: list[Event] = []
        if self.lost:
            return ()
        self.flush()
        try:
            # Up to a bound: a sidecar that never stops writing must not keep the guard.
            for _ in range(MAX_CHUNKS_A_READ):
                lines = self.read_lines()
                if lines is None:
                    events.append(self._lose(self._end()))
                    break
                events.extend(map(_event, lines))
        except BlockingIOError:
            pass  # nothing more for now
        except WireError as error:
            events.append(self._lose(f"the sidecar cannot be understood: {error}"))
        return tuple(events)

    def _lose(self, reason: str) -> SidecarLost:
        self.lost = True
        self.pending.clear()
        return SidecarLost(reason)

    def _end(self) -> str:
        status = self._process.poll() if self._ends_within(_STATUS_SECONDS) else None
        if status is None:
            return "the sidecar closed its output"
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the sidecar {how}"

    def send(self, request: Request) -> bool:
        """Pass a request on; False when it is dropped: the sidecar is lost or does not keep up."""
        line = encode(request)
        if self.lost or len(self.pending) + len(line) > MAX_PENDING_BYTES:
            return False
        self.pending += line
        self.flush()
        return True

    def finish(self, within_seconds: float) -> tuple[Event, ...]:
        """Have the sidecar end by itself, and return what it still reported; nothing more can be sent."""
        with suppress(OSError):  # it ended with a request unread
            self._to.close()
        self.pending.clear()
        events: list[Event] = []
        deadline = time.monotonic() + within_seconds
        while (
            not self.lost
            and select.select([self], [], [], max(0.0, deadline - time.monotonic()))[0]
        ):
            events += self.read()
        self.lost = True
        return tuple(event for event in events if not isinstance(event, SidecarLost))

    def stop(self, grace_seconds: float = 0.8) -> None:
        """End the sidecar and its helpers within a second: close its stdin, wait a little, kill.

        A sidecar that does not die of that (a driver holds it in the kernel) is given up, not
        waited for.
        """
        self.lost = True
        self.pending.clear()
        self.close_pipes()
        if not self._ends_within(grace_seconds):
            if self.pid:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            if not self._ends_within(0.1):
                self.give_up()

    def _ends_within(self, seconds: float) -> bool:
        if not self.pid:  # it was not forked yet, and ends as soon as it is
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _event(line: bytes) -> Event:
    value = decode(line)
    if isinstance(value, Request):
        raise WireError("a request where an event belongs")
    return value


class SidecarSupervisor:
    """Runs the sidecar in the guard's loop, one at a time, and posts its events. As a ``with``, none is left behind."""

    def __init__(
        self,
        loop: Loop,
        *,
        ollama: ServerAccess,
        tokenizers: str,
        environment: Mapping[str, str],
        door_fd: int,
        relays: Sequence[tuple[int, Place]] = (),
        next_prompts_fd: int = -1,
    ) -> None:
        self._relays, self._next_prompts_fd = tuple(relays), next_prompts_fd
        self._loop = loop
        self._door_fd = door_fd
        self._serving: ServeDoor | None = None
        self.post: Callable[[Event], None] = lambda _event: None
        self._ollama = ollama
        self._tokenizers = tokenizers
        self._environment = environment
        self._process: SidecarProcess | None = None

    def __enter__(self) -> SidecarSupervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The sidecar's process id, 0 when none runs."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start a sidecar in place of the one that runs."""
        self.stop()
        try:
            process = SidecarProcess(
                sidecar_command(
                    *(public_base(self._ollama.base), self._tokenizers),
                    *(self._door_fd, self._relays),
                    next_prompts_fd=self._next_prompts_fd,
                ),
                {**self._environment, **to_environment(self._ollama)},
                pass_fds=[
                    *(self._door_fd, *(fd for fd, _ in self._relays)),
                    *([self._next_prompts_fd] if self._next_prompts_fd >= 0 else []),
                ],
            )
        except OSError as error:
            self.post(SidecarLost(f"it cannot be started: {error.strerror}"))
            return
        self._process = process
        self._loop.watch(process.fileno(), READ, self._readable)
        self._loop.watch(process.requests_fileno, 0, lambda _events: self._flush())
        if self._serving is not None:
            self.send(self._serving)

    def serve_door(self, settings: DoorSettings) -> None:
        """Have the door served with these settings, by this sidecar and by every one that replaces it."""
        self._serving = ServeDoor(settings)
        self.send(self._serving)

    def watch_server(self, ollama: ServerAccess, tokenizers: str) -> None:
        """Watch this Ollama with these encodings; the sidecar is started again if either changed."""
        if (ollama, tokenizers) != (self._ollama, self._tokenizers):
            self._ollama, self._tokenizers = ollama, tokenizers
            self.start()

    def send(self, request: Request) -> bool:
        """Pass a request on; False when no sidecar takes it."""
        if self._process is None or not self._process.send(request):
            return False
        self._flush()
        return True

    def finish(self) -> None:
        """End the sidecar at the end of a run, and post what it still reports: what was let through at last."""
        if (process := self._detach()) is not None:
            with process:
                events = process.finish(_FINISH_SECONDS)
            for event in events:
                self.post(event)

    def stop(self) -> None:
        """End the sidecar, if one runs."""
        if (process := self._detach()) is not None:
            process.stop()

    def _detach(self) -> SidecarProcess | None:
        """Take the sidecar that runs out of the loop."""
        process, self._process = self._process, None
        if process is not None:
            self._loop.forget(process.fileno())
            self._loop.forget(process.requests_fileno)
        return process

    def _flush(self) -> None:
        if self._process is not None:
            self._process.flush()
            self._loop.change(
                self._process.requests_fileno, WRITE if self._process.wants_write else 0
            )

    def _readable(self, _events: int) -> None:
        process = self._process
        if process is None:
            return
        events = process.read()
        if process.lost:
            self.stop()
        for event in events:
            self.post(event)
