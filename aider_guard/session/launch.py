"""One run of Aider: its folder, the question it asks before it begins, and what it saved."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aider_guard.core.actions import Handoff
from aider_guard.core.fit import Need
from aider_guard.core.readings import Unavailable
from aider_guard.launch import command
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.environment import LocalEnvironment


@dataclass
class Launch:
    """One run of Aider: its files, and the socket on which it asks before it begins."""

    number: int
    folder: Path
    handoff: Handoff | None
    channel: socket.socket
    asked: bytearray = field(default_factory=bytearray)
    settings: AiderSettings | Unavailable = Unavailable("Aider has not said yet what it will use")
    files: command.LaunchFiles | None = None
    window_tokens: int | Unavailable = Unavailable("the window is not fixed yet")
    needs: tuple[Need, ...] = ()
    """What each model was computed to need."""

    @property
    def saved_to(self) -> Path:
        """Where the hidden ``/save`` writes."""
        return self.folder / "chat.commands"

    def read_question(self) -> bytes | None:
        """Aider's question once it is whole, b"" when it will never come, None when it is not here yet."""
        try:
            data = self.channel.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.asked += data
        if self.asked.endswith(b"\n"):
            return bytes(self.asked)
        return None if data else b""

    def answer(
        self,
        arguments: Sequence[str],
        environment: LocalEnvironment = LocalEnvironment(),  # noqa: B008  # a frozen value
    ) -> None:
        """Let Aider begin with these arguments after the user's own."""
        self.channel.setblocking(True)
        # Aider may have ended meanwhile; its exit is reported on its own way.
        with contextlib.suppress(OSError):
            command.send_answer(self.channel, arguments, environment)


def parse_saved(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Editable and read-only files from what ``/save`` wrote: a fixed prefix, then the name as it is."""
    editable, read_only = "/add       ", "/read-only "
    lines = text.split("\n")
    return (
        tuple(line.removeprefix(editable) for line in lines if line.startswith(editable)),
        tuple(line.removeprefix(read_only) for line in lines if line.startswith(read_only)),
    )
