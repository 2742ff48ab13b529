"""A person types through 200 turns, with probes, restarts and stalls: every message arrives whole, once, in order.

The same storm on Aider itself is the reference of what a terminal delivers. The seed is in the names of what failed;
``AIDER_GUARD_TEST_SEED`` repeats it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.bare import UNASKED, Bare
from e2e.desk import QUIET, Desk
from e2e.typist import Script, Typist, script_of
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama
from session.ptys import PATIENT

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=32768)
FILE = "till/prices.py"
SESSIONS, TURNS = 4, 25
"""Sessions in each of the two tests, and turns in each."""
AT_A_TIME = 5
MAX_TURNS = 3
OPTIONS = ("--probe", "always", "--max-turns", str(MAX_TURNS))


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
    """The messages that the model got, without what Aider adds to each.

    The door itself asks for one token after the beginning of a prompt, to have it read ahead; that is no message.
    """
    sent = [body for body in server.chats if body["options"].get("num_predict") != 1]
    last = [body["messages"][-1] for body in sent]
    return [message["content"].split("\n")[0] for message in last]


def input_history(repo: Path) -> list[str]:
    """The lines that the user finds behind the Up key in the next session."""
    lines = (repo / ".aider.input.history").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("+")]


def chat_history(repo: Path) -> list[str]:
    """The user's lines in the chat history."""
    lines = (repo / ".aider.chat.history.md").read_text().splitlines()
    return [line[5:].strip() for line in lines if line.startswith("#### ")]


@dataclass(frozen=True)
class Storm:
    """What came of a script: the messages that the model got, and what the guard did meanwhile."""

    delivered: list[str]
    restarts: int = 0
    probes: int = 0


def guarded(place: Desk, script: Script) -> Storm:
    """Type all of it into a guarded session."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server:
        with place.session(server.url, FILE, window_tokens=8192, options=OPTIONS) as person:
            person.wait_for_prompt()
            typist = Typist(person, aider_pid=person.aider_pid, guard=person, max_turns=MAX_TURNS)
            typist.follow(script)
            person.type(b"/exit\r")
            assert person.end() == 0
            restarts, probes = (
                len(person.journal("start_aider")),
                len(person.journal("context_read")),
            )
        assert input_history(place.repo) == [*script.messages, "/exit"]
        assert chat_history(place.repo) == [*script.messages, "/exit"]
        return Storm(delivered(server), restarts, probes)


def bare(place: Desk, script: Script) -> Storm:
    """Type all of it into Aider itself."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server:
        argv = [str(place.aider), "--model", "ollama_chat/small", *QUIET, *UNASKED, FILE]
        env = {**place.env, "OLLAMA_API_BASE": server.url}
        with Bare(argv, rows=40, columns=160, env=env, cwd=place.repo) as person:
            person.wait_for(person.is_asked)
            typist = Typist(person, aider_pid=lambda: person.process.pid)
            typist.follow(script)
            person.type(b"/exit\r")
            assert person.end() == 0
        return Storm(delivered(server))


@pytest.mark.timeout(1800)
@pytest.mark.xdist_group(
    "typing storm"
)  # one after the other: there are three sessions at a time in each
@pytest.mark.parametrize("half", [1, 2])
def test_every_message_arrives_whole_once_and_in_order(rig: Rig, tmp_path: Path, half: int) -> None:
    """Nothing reaches the model that was not sent, and the histories are what was typed, as with Aider itself."""
    base = seed()
    print(f"seed {base}", file=sys.stderr)

    def run(number: int, hold: Callable[[Desk, Script], Storm]) -> Storm:
        name = f"{base}-{half}-{number}"
        script = script_of(name, TURNS)
        place = desk(rig, tmp_path / f"{hold.__name__}-{number}")
        try:
            storm = hold(place, script)
        except BaseException as error:
            raise AssertionError(f"seed {name}, {hold.__name__}: {error}") from error
        assert storm.delivered == list(script.messages), f"seed {name}, {hold.__name__}"
        return storm

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        sessions = [pool.submit(run, number, guarded) for number in range(SESSIONS)]
        if half == 1:  # the reference; half of it, to save minutes
            sessions += [pool.submit(run, number, bare) for number in range(SESSIONS)]
        storms = [session.result() for session in sessions]
    # Where the person typed on at once, a probe or a restart waited for a later prompt.
    assert sum(storm.restarts for storm in storms) >= SESSIONS * TURNS // 8
    assert sum(storm.probes for storm in storms) >= SESSIONS * TURNS // 8
