"""The control socket with real clients: some ask, some are silent, and some go away."""

from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aider_guard.core.events import Event, RestartRequested
from aider_guard.loop import READ, Loop
from aider_guard.session.control import Control, ask, control_socket

FACTS = {"id": "a-1", "files": "größe \udcff\n", "long": "x" * 10_000}


class Session:
    """A loop with the socket in it, which is turned by hand."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.posted: list[Event] = []
        self.refusal = ""
        self.loop = stack.enter_context(Loop())
        self.listener, self.path = stack.enter_context(control_socket(folder))
        self.control = Control(
            self.listener,
            self.loop,
            status=lambda: FACTS,
            post=self.posted.append,
            refusal=lambda: self.refusal,
        )
        self._stack = stack
        stack.callback(self.control.close)

    def client(self) -> socket.socket:
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(20)
        client.connect(self.path)
        self.turn()
        return client

    def turn(self) -> None:
        """Do what can be done now."""
        self.loop.run_once(0)

    def answer(self, question: bytes) -> Any:
        """What a client that asks this gets; None when it is dropped without an answer."""
        client = self.client()
        client.sendall(question)
        self.turn()
        line = client.makefile("rb").readline()
        assert client.recv(1) == b""
        return json.loads(line) if line else None


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with ExitStack() as stack:
        yield Session(stack, tmp_path)


def test_status_is_one_line_of_json(session: Session) -> None:
    """Whatever the facts hold; the line ends, and so does the connection."""
    assert session.answer(b"status\n") == FACTS
    assert session.answer(b"status") == FACTS


def test_restart_becomes_an_event(session: Session) -> None:
    """The answer says only that the request was accepted."""
    assert session.answer(b"restart\n") == {"ok": True}
    assert session.posted == [RestartRequested()]


def test_a_restart_that_cannot_be_is_refused(session: Session) -> None:
    """The answer is why, and nothing happens."""
    session.refusal = "not here"
    assert session.answer(b"restart\n") == {"error": "not here"}
    assert session.answer(b"status\n") == FACTS
    assert session.posted == []


GARBAGE = [
    b"\n",
    b"\xff\xfe\x00",
    b"STATUS\n",
    b"status; restart\n",
    b"x" * 100_000,
    b"GET / HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("question", GARBAGE, ids=lambda question: repr(question[:12]))
def test_garbage_gets_an_answer_and_does_nothing(session: Session, question: bytes) -> None:
    """The answer to an unknown question names the questions that exist."""
    client = session.client()
    client.sendall(question)
    session.turn()
    assert b"the questions are status and restart" in client.recv(4096)
    assert session.posted == []
    assert session.answer(b"status\n") == FACTS


def test_a_silent_client_does_not_disturb_others(session: Session) -> None:
    """It may stay, and the others are served."""
    silent = session.client()
    assert session.answer(b"status\n") == FACTS
    silent.sendall(b"status\n")
    session.turn()
    assert json.loads(silent.makefile("rb").readline()) == FACTS


def test_too_many_silent_clients_push_out_the_oldest(session: Session) -> None:
    """They must not use up the session's descriptors; a client that asks is still served."""
    clients = [session.client() for _ in range(40)]
    assert clients[0].recv(1) == b""
    assert session.answer(b"status\n") == FACTS
    clients[-1].sendall(b"status\n")
    session.turn()
    assert json.loads(clients[-1].makefile("rb").readline()) == FACTS


def test_a_client_that_goes_away_is_forgotten(session: Session) -> None:
    """Before it asks, and after it asked without reading the answer."""
    session.client().close()
    gone = session.client()
    gone.sendall(b"status\n")
    gone.close()
    for _ in range(3):
        session.turn()
    assert session.answer(b"status\n") == FACTS
    gone = socket.socket(socket.AF_UNIX)
    gone.connect(session.path)
    gone.close()
    for _ in range(3):
        session.turn()
    assert session.answer(b"status\n") == FACTS


def test_the_end_drops_every_client(session: Session) -> None:
    """Clients see the end, and the loop watches none of them any more."""
    client = session.client()
    session.control.close()
    assert client.recv(1) == b""
    with pytest.raises(RuntimeError, match="nothing to wait for"):
        session.loop.run_once()


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    """Mode 0600, and gone when the session is."""
    with control_socket(tmp_path) as (_, path):
        assert path == str(tmp_path / "control")
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert not Path(path).exists()


@pytest.mark.parametrize("length", [60, 94, 95, 96, 103, 104, 110, 200])
def test_a_path_that_is_too_long_is_replaced_by_a_short_one(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path holds about a hundred bytes; then it lies in a private temporary folder, which goes again."""
    monkeypatch.chdir(tmp_path)
    folder = Path("é" * 20) / ("x" * (length - 41))
    folder.mkdir(parents=True)
    with control_socket(folder) as (listener, path):
        listener.setblocking(True)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) & 0o077 == 0 or path.startswith("é")
        assert path.startswith("é") == (length + len("/control") <= 103)
    assert not Path(path).exists()
    assert path.startswith("é") or not Path(path).parent.exists()


# Asking


@contextmanager
def answering(folder: Path, answer: bytes | None) -> Iterator[str]:
    """A listener that gives this answer to one client; None: it never answers."""
    with control_socket(folder) as (listener, path):
        listener.setblocking(True)

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(100)
                if answer is None:
                    client.recv(100)
                else:
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def test_an_answer_is_read(tmp_path: Path) -> None:
    """The object of one line."""
    with answering(tmp_path, b'{"ok": true}\n') as path:
        assert ask(path, "restart") == {"ok": True}


@pytest.mark.parametrize("answer", [b"", b"{", b"[]\n", b"7\n", b"\xff\n"])
def test_an_answer_that_makes_no_sense_is_a_value_error(tmp_path: Path, answer: bytes) -> None:
    """Another program's words, or half of ours."""
    with answering(tmp_path, answer) as path, pytest.raises(ValueError, match=r".*"):
        ask(path, "status")


def test_a_session_that_does_not_answer_is_an_os_error(tmp_path: Path) -> None:
    """After the time that is given, and at once when no session listens."""
    with answering(tmp_path, None) as path, pytest.raises(TimeoutError):
        ask(path, "status", timeout_seconds=0.05)
    with pytest.raises(OSError, match="No such file"):
        ask(str(tmp_path / "missing"), "status")


def test_a_whole_conversation(session: Session) -> None:
    """A real client against the real session, which runs in its loop."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = threading.Event()
        session.loop.watch(theirs.fileno(), READ, lambda _events: done.set())
        thread = threading.Thread(target=session.loop.run, args=(done.is_set,))
        thread.start()
        try:
            assert ask(session.path, "status") == FACTS
            assert ask(session.path, "restart") == {"ok": True}
        finally:
            ours.send(b"stop")
            thread.join()
            session.loop.forget(theirs.fileno())
