"""Files that Aider cannot read: its ``/tokens`` takes them out of the chat, and so must not do it unseen."""

from __future__ import annotations

import pytest
from e2e.desk import COUNTABLE, Desk
from fakes.ollama_server import FakeOllama

pytestmark = pytest.mark.e2e


def test_a_file_that_is_away_for_a_moment_stays_in_the_chat(desk: Desk) -> None:
    """No ``/tokens`` is run while one of the chat's files is not there, as during a ``git stash``."""
    one, two = desk.file("one.py", 2), desk.file("two.py", 2)
    with FakeOllama(models=(COUNTABLE,)) as ollama, desk.session(ollama.url) as person:
        person.wait_for_prompt()
        person.ask_and_probe(f"/add {one}")
        (desk.repo / one).rename(desk.repo / "away")
        person.ask(f"/add {two}")
        assert person.wait_for_event("command_not_typed")["command"] == "tokens"
        (desk.repo / "away").rename(desk.repo / one)
        person.ask_and_probe("/read-only README.md")
        person.ask("/ls")
        person.wait_for(r"Files in chat:\s+one\.py\s+two\.py")
        person.type(b"/exit\r")
        assert person.end() == 0


def test_what_aider_cannot_read_is_named_when_it_is_dropped(desk: Desk) -> None:
    """A file that is not UTF-8 was in the chat until the first ``/tokens``."""
    name = desk.file("latin.py", 1)
    (desk.repo / name).write_bytes("# Grüße\n".encode("latin-1"))
    with FakeOllama(models=(COUNTABLE,)) as ollama, desk.session(ollama.url, name) as person:
        person.wait_for("aider-guard: Aider could not read latin.py, and took it out of the chat")
        person.type(b"/exit\r")
        assert person.end() == 0
