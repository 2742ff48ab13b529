"""What the demo says above the session, hands to Aider, and answers where it cannot run."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import platform
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.demo import demo, machine
from aider_guard.demo.layout import RigError, rig_in
from aider_guard.demo.ollama_server import PrivateOllama
from aider_guard.demo.removal import SAMPLES_FILE, run_removal
from aider_guard.demo.sample import sample_files

if TYPE_CHECKING:
    from collections.abc import Iterator


def no_session(_arguments: list[str], _settings: dict[str, str]) -> int:
    """Stands for the guarded session where none is started."""
    raise AssertionError("a session was started")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every request, as a running Ollama does for ``/api/version``."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    """The address of a server that answers."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_role_is_local_and_every_file_exists() -> None:
    """No role is left for a settings file to fill, and what is added is in the repository."""
    arguments = demo.demo_arguments()
    models = [arguments[place + 1] for place, word in enumerate(arguments) if "-model" in word[1:]]

    assert models[:3] == ["ollama_chat/small"] * 3
    assert {"--model", "--weak-model", "--editor-model"} < set(arguments)
    assert set(arguments[-2:]) | {arguments[arguments.index("--read") + 1]} < set(sample_files())


def test_the_introduction_quotes_the_folder_and_fits_a_terminal() -> None:
    """The folder can be pasted into a shell; a few lines of at most 60 columns."""
    lines = demo.introduction(Path("/tmp/a b")).strip().splitlines()

    assert lines[1] == "  '/tmp/a b'"
    assert len(lines) <= 7
    assert all(len(line) <= 60 for line in lines)


def test_the_farewell_says_what_stays_and_what_to_do_next() -> None:
    """The repository, one's own Ollama, and how to take all of it away: six lines."""
    lines = demo.farewell(Path("/tmp/a b"), "guard").strip().splitlines()

    assert lines[1] == "  '/tmp/a b'"
    assert "  guard -- --model ollama_chat/NAME" in lines
    assert "  guard demo --remove" in lines
    assert len(lines) == 6
    assert all(len(line) <= 60 for line in lines)


@pytest.mark.parametrize(("status", "farewell"), [(0, True), (1, True), (129, False)])
def test_a_demo_notes_its_repository_and_ends_with_the_farewell(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    status: int,
    farewell: bool,
) -> None:
    """The status is the session's; after a signal nothing is written: the terminal may be gone."""
    cache, running = tmp_path / "cache", []

    @contextlib.contextmanager
    def private_ollama(*_: Path) -> Iterator[PrivateOllama]:
        running.append("server")
        yield PrivateOllama("http://127.0.0.1:1", 1, tmp_path / "log")
        running.remove("server")

    def session(_guarded: object, _aider: Path, _url: str, folder: Path) -> int:
        assert running == ["server"]
        assert (folder / "README.md").is_file()
        with pytest.raises(RigError, match="A demo is running"):
            run_removal(cache)
        return status

    monkeypatch.setenv("AIDER_GUARD_CACHE_DIR", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "check_system", lambda: None)
    monkeypatch.setattr(demo, "ensure_rig", lambda cache, _progress: rig_in(cache))
    monkeypatch.setattr(demo, "private_ollama", private_ollama)
    monkeypatch.setattr(demo, "_session", session)

    assert demo.run_demo(no_session) == status
    (noted,) = (cache / SAMPLES_FILE).read_text().splitlines()
    repository = Path(json.loads(noted)) / "till"
    said = capsys.readouterr()
    assert running == []
    assert said.out.startswith(demo.introduction(repository, demo._own_command()))
    assert said.out.endswith(demo.farewell(repository, demo._own_command())) == farewell
    assert ("Stopping the private Ollama" in said.err) == farewell
    assert run_removal(cache) == 0
    assert not repository.parent.exists()


@pytest.mark.parametrize("answers", [True, False])
def test_where_it_cannot_run_the_users_own_ollama_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answering: str,
    answers: bool,
) -> None:
    """On another system: exit code 78, and what to do instead, with an Ollama or without."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "USUAL_OLLAMA", answering if answers else "http://127.0.0.1:1")

    assert demo.run_demo(no_session) == 78
    said = capsys.readouterr().err
    assert "Linux x86-64 only; this is Darwin" in said
    assert (f"An Ollama answers on {answering}" in said) == answers
    assert "aider-guard -- --model ollama_chat/NAME" in said


def test_environment_and_folder_are_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The session's variables and folder last as long as the session, however that ends."""
    monkeypatch.setenv("KEPT", "old")
    monkeypatch.delenv("NEW", raising=False)
    seen = []

    def session() -> None:
        with demo._environment({"KEPT": "new", "NEW": "1"}), demo._working_in(tmp_path):
            seen.append((os.environ["KEPT"], os.environ["NEW"], Path.cwd()))
            raise KeyboardInterrupt

    before = Path.cwd()
    with pytest.raises(KeyboardInterrupt):
        session()

    assert seen == [("new", "1", tmp_path)]
    assert (os.environ["KEPT"], os.environ.get("NEW"), Path.cwd()) == ("old", None, before)
