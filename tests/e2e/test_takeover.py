"""The next Aider, started ahead, takes the place of the running one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

if TYPE_CHECKING:
    from e2e.desk import Desk
    from e2e.people import Guarded

MODEL = FakeModel("small:latest", size_bytes=0, vram_bytes=0, trained_tokens=8192)
EACH_TURN = ("--max-turns", "1", "--probe", "never")


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """An Ollama that answers with one sentence."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as ollama:
        yield ollama


def chat_of(person: Guarded, launch: int) -> str:
    """What that Aider wrote into its chat history."""
    return (person.folder() / f"launch-{launch}" / "chat.md").read_text()


def test_it_reads_everything_at_its_turn_and_no_key_is_lost(desk: Desk, server: FakeOllama) -> None:
    """While it waits, the terminal is resized, a file committed and a setting changed; at its turn the user types. The
    old Aider ends behind it, and its models are unloaded and loaded again.
    """
    with desk.session(server.url, "till/prices.py", options=EACH_TURN) as person:
        pid = person.wait_for_event("standby_ready")["pid"]
        person.resize_to(40, 120)
        (desk.repo / ".aider.conf.yml").write_text("chat-language: Frisian\n")
        desk.file("another.py", 1)
        person.say("first")
        person.wait_for_event("retire_aider")
        person.type(b"typed meanwhile")
        person.wait_for(r"^ask> typed meanwhile$")
        (started,) = person.journal("start_aider")
        assert started["standby"]
        assert person.aider_pid() == pid
        assert "─" * 120 in person.text()
        assert "Git repo: .git with 8 files" in chat_of(person, 2)
        person.wait_for_event("models_unloaded")
        assert len(person.journal("retired_exited")) == 1
        person.wait_for_event("model_warmed", 3)
        person.type(b", and sent\r")
        person.wait_for(lambda: "and sent" in json.dumps(server.chats[-1]))
        assert "Frisian" in json.dumps(server.chats[-1])
        person.wait_for_event("turn_finished", 2)
        person.type(b"\x15/exit\r")
        assert person.end() == 0
        person.wait_for_none_left()
    typed = (desk.repo / ".aider.input.history").read_text().splitlines()
    lines = [line for line in typed if line.startswith("+")]
    assert lines == ["+first", "+typed meanwhile, and sent", "+/exit"]


def test_one_that_dies_or_finds_other_variables_is_no_loss(desk: Desk, server: FakeOllama) -> None:
    """Another is started for one that was killed; with a new ``.env`` it begins anew; kill -9 leaves none behind."""
    with desk.session(server.url, "till/prices.py", options=EACH_TURN) as person:
        os.kill(person.wait_for_event("standby_ready")["pid"], signal.SIGKILL)
        person.wait_for_event("standby_lost")
        pid = person.wait_for_event("standby_ready", 2)["pid"]
        (desk.repo / ".env").write_text("LITELLM_LOG=ERROR\n")
        person.say("first")
        person.wait_for(
            r"Aider restarted in [\d.]+ s \(1 turn\): 1 file and the last exchange kept"
        )
        assert person.aider_pid() == pid
        words = subprocess.run(
            ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=True
        )
        assert b"standby:" not in words.stdout
        person.wait_for_event("start_standby", 3)
        person.process.kill()
        person.process.wait()
        person.wait_for_none_left()
