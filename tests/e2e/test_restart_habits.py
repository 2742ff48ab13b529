"""What Aider was told at its start, and in which encoding it works, holds after a restart as well."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from e2e.people import Guarded
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

if TYPE_CHECKING:
    from e2e.desk import Desk

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """An Ollama that answers with one sentence."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as ollama:
        yield ollama


def session(desk: Desk, server: FakeOllama, *arguments: str) -> Guarded:
    """A session that is restarted after each turn, without the flags that answer Aider's questions."""
    return Guarded(
        str(desk.aider),
        ["--model", "ollama_chat/small", "--map-tokens", "0", "--chat-mode", "ask", *arguments],
        options=["--num-ctx", "4096", "--max-turns", "1"],
        env={**desk.env, "OLLAMA_API_BASE": server.url},
        cwd=desk.repo,
        rows=40,
        columns=160,
    )


def answer(person: Guarded, question: str, key: bytes) -> None:
    """Answer a question of Aider's start, and look until it asks for a message."""
    person.wait_for(question)
    person.type(key + b"\r")
    person.wait_for_prompt()


def restart(person: Guarded, count: int = 1) -> None:
    """Take a turn, and look until the next Aider asks for a message."""
    person.say(f"message {count}")
    person.wait_for_event("start_aider", count)
    started = person.wait_for_event("aider_started", count + 1)["t"]
    person.wait_for(lambda: person.journal("prompt_shown")[-1]["t"] > started)


def leave(person: Guarded) -> None:
    """Leave Aider."""
    person.type(b"/exit\r")
    assert person.end() == 0


def test_what_to_ignore_is_asked_once(desk: Desk, server: FakeOllama) -> None:
    """The user said No: no restart asks again, when a stray Enter would mean Yes."""
    (desk.repo / ".gitignore").unlink(missing_ok=True)
    with session(desk, server) as person:
        answer(person, r"Add \.aider\* to \.gitignore", b"n")
        restart(person)
        assert len(person.journal("confirm_shown")) == 1
        leave(person)
    assert not (desk.repo / ".gitignore").exists()


def test_a_repository_is_offered_once(desk: Desk, server: FakeOllama) -> None:
    """The user said No: the session goes on without git, also when there is one by now."""
    shutil.rmtree(desk.repo / ".git")
    with session(desk, server) as person:
        answer(person, "No git repo found, create one", b"n")
        restart(person)
        subprocess.run(["git", "init", "--quiet"], cwd=desk.repo, check=True)
        restart(person, 2)
        assert len(person.journal("confirm_shown")) == 1
        assert "Git repo: none" in (person.folder() / "launch-3" / "chat.md").read_text()
        leave(person)


def test_a_repository_that_was_created_stays_in_use(desk: Desk, server: FakeOllama) -> None:
    """The user said Yes."""
    shutil.rmtree(desk.repo / ".git")
    with session(desk, server) as person:
        answer(person, "No git repo found, create one", b"y")
        restart(person)
        assert len(person.journal("confirm_shown")) == 1
        assert "Git repo: .git" in (person.folder() / "launch-2" / "chat.md").read_text()
        leave(person)


def test_names_in_another_encoding_are_handed_over(desk: Desk, server: FakeOllama) -> None:
    """Aider writes and reads its files in Latin-1 here, with names that have letters of it."""
    (desk.repo / "größe.py").write_text("x = 1\n", encoding="latin-1")
    with session(desk, server, "--encoding", "latin-1", "--no-gitignore", "größe.py") as person:
        person.wait_for_prompt()
        restart(person)
        assert person.journal("chat_saved")[-1]["problem"] == ""
        person.wait_for(r"1 file and the last exchange kept")
        person.wait_for(r"^größe\.py$")
        leave(person)
    history = (desk.repo / ".aider.chat.history.md").read_text(encoding="latin-1")
    assert "#### message 1" in history


def test_nothing_of_the_handing_over_is_shown_after_a_death(desk: Desk, server: FakeOllama) -> None:
    """The files come back, without the commands that brought them."""
    with session(desk, server, "--no-gitignore", "till/prices.py") as person:
        person.wait_for_prompt()
        person.wait_for_reading()
        os.kill(person.aider_pid(), signal.SIGKILL)
        person.wait_for("start it again")
        person.wait_out_the_deaf_moment()
        person.type(b"y")
        started = person.wait_for_event("aider_started", 2)["t"]
        person.wait_for(lambda: person.journal("prompt_shown")[-1]["t"] > started)
        person.wait_for(r"^till/prices\.py$")
        assert b"Executing" not in person.shown
        assert b"Dropping" not in person.shown
        leave(person)
