"""No riddles: whatever is wrong with Ollama, Aider's screen says it in words within seconds, and the next try works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.chatting import ChattingOllama
from e2e.desk import COUNTABLE, Desk
from fakes.answering import Raw
from fakes.ollama_troubles import Break, busy, loading

if TYPE_CHECKING:
    from fakes.ollama_server import FakeOllama

SAYS = "It is well"
WITHIN_SECONDS = 20.0
"""Aider by itself tries again for 65 s; its first request takes it seconds on a busy machine."""
HTML = Raw(b"<html><body>Sign in to the hotel's network</body></html>")
LARGER = replace(COUNTABLE, kv_bytes_per_token=1024**2)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, the line that explains it, and how it ends."""

    begin: Callable[[FakeOllama], None]
    words: str
    """A regular expression."""
    end: Callable[[FakeOllama], None]


def go_missing(server: FakeOllama) -> None:
    server.loaded.clear()
    server.models = ()


def come_back(server: FakeOllama) -> None:
    server.models = (LARGER,)


def take_memory(server: FakeOllama) -> None:
    server.loaded.clear()
    server.memory_bytes = 2 * 1024**3


def give_memory(server: FakeOllama) -> None:
    server.memory_bytes = None


def crash(server: FakeOllama) -> None:
    server.loaded.clear()
    server.talking.crashes_on_load = True


def mend(server: FakeOllama) -> None:
    server.talking.crashes_on_load = False


def become_a_router(server: FakeOllama) -> None:
    server.answers["/api/chat"] = HTML


def become_ollama(server: FakeOllama) -> None:
    del server.answers["/api/chat"]


TROUBLES = {
    "missing": Trouble(go_missing, r"aider-guard: .*small.*\n?.*ollama pull small", come_back),
    "memory": Trouble(take_memory, r"aider-guard: .*memory(.|\n)*--num-ctx \d+", give_memory),
    "crashed": Trouble(crash, r"aider-guard: .*(crashed|ended|stopped)", mend),
    "HTML": Trouble(become_a_router, r"aider-guard: .*", become_ollama),
}


def said_to(server: FakeOllama) -> list[str]:
    """The messages of each request that was answered."""
    return [str(body["messages"]) for body in server.chats]


@pytest.mark.parametrize("version", ["0.9.3", "0.24.0", "0.30.11"])
def test_words_at_once_and_the_next_try_works(desk: Desk, version: str) -> None:
    """The model's place says what is wrong; the user's message is sent whole with the next one. One after the other."""
    server = ChattingOllama(version=version, models=(LARGER,))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        for number, (name, trouble) in enumerate(TROUBLES.items()):
            trouble.begin(server)
            person.say(f"What is {name}?")
            person.wait_for(rf"What is {name}\?(.|\n)*{trouble.words}", WITHIN_SECONDS)
            person.wait_for_prompt(2 * number + 2, WITHIN_SECONDS)
            assert "Retrying in" not in person.text()
            trouble.end(server)
            since = len(person.shown)
            person.ask(f"Once more about {name}, please.")
            assert person.wrote(SAYS, since)
            # The head of the prompt may be evaluated ahead once the model is back: that is not the message.
            (said,) = (text for text in said_to(server) if f"Once more about {name}" in text)
            assert f"What is {name}?" in said
            assert "aider-guard" not in said
            server.chats.clear()
        person.type(b"/exit\r")
        assert person.end() == 0


def test_ollama_is_down_and_started_again(desk: Desk) -> None:
    """Its address and what starts it; on the same port the next try finds it."""
    with ChattingOllama(models=(COUNTABLE,)) as first:
        person = desk.session(first.url)
        with person:
            person.wait_for_prompt()
            port = first.port
            first.stop()
            person.say("What is a basket?")
            person.wait_for(rf"aider-guard: .*127\.0\.0\.1:{port}", WITHIN_SECONDS)
            assert "ollama serve" in person.text()
            person.wait_for_prompt(2, WITHIN_SECONDS)
            with ChattingOllama(models=(COUNTABLE,), port=port) as second:
                person.ask("Once more, please.")
                assert person.wrote(SAYS)
                assert "What is a basket?" in str(second.chats[-1]["messages"])
                person.type(b"/exit\r")
                assert person.end() == 0


@pytest.mark.parametrize("answer", [busy(), loading()], ids=["busy", "loading"])
def test_busy_and_loading_are_waited_for(desk: Desk, answer: Raw) -> None:
    """Visibly while it lasts, without a word of failure, and without Aider's own retries."""
    server = ChattingOllama(models=(COUNTABLE,))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        server.script["/api/chat"] = [answer, answer]
        person.say("What is a basket?")
        person.wait_for(r"aider-guard: waiting: .*(busy|[Ll]oading)", WITHIN_SECONDS)
        person.wait_for_prompt(2)
        assert person.wrote(SAYS)
        assert "Retrying in" not in person.text()
        assert len(server.chats) == 3
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.parametrize("kind", ["error", "crash", "cut"])
def test_an_answer_that_breaks_off_is_asked_for_again(desk: Desk, kind: str) -> None:
    """Aider's own retry gets it; if that breaks in the same way, words say so."""
    server = ChattingOllama(models=(COUNTABLE,))
    how = Break(kind, 1)  # type: ignore[arg-type]  # the parameters are its kinds
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        server.talking.breaks = [how]
        person.ask("What is a basket?")
        assert person.wrote(SAYS)
        assert len(server.chats) == 2
        server.talking.breaks = [how, how, how, how]
        person.ask("And a box?")
        person.wait_for(r"aider-guard: ", WITHIN_SECONDS)
        server.talking.breaks = []
        person.ask("Once more, please.")
        assert "And a box?" in str(server.chats[-1]["messages"])
        person.type(b"/exit\r")
        assert person.end() == 0


def test_no_prompt_is_in_any_file(desk: Desk, tmp_path: Path) -> None:
    """Neither in the journal nor anywhere in the state folder, whatever goes wrong; Aider's own histories have it."""
    server = ChattingOllama(models=(COUNTABLE,))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        server.script["/api/chat"] = [HTML, None, None]
        server.talking.breaks = [Break("cut", 1)]
        for line in ("the-first-secret", "the-second-secret"):
            person.ask(line)
        files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        assert files
        holding = [path for path in files if b"-secret" in path.read_bytes()]
        histories = {"input", "chat.md"}
        assert {path.name for path in holding} <= histories, holding
        person.type(b"/exit\r")
        assert person.end() == 0
