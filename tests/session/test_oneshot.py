"""Runs without a conversation, on the real command line (``guards.py``): the air gap, the notices and the journal."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from session.guards import Place
from session.ptys import child

from aider_guard.airgap.choose import find_layer
from aider_guard.core.egress import ENFORCED, Layer
from aider_guard.core.egress_messages import NETWORK_OPEN

GREETING = b"hello from outside"
LAUNCH_REFUSED = 78
MESSAGE = ("--model", "ollama_chat/small", "--message", "hi")
_ASKS = """
import socket, sys
for port in map(int, sys.argv[1:]):
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as one:
            one.settimeout(10)
            print(port, one.recv(100).decode())
    except OSError as error:
        print(port, type(error).__name__)
"""
enforced = pytest.mark.skipif(
    find_layer().layer not in ENFORCED, reason="this system allows no layer that is enforced"
)


@pytest.fixture(params=["settings", "problem"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """With an Aider that says what it will use, and with one that does not."""
    return Place.make(tmp_path / "place", request.param)


@pytest.fixture
def service() -> Iterator[int]:
    """A service of this machine, which greets each client; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(GREETING)

        thread = threading.Thread(target=greet)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def asking(*ports: int) -> list[str]:
    """A program that connects to these ports, and prints what it receives."""
    return [sys.executable, "-S", "-c", _ASKS, *map(str, ports)]


def run(
    place: Place,
    program: Sequence[object],
    *options: str,
    arguments: Sequence[str] = MESSAGE,
    env: dict[str, str] | None = None,
    layers: Sequence[Layer] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        place.guarded(*arguments, options=options, layers=layers),
        env=place.env(program, **(env or {})),
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def journal(place: Place, event: str = "") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in place.journal().splitlines()]
    return [line for line in lines if event in ("", line["event"])]


@enforced
def test_what_is_allowed_is_relayed_whether_aider_says_what_it_uses_or_not(
    place: Place, service: int
) -> None:
    """A connection to it is answered and counted, and the last line names it."""
    done = run(place, asking(service), "--allow", f"127.0.0.1:{service}")
    assert done.stdout == f"{service} {GREETING.decode()}\n"
    assert done.stderr.endswith(f"let through: 127.0.0.1:{service} once\n")
    (allowed,) = journal(place, "egress_allowed")
    assert (allowed["host"], allowed["port"], allowed["count"]) == ("127.0.0.1", service, 1)


@enforced
def test_a_run_is_written_down_like_a_session(place: Place, service: int) -> None:
    """In a file that others cannot read: the layer and why it is no better one, what was blocked, how it ended."""
    done = run(place, asking(service), layers=["seccomp"])
    assert done.returncode == 0
    (folder,) = place.sessions
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "journal.jsonl").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]
    (chosen,) = journal(place, "air_gap_chosen")
    assert chosen["layer"] == "seccomp"
    assert chosen["because"]
    (blocked,) = journal(place, "egress_blocked")
    assert (blocked["host"], blocked["port"]) == ("127.0.0.1", service)
    (started,) = journal(place, "aider_started")
    assert folder.name.endswith(tuple("0123456789"))
    assert started["pid"] > 0
    assert len(journal(place, "models_chosen")) == 1
    exited, ended = journal(place)[-2:]
    assert (exited["event"], exited["status"]) == ("aider_exited", 0)
    assert (ended["event"], ended["exit_status"]) == ("end_session", 0)


@pytest.mark.parametrize(("form", "status"), [("settings", 0), ("problem", 7)])
def test_the_status_is_aiders_and_status_lists_no_run(
    tmp_path: Path, form: Any, status: int
) -> None:
    """It is in the journal, and ``status`` says that no session runs."""
    place = Place.make(tmp_path / "place", form)
    done = run(place, child("exits_with", status))
    assert done.returncode == status
    assert journal(place, "end_session")[0]["exit_status"] == status
    listed = subprocess.run(
        [sys.executable, "-m", "aider_guard", "status"],
        env=place.env(()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert listed.stdout == "no session is running\n"


@enforced
def test_aiders_page_is_within_reach_of_a_browser(tmp_path: Path) -> None:
    """Also where only a settings file asks for it: never in a network of its own, and for that reason."""
    place = Place.make(tmp_path / "place")
    (place.home / ".aider.conf.yml").write_text("browser: true\n")
    done = run(place, child("exits_with", 0), arguments=("--model", "ollama_chat/small"))
    assert done.returncode == 0
    (chosen,) = journal(place, "air_gap_chosen")
    assert chosen["layer"] != "netns"
    assert "page" in chosen["because"]


def test_a_refused_run_is_written_down(tmp_path: Path) -> None:
    """What forbade it, and no text of the user's."""
    place = Place.make(tmp_path / "place")
    done = run(
        place, child("exits_with", 0), arguments=("--model", "gpt-4o", "--message", "secret")
    )
    assert done.returncode == LAUNCH_REFUSED
    assert journal(place, "finding")[0]["severity"] == "stop"
    assert journal(place)[-2]["event"] == "launch_forbidden"
    assert journal(place)[-1]["exit_status"] == LAUNCH_REFUSED
    assert b"gpt-4o" not in place.journal()
    assert b"secret" not in place.journal()


def test_a_run_that_ends_before_it_asks_leaves_nothing(tmp_path: Path) -> None:
    """A wrong argument, ``--version``, ``--help``: Aider says what it has to say, and no folder is made."""
    place = Place.make(tmp_path / "place")
    done = run(place, child("exits_with", 0), arguments=("--no-such-option", "--exit"))
    assert done.returncode == 2
    assert place.sessions == []


def test_a_journal_that_cannot_be_written_is_said_once(place: Place) -> None:
    """The run goes on, with its own status."""
    place.state.write_text("not a folder")
    done = run(place, child("exits_with", 3))
    assert done.returncode == 3
    assert " ".join(done.stderr.split()).count("the journal cannot be written: ") == 1
    assert "AIDER_GUARD_STATE_DIR" in done.stderr


def test_an_open_network_is_said_once(place: Place) -> None:
    """On standard error, in the words of a session; and not that nothing tried to leave."""
    done = run(place, child("exits_with", 0), "--network", "open")
    message = " ".join(done.stderr.split())
    assert message == f"aider-guard: {NETWORK_OPEN}"
    assert journal(place, "air_gap_chosen")[0]["layer"] == "open"
