"""Somebody types through 200 turns, with probes, restarts and stalls: every message arrives whole, once, in order.

The same storm on Aider itself is the reference of what a terminal delivers. The seed is in the names of what failed;
``AIDER_GUARD_TEST_SEED`` repeats it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.bare import UNASKED, Bare
from e2e.desk import QUIET, Desk
from e2e.typist import Script, Typist, script
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama
from session.ptys import PATIENT

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=32768)
FILE = "till/prices.py"
SESSIONS, TURNS = 2, 25
"""Sessions at the same time in each of the two tests, and turns in each."""
OPTIONS = ("--probe", "always", "--max-turns", "3")


def seed() -> str:
    """The seed of this run."""
    return os.environ.get("AIDER_GUARD_TEST_SEED") or str(random.SystemRandom().randrange(10**6))


def desk(rig: Rig, folder: Path) -> Desk:
    """A repository and a home of their own."""
    home = folder / "home"
    home.mkdir(parents=True)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(folder / "state"),
        **PATIENT,
    }
    return Desk(rig.aider_command, make_sample(folder / "till"), env)


def delivered(server: FakeOllama) -> list[str]:
    """The messages that the model got, without what Aider adds to each."""
    last = [body["messages"][-1] for body in server.chats]
    return [message["content"].split("\n")[0] for message in last]


def input_history(repo: Path) -> list[str]:
    """The lines that the user finds behind the Up key in the next session."""
    lines = (repo / ".aider.input.history").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("+")]


def chat_history(repo: Path) -> list[str]:
    """The user's lines in the chat history."""
    lines = (repo / ".aider.chat.history.md").read_text().splitlines()
    return [line[5:].strip() for line in lines if line.startswith("#### ")]


def guarded(place: Desk, storm: Script) -> list[str]:
    """Type all of it into a guarded session; what was delivered."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server:
        with place.session(server.url, FILE, window_tokens=8192, options=OPTIONS) as person:
            person.wait_for_prompt()
            typist = Typist(
                person,
                aider_pid=person.aider_pid,
                hidden_runs=lambda: len(person.journal("run_hidden")),
            )
            typist.follow(storm)
            person.type(b"/exit\r")
            assert person.end() == 0
            print(
                "TURNS",
                len(person.journal("turn_finished")),
                [
                    (j["event"], j.get("number"), j.get("purpose"))
                    for j in person.journal()
                    if j["event"]
                    in (
                        "turn_finished",
                        "request_finished",
                        "request_started",
                        "aider_logged",
                        "prompt_shown",
                        "prompt_closed",
                        "restart",
                        "start_aider",
                    )
                ],
                file=sys.stderr,
            )
            restarts, probes = len(person.journal("start_aider")), person.journal("context_read")
        assert restarts >= len(storm.messages) // 6
        assert len(probes) >= len(storm.messages) // 4
        assert input_history(place.repo) == [*storm.messages, "/exit"]
        assert chat_history(place.repo) == [*storm.messages, "/exit"]
        return delivered(server)


def bare(place: Desk, storm: Script) -> list[str]:
    """Type all of it into Aider itself; what was delivered."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server:
        argv = [str(place.aider), "--model", "ollama_chat/small", *QUIET, *UNASKED, FILE]
        env = {**place.env, "OLLAMA_API_BASE": server.url}
        with Bare(argv, rows=40, columns=160, env=env, cwd=place.repo) as person:
            person.wait_for(person.is_asked)
            typist = Typist(
                person,
                aider_pid=lambda: person.process.pid,
                hidden_runs=lambda: 0,
            )
            typist.follow(storm)
            person.type(b"/exit\r")
            assert person.end() == 0
        return delivered(server)


@pytest.mark.parametrize("half", [1, 2])
def test_every_message_arrives_whole_once_and_in_order(rig: Rig, tmp_path: Path, half: int) -> None:
    """Nothing reaches the model that was not sent, and the histories are what was typed, as with Aider itself."""
    base = seed()
    print(f"seed {base}", file=sys.stderr)

    def run(number: int, hold: Callable[[Desk, Script], list[str]]) -> None:
        name = f"{base}-{half}-{number}"
        storm = script(name, TURNS)
        place = desk(rig, tmp_path / f"{hold.__name__}-{number}")
        try:
            got = hold(place, storm)
        except BaseException as error:
            raise AssertionError(f"seed {name}, {hold.__name__}: {error}") from error
        assert got == list(storm.messages), f"seed {name}, {hold.__name__}"

    with ThreadPoolExecutor(SESSIONS + 1) as pool:
        sessions = [pool.submit(run, number, guarded) for number in range(SESSIONS)]
        sessions += [pool.submit(run, number, bare) for number in range(SESSIONS)]
        for session in sessions:
            session.result()
