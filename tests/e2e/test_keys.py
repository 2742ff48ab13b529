"""Keys of a person who types while Aider works, while hidden commands run, and while Aider is stopped."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from airgap.layers import guard_program
from e2e.desk import QUIET, Desk
from e2e.people import Guarded, Onlooker
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_runners import Speed
from fakes.ollama_server import FakeOllama

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)
FILE = "till/prices.py"
SLOW = Speed(prompt_tokens_per_second=400.0, share=1.0, load_seconds=0.0)
"""The answer to a message takes some seconds."""


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """An Ollama that answers with one sentence."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as ollama:
        yield ollama


def messages(server: FakeOllama) -> list[str]:
    """The user's messages that the model got, without what Aider adds to each; what is read ahead is none."""
    asked = [body for body in server.chats if body["options"].get("num_predict") != 1]
    last = [body["messages"][-1] for body in asked]
    return [message["content"].split("\n")[0] for message in last if message["role"] == "user"]


def stop_aider(person: Guarded) -> int:
    """Stop Aider's process as a busy machine would; its number."""
    pid = person.aider_pid()
    os.kill(pid, signal.SIGSTOP)
    return pid


def leave(person: Guarded) -> None:
    """Clear the line and leave."""
    person.type(b"\x15/exit\r")
    assert person.end() == 0


@pytest.mark.parametrize("options", [("--max-turns", "1"), ("--probe", "always")])
def test_half_a_line_typed_while_aider_works(
    desk: Desk, server: FakeOllama, options: tuple[str, ...]
) -> None:
    """It stands on the next line as it was typed: nothing is typed after it, and nothing is sent."""
    server.talking.speed = SLOW
    with desk.session(server.url, options=options) as person:
        person.wait_for_prompt()
        person.say("first")
        person.wait_for_event("turn_started")
        person.type(b"halfway")
        person.wait_for(r"^ask> halfway$")
        at_rest(person)
        assert "halfway/" not in person.text()
        person.type(b" there\r")
        person.wait_for(lambda: len(messages(server)) == 2)
        assert messages(server) == ["first", "halfway there"]
        person.wait_for_event("turn_finished", 2)
        leave(person)


def at_rest(person: Guarded) -> None:
    """Look until the screen did not change for two seconds: hidden commands would have begun."""
    shown, since = len(person.shown), time.monotonic()
    while time.monotonic() - since < 2:
        person.pump(seconds=0.1)
        if len(person.shown) != shown:
            shown, since = len(person.shown), time.monotonic()


@pytest.mark.parametrize("enter", [b"", b"\r"], ids=["half a line", "a line"])
def test_keys_keep_their_order_when_a_hidden_command_takes_too_long(
    desk: Desk, server: FakeOllama, enter: bytes
) -> None:
    """What was typed while it ran comes before what was typed after it was given up."""
    with desk.session(server.url, FILE, options=("--probe", "always")) as person:
        person.wait_for_event("run_hidden")
        pid = stop_aider(person)
        person.type(b"ABCDEFG" + enter)
        person.wait_for(lambda: given_up(person))
        person.type(b"hijklmn")
        os.kill(pid, signal.SIGCONT)
        if enter:
            person.wait_for(lambda: messages(server) == ["ABCDEFG"])
            person.wait_for(r"^ask> hijklmn$")
        else:
            person.wait_for(r"^ask> ABCDEFGhijklmn$")
        leave(person)
    assert messages(server) == (["ABCDEFG"] if enter else [])


def given_up(person: Guarded) -> bool:
    """Whether the hidden command ended without an answer."""
    failed = [line for line in person.journal("context_read") if "reason" in str(line["reading"])]
    return bool(failed or person.journal("command_not_typed"))


class InShell(Guarded):
    """A person who starts the guard from a shell, where a job can be stopped."""

    def __init__(
        self, desk: Desk, ollama: str, *options: str, arguments: tuple[str, ...] = ()
    ) -> None:
        self.state = Path(desk.env["AIDER_GUARD_STATE_DIR"])
        command = [*guard_program(None), "--aider", str(desk.aider), "--num-ctx", "4096", *options]
        command += ["--", "--model", "ollama_chat/small", *QUIET, *arguments, FILE]
        env = {**desk.env, "OLLAMA_API_BASE": ollama, "PS1": "shell$ "}
        shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        Onlooker.__init__(self, shell, rows=40, columns=160, env=env, cwd=desk.repo)
        self.wait_for(r"shell\$")
        self.type(shlex.join(command).encode() + b"\n")

    def folder(self) -> Path:
        """The session's folder."""
        return max((self.state / "sessions").glob("*"))

    def _has_journal(self) -> bool:
        return any((self.state / "sessions").glob("*"))


@pytest.mark.parametrize("option", ["--probe=always", "--max-turns=1"])
def test_ctrl_z_while_a_hidden_command_runs(desk: Desk, server: FakeOllama, option: str) -> None:
    """The job stops at once; continued, the prompt stands there, with what was typed after the key."""
    if not shutil.which("bash"):
        pytest.skip("no bash, whose job control is used")
    turns = ["first"] if option.startswith("--max") else []
    with InShell(desk, server.url, option) as person:
        person.wait_for_prompt()
        for turn in turns:
            person.ask(turn)
        person.wait_for_event("run_hidden")
        person.type(b"\x1a")
        person.wait_for(r"Stopped(.|\n)*shell\$\s*$")
        person.type(b"fg\n")
        person.wait_for(r"^ask>$")
        person.type(b"after")
        person.wait_for(r"^ask> after$")
        person.type(b"\x15/exit\r")
        person.wait_for(r"shell\$\s*$")
        person.type(b"exit\n")
        assert person.end() == 0
    assert messages(server) == turns
