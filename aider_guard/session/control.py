"""The session's control socket: another pane asks for ``status`` or ``restart`` and gets one line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aider_guard.core.chat.events import ReadingEstimated
from aider_guard.core.chat.size import usual_reserve
from aider_guard.core.chat_contents import advise_room, newest_rows
from aider_guard.core.events import Event, RestartRequested, TurnFinished
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.rules.lifecycle import why_not_restarted
from aider_guard.core.state import (
    Phase,
    State,
    fill_percent,
    is_measured,
    used_tokens,
    window_tokens,
)
from aider_guard.loop import READ, Loop
from aider_guard.session.registry import SessionFolder

_MAX_REQUEST_BYTES = 4096
_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_CLIENTS = 16  # silent clients must not use up the session's descriptors
# sun_path holds 108 bytes on Linux and 104 on macOS, the final zero included.
_MAX_PATH_BYTES = 103


class Control:
    """Answers the clients of the socket in the guard's loop.

    ``refusal`` is why Aider cannot be restarted in this session, "" when it can.

    A client that sends nothing stays connected until there are too many; one that does not read is dropped.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        *,
        status: Callable[[], dict[str, Any]],
        post: Callable[[Event], None],
        refusal: Callable[[], str] = lambda: "",
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._status = status
        self._post = post
        self._refusal = refusal
        self._clients: dict[int, socket.socket] = {}
        loop.watch(listener.fileno(), READ, lambda _events: self._accept())

    def close(self) -> None:
        """Drop every client, and listen no more."""
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
            self._loop.watch(client.fileno(), READ, lambda _events: self._answer(client))

    def _answer(self, client: socket.socket) -> None:
        # A question is one short line: it arrives whole, or it is not one.
        with contextlib.suppress(OSError):  # it went away, and does not wait for the answer
            question = client.recv(_MAX_REQUEST_BYTES)
            if question:
                answer: dict[str, Any] = {"error": "the questions are status and restart"}
                match question.decode("utf-8", "replace").strip():
                    case "status":
                        answer = self._status()
                    case "restart" if refusal := self._refusal():
                        answer = {"error": refusal}
                    case "restart":
                        self._post(RestartRequested())
                        answer = {"ok": True}
                client.send(json.dumps(answer).encode() + b"\n")
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client.fileno(), None)
        self._loop.forget(client.fileno())
        client.close()


@contextlib.contextmanager
def control_socket(folder: Path) -> Iterator[tuple[socket.socket, str]]:
    """Listen on a socket in *folder*, or in a temporary folder when the path would be too long; yield both."""
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
    """Ask a session, and return its answer.

    Raises OSError when it does not answer in time, and ValueError when the answer cannot be understood.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_seconds)
        client.connect(path)
        client.sendall(question.encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline(_MAX_ANSWER_BYTES))
    if not isinstance(answer, dict):
        raise ValueError("the session answered in another language")  # noqa: TRY004  # it is about its words
    return answer


# The answer to ``status``.


STOPPED = "stopped"
"""The phase of a session whose processes were stopped (Ctrl-Z): it answers when it is continued."""


def stopped_facts(session: SessionFolder) -> dict[str, Any]:
    """Return what is known of a session that cannot answer now, in the form of ``session_facts``."""
    folder, ours = session.working_directory, State()
    facts = session_facts(ours, session_id=session.id, pid=session.pid, folder=folder)
    return {**facts, "phase": STOPPED, "turns": None, "turns_until_restart": None, "restarts": None}


def session_facts(state: State, *, session_id: str, pid: int, folder: str = "") -> dict[str, Any]:
    """Return the session's state as ``status --json`` prints it. What is not known is null."""
    phase, percent, models = state.phase.value, fill_percent(state), None
    if not isinstance(state.loaded, Unavailable):
        models = [
            {
                "name": model.name,
                "size_bytes": model.size_bytes,
                "vram_bytes": model.vram_bytes,
                "window_tokens": _known(model.window_tokens),
            }
            for model in state.loaded.models
        ]
    if state.phase is Phase.RUNNING:  # whether Aider waits or works
        phase = "prompt" if state.prompt is not None else "busy"
    return {
        "id": session_id,
        "pid": pid,
        "folder": folder,
        "model": state.main_model or None,
        "phase": phase,
        "turns": state.turns,
        "turns_until_restart": _turns_until_restart(state),
        "used_tokens": _known(used_tokens(state)),
        "used_is_measured": is_measured(state),
        "window_tokens": _known(window_tokens(state)),
        "fill_percent": None if isinstance(percent, Unavailable) else round(percent, 1),
        "parts": _parts(state),
        "drop_command": _drop_command(state),
        "reserve_tokens": _reserve(state),
        "memory": _memory(state.memory),
        "models": models,
        "restarts": state.restarts,
        "reading": _reading(state.reading),
        "last_turn": _last_turn(state.last_turn),
        "last_notice": state.last_notice or None,
    }


def _reading(reading: ReadingEstimated | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        "prompt_tokens": reading.prompt_tokens,
        "cached_tokens": reading.cached_tokens,
        "read_tokens": reading.read_tokens,
        "seconds_left": reading.seconds_left,
    }


def _last_turn(turn: TurnFinished | None) -> dict[str, Any] | None:
    if turn is None:
        return None
    return {"read_tokens": _known(turn.read_tokens), "cached_tokens": _known(turn.cached_tokens)}


def _known(value: int | Unavailable) -> int | None:
    return None if isinstance(value, Unavailable) else value


def _memory(reading: MemoryReading | Unavailable) -> dict[str, Any] | None:
    if isinstance(reading, Unavailable):
        return None
    ram = None if isinstance(reading.ram, Unavailable) else reading.ram
    return {
        "gpus": None
        if isinstance(reading.gpus, Unavailable)
        else [
            {
                "index": gpu.index,
                "name": gpu.name,
                "vram_used_bytes": _known(gpu.vram_used_bytes),
                "vram_total_bytes": gpu.vram_total_bytes,
                "shares_main_memory": gpu.shares_main_memory,
            }
            for gpu in reading.gpus
        ],
        "ram_used_bytes": ram and ram.total_bytes - ram.available_bytes,
        "ram_total_bytes": ram and ram.total_bytes,
        "ollama_bytes": _known(ram.ollama_bytes) if ram else None,
    }


def _turns_until_restart(state: State) -> int | None:
    """Return how many turns Aider has left; None where it is not restarted by their number."""
    limit = state.limits.max_turns
    if not limit or why_not_restarted(state):
        return None
    return max(0, limit - state.turns_in_launch)


def _parts(state: State) -> list[dict[str, Any]]:
    """Return what takes the window, in tokens by the kind of it."""
    sums: Counter[str] = Counter()
    for row in newest_rows(state):
        sums[row.kind] += row.tokens
    return [{"kind": kind, "tokens": tokens} for kind, tokens in sums.most_common()]


def _reserve(state: State) -> int | None:
    window = window_tokens(state)
    return None if isinstance(window, Unavailable) else usual_reserve(window)


def _drop_command(state: State) -> str | None:
    """Return the command that makes room, as a notice would name it; None where none is needed or known."""
    used, window = used_tokens(state), window_tokens(state)
    if isinstance(used, Unavailable) or isinstance(window, Unavailable) or window <= 0:
        return None
    advice = advise_room(state, newest_rows(state), used, window)
    return advice.command if advice is not None else None
