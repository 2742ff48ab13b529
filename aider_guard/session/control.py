"""The session's socket: another pane asks ``status`` or ``restart`` and gets one line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aider_guard.core.events import Event, RestartRequested
from aider_guard.loop import READ, Loop

_MAX_REQUEST_BYTES = 4096
_MAX_CLIENTS = 16  # who is silent must not use up the session's descriptors
# sun_path holds 108 bytes on Linux and 104 on macOS, the final zero included.
_MAX_PATH_BYTES = 103


class Control:
    """Answers in the guard's loop. A client that does not ask is left alone until there are too many, one that does
    not read is dropped.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        *,
        status: Callable[[], dict[str, Any]],
        post: Callable[[Event], None],
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._status = status
        self._post = post
        self._clients: dict[int, socket.socket] = {}
        loop.watch(listener.fileno(), READ, lambda _events: self._accept())

    def close(self) -> None:
        """Let go of everybody who is connected."""
        self._loop.forget(self._listener.fileno())
        for client in list(self._clients.values()):
            self._drop(client)

    def _accept(self) -> None:
        while len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients.values())))
        with contextlib.suppress(OSError):  # it went away before it was accepted
            client, _ = self._listener.accept()
            client.setblocking(False)
            self._clients[client.fileno()] = client
            self._loop.watch(client.fileno(), READ, lambda _events: self._asked(client))

    def _asked(self, client: socket.socket) -> None:
        # A question is one short line: it arrives whole, or it is none of ours.
        try:
            question = client.recv(_MAX_REQUEST_BYTES)
            if question:
                client.send(
                    json.dumps(self._answer(question.decode("utf-8", "replace").strip())).encode()
                    + b"\n"
                )
        except OSError:
            pass  # it went away, and nobody waits for the answer any more
        self._drop(client)

    def _answer(self, question: str) -> dict[str, Any]:
        match question:
            case "status":
                return self._status()
            case "restart":
                self._post(RestartRequested())
                return {"ok": True}
            case _:
                return {"error": "the questions are status and restart"}

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client.fileno(), None)
        self._loop.forget(client.fileno())
        client.close()


@contextlib.contextmanager
def control_socket(folder: Path) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket in *folder*, or in a temporary folder when the path would be too long for one."""
    with contextlib.ExitStack() as stack:
        path = folder / "control"
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            short = tempfile.mkdtemp(prefix="aider-guard-")
            stack.callback(shutil.rmtree, short, ignore_errors=True)
            path = Path(short) / "control"
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.setblocking(False)
        listener.bind(str(path))
        stack.callback(path.unlink, missing_ok=True)
        path.chmod(0o600)
        listener.listen(8)
        yield listener, str(path)


def ask(path: str, question: str, *, timeout_seconds: float = 2.0) -> dict[str, Any]:
    """Ask a session. Raises OSError when it does not answer in time, and ValueError when it makes no sense."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_seconds)
        client.connect(path)
        client.sendall(question.encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    if not isinstance(answer, dict):
        raise ValueError("the session answered in another language")  # noqa: TRY004  # it is about its words
    return answer
