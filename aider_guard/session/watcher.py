"""The sidecar in the guard's loop: started again when asked, its lines turned into events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.egress import Place
from aider_guard.core.events import Event, SidecarLost
from aider_guard.core.requests import Request, ServeDoor
from aider_guard.loop import READ, WRITE, Loop
from aider_guard.session.sidecar import SidecarProcess, sidecar_command


class Watcher:
    """At most one sidecar at a time. As a ``with``, none is left behind."""

    def __init__(
        self,
        loop: Loop,
        *,
        ollama: str,
        tokenizers: str,
        environment: Mapping[str, str],
        door_fd: int,
        relays: Sequence[tuple[int, Place]] = (),
    ) -> None:
        self._relays = tuple(relays)
        self._loop = loop
        self._door_fd = door_fd
        self._serving: ServeDoor | None = None
        self.post: Callable[[Event], None] = lambda _event: None
        self._ollama = ollama
        self._tokenizers = tokenizers
        self._environment = environment
        self._process: SidecarProcess | None = None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The sidecar's process id, 0 when none runs."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start a sidecar in place of the one that runs."""
        self.stop()
        try:
            process = SidecarProcess.start(
                sidecar_command(self._ollama, self._tokenizers, self._door_fd, self._relays),
                self._environment,
                pass_fds=[self._door_fd, *(fd for fd, _ in self._relays)],
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
        """Have the door served so, by this sidecar and by every one that takes over from it."""
        self._serving = ServeDoor(settings)
        self.send(self._serving)

    def watch_server(self, ollama: str, tokenizers: str) -> None:
        """Watch this Ollama with these encodings; another sidecar is started if that is another one."""
        if (ollama, tokenizers) != (self._ollama, self._tokenizers):
            self._ollama, self._tokenizers = ollama, tokenizers
            self.start()

    def send(self, request: Request) -> bool:
        """Pass a request on; False when nobody can take it."""
        if self._process is None or not self._process.send(request):
            return False
        self._flush()
        return True

    def stop(self) -> None:
        """End the sidecar, if one runs."""
        process, self._process = self._process, None
        if process is not None:
            self._loop.forget(process.fileno())
            self._loop.forget(process.requests_fileno)
            process.stop()

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
