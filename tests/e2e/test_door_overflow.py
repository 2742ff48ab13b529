"""A prompt that does not fit, in real Aider sessions: it is not sent, with advice, or sent, and the cut is reported."""

from __future__ import annotations

import pytest
from e2e.conftest import PRIVATE
from e2e.desk import COUNTABLE, Desk, insist, refusal
from fakes.ollama_chat import Talking
from fakes.ollama_server import FakeOllama

from aider_guard.demo.ollama_server import PrivateOllama

VERSIONS = ("0.12.6", "0.24.0", "0.30.0", "0.30.11", "0.33.0")
QUESTION = "What does the first function return?"
WINDOW_TOKENS = 4096
SAYS = "It is well."


def fake(version: str) -> FakeOllama:
    """A server of this version with a model that can be counted exactly."""
    return FakeOllama(version=version, models=(COUNTABLE,), talking=Talking(says=SAYS))


@pytest.mark.parametrize("version", VERSIONS)
def test_refused_and_the_suggested_drop(desk: Desk, version: str) -> None:
    """Two lines say by how much and which /drop; nothing was sent; after the /drop the same question is answered."""
    large, small = desk.file("large one.py", 150), desk.file("small.py", 2)
    with fake(version) as server, desk.session(server.url, large, small) as person:
        person.wait_for_prompt()
        insist(person, QUESTION)
        over, command = refusal(person)
        assert over > 0
        assert command == f'/drop "{large}"'
        assert not server.chats
        person.ask(command)
        person.ask(QUESTION)
        assert person.wrote(SAYS)
        (body,) = server.chats
        assert "aider-guard" not in str(body["messages"])
        assert sum(QUESTION in message["content"] for message in body["messages"]) == 1
        person.type(b"/exit\r")
        assert person.end() == 0


def test_a_shorter_message(desk: Desk) -> None:
    """The advice works as it is given, and the history stays; what was refused goes along once it fits."""
    small = desk.file("small.py", 2)
    with fake("0.24.0") as server, desk.session(server.url, small) as person:
        person.wait_for_prompt()
        person.ask("Remember the lemon.")
        insist(person, f"What does this log say? {'lemon tree ' * 1200}")
        assert "a shorter message fits" in person.text()
        assert len(server.chats) == 1
        insist(person, QUESTION)
        person.wait_for("the message that was not sent before is still too large for the window")
        texts = [message["content"] for message in server.chats[-1]["messages"]]
        assert len(server.chats) == 2
        assert any("Remember the lemon." in text for text in texts)
        assert not any("this log" in text or "aider-guard" in text for text in texts)
        assert texts[-1].startswith(QUESTION)
        person.type(b"/exit\r")
        assert person.end() == 0


def test_go_on_after_the_drop(desk: Desk) -> None:
    """The refused message goes with the next message."""
    large = desk.file("large.py", 150)
    with fake("0.24.0") as server, desk.session(server.url, large) as person:
        person.wait_for_prompt()
        insist(person, QUESTION)
        person.wait_for("not sent: exactly")
        person.ask(f"/drop {large}")
        person.ask("Go on.")
        (body,) = server.chats
        texts = [message["content"] for message in body["messages"]]
        assert texts[-2] == QUESTION
        assert texts[-1].startswith("Go on.")
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.parametrize("name", ["pack/__init__.py", "_a_*b*.py", "<b>.py"])
def test_a_name_that_is_not_markdown(desk: Desk, name: str) -> None:
    """Aider shows an answer as Markdown; the command on the screen can still be typed as it is."""
    desk.file(name, 150)
    with fake("0.24.0") as server, desk.session(server.url, name) as person:
        person.wait_for_prompt()
        insist(person, QUESTION)
        assert refusal(person)[1] == f"/drop {name}"
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_sent_and_the_cut_told_in_the_same_turn(desk: Desk, version: str) -> None:
    """With ``warn`` the model gets what the server leaves of it, and the next prompt comes with how much it lost.

    0.30.0 does not count what it had in its cache, so the number is not known.
    """
    large = desk.file("large.py", 150)
    warn = ("--on-overflow", "warn")
    with fake(version) as server, desk.session(server.url, large, options=warn) as person:
        person.wait_for_prompt()
        insist(person, QUESTION)
        much = "a part" if version == "0.30.0" else r"(about )?[\d,]+ tokens"
        screen = person.wait_for(rf"aider-guard: {much} of the prompt never reached the model")
        assert "/drop large.py" in screen
        assert len(server.chats) == 1
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.slow
@pytest.mark.servers(PRIVATE)
def test_refused_on_a_real_ollama(desk: Desk, ollama: PrivateOllama, terse: str) -> None:
    """The same on the small model: its count is exact, and its server is asked nothing but to load."""
    large, small = desk.file("large one.py", 90), desk.file("small.py", 2)
    model = f"ollama_chat/{terse}"
    with desk.session(ollama.url, large, small, model=model, window_tokens=1024) as person:
        person.wait_for_prompt()
        place = ollama.log_path.stat().st_size
        insist(person, QUESTION)
        over, command = refusal(person)
        assert command == f'/drop "{large}"'
        assert over > 90 * 10
        assert "/api/chat" not in ollama.log_path.read_text()[place:]
        person.ask(command)
        person.ask(QUESTION)
        answered = person.wait_for_event("request_finished")
        assert answered["verdict"]["outcome"] == "whole"
        assert answered["prompt_tokens"] == answered["counted_tokens"]
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.slow
@pytest.mark.servers(PRIVATE)
def test_cut_by_a_real_ollama(desk: Desk, ollama: PrivateOllama, terse: str) -> None:
    """With ``warn`` the cut is reported in the same turn, with the number of tokens that its log names."""
    large = desk.file("large.py", 90)
    model, warn = f"ollama_chat/{terse}", ("--on-overflow", "warn")
    arguments = (ollama.url, large)
    with desk.session(*arguments, model=model, window_tokens=1024, options=warn) as person:
        person.wait_for_prompt()
        insist(person, QUESTION)
        person.wait_for(r"aider-guard: [\d,]+ tokens of the prompt never reached")
        assert person.wait_for_event("request_finished")["verdict"]["outcome"] == "cut"
        person.type(b"/exit\r")
        assert person.end() == 0
