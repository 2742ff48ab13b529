"""Sessions in which Aider reads lines without prompt_toolkit: ``--no-fancy-input``, and a dumb terminal."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from airgap.layers import guard_program
from e2e.desk import COUNTABLE, Desk
from e2e.test_keys import SLOW, InShell, messages
from fakes.ollama_chat import Talking
from fakes.ollama_server import FakeOllama

from aider_guard.core.messages import PLAIN_INPUT

if TYPE_CHECKING:
    from e2e.people import Guarded


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """An Ollama that answers with one sentence."""
    with FakeOllama(models=(COUNTABLE,), talking=Talking(says="It is well.")) as ollama:
        yield ollama


@pytest.fixture(params=["--no-fancy-input", "dumb", "unknown"])
def plain(request: pytest.FixtureRequest, desk: Desk) -> tuple[Desk, list[str]]:
    """A desk at which Aider reads plain lines, and its arguments."""
    if request.param.startswith("--"):
        return desk, [request.param]
    return replace(desk, env={**desk.env, "TERM": request.param}), []


def test_turns_are_counted_and_notices_shown(
    plain: tuple[Desk, list[str]], server: FakeOllama
) -> None:
    """Each message is a turn; the warning stands above the prompt, and Aider gets what was typed and nothing else."""
    desk, arguments = plain
    big = desk.file("big.py", 50)
    options = ("--warn-at", "20", "--probe", "always", "--max-turns", "2")
    with desk.session(server.url, big, *arguments, options=options) as person:
        person.wait_for_prompt()
        person.ask("first")
        person.wait_for_event("turn_finished")
        person.wait_for(r"^aider-guard: context \d+ % full")
        person.wait_for(rf"^ *(/drop {big}|/clear).*\nask>$")
        person.ask("second message")
        person.wait_for_event("turn_finished", 2)
        # Two turns make a restart due, which the session cannot do.
        person.wait_for(re.escape(PLAIN_INPUT[:60]))
        person.wait_for(r"^ask>$")
        person.type(b"/exit\r")
        assert person.end() == 0
        assert "run_hidden" not in {line["event"] for line in person.journal()}
        assert len(person.journal("turn_finished")) == 2
    assert messages(server) == ["first", "second message"]
    if "dumb" in desk.env["TERM"]:
        assert b"\x1b" not in person.shown


def test_keys_typed_while_aider_works(desk: Desk, server: FakeOllama) -> None:
    """They reach Aider in their order, and no notice is printed among them."""
    server.talking.speed = SLOW
    with desk.session(server.url, "--no-fancy-input") as person:
        person.wait_for_prompt()
        person.say("first")
        person.wait_for_event("turn_started")
        person.type(b"second\rthird, ")
        person.wait_for_event("turn_finished")
        person.type(b"and whole\r")
        person.wait_for(lambda: len(messages(server)) == 3)
        person.wait_for_event("turn_finished", 2)
        person.type(b"/exit\r")
        assert person.end() == 0
    assert messages(server) == ["first", "second", "third, and whole"]


def test_an_answer_that_is_interrupted(desk: Desk, server: FakeOllama) -> None:
    """Ctrl-C brings the prompt back, and the next message is a turn."""
    server.talking.speed = SLOW
    with desk.session(server.url, "--no-fancy-input") as person:
        person.wait_for_prompt()
        person.say("first")
        # Not the turn's start: a Ctrl-C in which Aider starts its spinner leaves the spinner running for good.
        person.wait_for(lambda: messages(server) == ["first"])
        person.type(b"\x03")
        person.wait_for_prompt(2, seconds=30)
        person.ask("second")
        person.type(b"/exit\r")
        assert person.end() == 0
    assert messages(server)[-1] == "second"


@pytest.mark.parametrize("flags", [("--no-fancy-input",), ("--no-pretty",), ("--vim",)])
def test_ctrl_z_at_the_prompt(desk: Desk, server: FakeOllama, flags: tuple[str, ...]) -> None:
    """The job stops; continued, the prompt stands there again with what was typed, and takes the rest."""
    with InShell(desk, server.url, "--probe=never", arguments=flags) as person:
        person.wait_for_prompt()
        person.type(b"aft")
        person.wait_for(r"^ask> aft$")
        person.type(b"\x1a")
        person.wait_for(r"Stopped(.|\n)*shell\$\s*$")
        person.type(b"fg\n")
        person.wait_for(r"^ask> aft$")
        person.ask("er")
        person.type(b"/exit\r")
        person.wait_for(r"shell\$\s*$")
        person.type(b"exit\n")
        assert person.end() == 0
    assert messages(server) == ["after"]


def test_a_restart_that_is_asked_for_is_refused(desk: Desk, server: FakeOllama) -> None:
    """``aider-guard restart`` says why it cannot be, at once, and the session goes on."""
    with desk.session(server.url, "--no-fancy-input") as person:
        person.wait_for_prompt()
        program = [*guard_program(None), "restart"]
        asked = subprocess.run(
            program, env={**desk.env}, cwd=desk.repo, capture_output=True, text=True, check=False
        )
        assert (asked.returncode, asked.stdout) == (64, "")
        assert PLAIN_INPUT in asked.stderr
        person.ask("first")
        person.type(b"/exit\r")
        assert person.end() == 0
    assert person.journal("restart_requested") == []


def test_an_aider_that_died_is_started_again(desk: Desk, server: FakeOllama) -> None:
    """Its prompt comes back with the notice above it."""
    with desk.session(server.url, "--no-fancy-input") as person:
        person.wait_for_prompt()
        person.ask("first")
        kill(person)
        person.wait_for(r"y: start it again")
        person.wait_out_the_deaf_moment()
        person.type(b"y")
        person.wait_for_prompt(3)
        person.wait_for(r"^aider-guard: Aider restarted(.|\n)*\nask>$")
        person.ask("second")
        person.type(b"/exit\r")
        assert person.end() == 0
    assert messages(server) == ["first", "second"]


def kill(person: Guarded) -> None:
    """Kill Aider as a machine short of memory would."""
    subprocess.run(["kill", "-9", str(person.aider_pid())], check=True)
