"""What ends in the middle of an answer: the sidecar, or the user's patience."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from e2e.chatting import ChattingOllama
from e2e.desk import COUNTABLE, Desk, wait_until
from e2e.people import PATIENCE_SECONDS
from fakes.ollama_chat import Talking
from fakes.ollama_runners import Speed
from fakes.ollama_troubles import Break

WORDS = " ".join(f"word{number}" for number in range(40))
AT_ONCE_SECONDS = 15.0
"""Far less than what is broken off would take; Aider's own ^C takes it seconds on a busy machine."""
LONG = " ".join(f"word{number}" for number in range(1200))


@pytest.fixture
def slow() -> Iterator[ChattingOllama]:
    """An Ollama whose answers take four seconds."""
    speed = Speed(load_seconds=0.1, answer_tokens_per_second=10, share=1)
    with ChattingOllama(models=(COUNTABLE,), talking=Talking(says=WORDS, speed=speed)) as server:
        yield server


def test_an_answer_that_aider_takes_as_whole_is_said_to_be_broken(desk: Desk) -> None:
    """Above the next prompt; Aider does not ask again, and nothing more is said of one that is whole.

    The first prompt says what holds, once, and after an answer of more than a second the user's command is run.
    """
    speed = Speed(load_seconds=0.1, answer_tokens_per_second=30, share=1)
    talking = Talking(says=WORDS, speed=speed, breaks=[Break("end", after_pieces=3)])
    rung = desk.repo.parent / "rung"
    rings = ("--notify-after", "1", "--notify-command", f"touch {rung}")
    with (
        ChattingOllama(models=(COUNTABLE,), talking=talking) as server,
        desk.session(server.url, options=("--greeting", "on", *rings)) as person,
    ):
        person.wait_for_prompt()
        person.wait_for(r"guarded: offline \(.*\) · window 4,096 · small\S* · restart after 20")
        person.say("Count, please.")
        person.wait_for("the answer broke off, and Aider takes it as whole: ")
        person.wait_for_prompt(2)
        assert person.wait_for_event("request_finished")["broke_off"] == "no_end"
        assert len(server.chats) == 1
        person.ask("Thank you.")
        assert person.text().count("broke off") == 1
        assert person.text().count("guarded: ") == 1
        wait_until(person, rung.exists, PATIENCE_SECONDS)
        person.type(b"/exit\r")
        assert person.end() == 0


def test_the_sidecar_is_killed_in_the_middle_of_an_answer(desk: Desk, slow: ChattingOllama) -> None:
    """Aider asks again by itself, the next sidecar has the same port, and the journal tells it."""
    with desk.session(slow.url) as person:
        person.wait_for_prompt()
        person.say("Count, please.")
        person.wait_for(r"word3\b")
        os.kill(person.sidecar_pid(), signal.SIGKILL)
        person.wait_for_event("sidecar_lost")
        person.wait_for_event("sidecar_started", 2)
        person.wait_for_prompt(2)
        assert person.wrote("word39")
        first, second = slow.chats
        assert first["messages"] == second["messages"]
        assert len(slow.cancelled) == 1
        person.ask("Thank you.")
        assert "Count, please." in str(slow.chats[-1]["messages"])
        events = [line["event"] for line in person.journal()]
        assert events.index("sidecar_lost") < events.index("turn_finished")
        person.type(b"/exit\r")
        assert person.end() == 0
        person.wait_for_none_left()
    typed = (desk.repo / ".aider.input.history").read_text()
    assert "+Count, please.\n" in typed
    assert "+Thank you.\n" in typed


def test_ctrl_c_ends_the_answer_at_ollama(desk: Desk, slow: ChattingOllama) -> None:
    """The connection to Ollama is closed at once, not at the answer's end in two minutes, and the session goes on."""
    slow.talking.says = LONG
    with desk.session(slow.url) as person:
        person.wait_for_prompt()
        person.say("Count, please.")
        person.wait_for(r"word3\b")
        person.type(b"\x03")
        wait_until(person, lambda: bool(slow.cancelled), AT_ONCE_SECONDS)
        person.wait_for_prompt(2)
        assert "word1199" not in person.text()
        finished = person.wait_for_event("request_finished")
        assert finished["outcome"] == "cancelled"
        slow.talking.says = "It is well."
        person.ask("Are you there?")
        assert person.wrote("It is well.")
        person.type(b"/exit\r")
        assert person.end() == 0


def test_ctrl_c_while_the_prompt_is_read(desk: Desk, slow: ChattingOllama) -> None:
    """Before the first byte as well, the request ends at once."""
    slow.talking.speed = Speed(load_seconds=0.1, prompt_tokens_per_second=1, share=1)
    with desk.session(slow.url) as person:
        person.wait_for_prompt()
        person.say("Count, please.")
        wait_until(person, lambda: bool(slow.chats), PATIENCE_SECONDS)
        person.type(b"\x03")
        wait_until(person, lambda: bool(slow.cancelled), AT_ONCE_SECONDS)
        person.wait_for_prompt(2)
        person.type(b"/exit\r")
        assert person.end() == 0
