"""Turns, counted from what Aider writes beside the screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aider_guard.core.events import TurnFinished, TurnStarted
from aider_guard.core.readings import Unavailable
from aider_guard.session.turns import Turns

NOT_REPORTED = Unavailable("Aider did not report it")


class Aider:
    """Writes as Aider does."""

    def __init__(self, folder: Path) -> None:
        self.log, self.chat, self.bell = folder / "log", folder / "chat", folder / "bell"
        self.chat.write_text("#### seeded a.py\n")
        self.turns = Turns(self.log, self.chat, self.bell)

    def sends(self, prompt: int = 100, completion: int = 10) -> None:
        self._event("message_send_starting")
        self._event("message_send", prompt_tokens=prompt, completion_tokens=completion)

    def _event(self, name: str, **properties: int) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({"event": name, "properties": properties}) + "\n")

    def says(self, text: str) -> None:
        with self.chat.open("a") as file:
            file.write(text)

    def rings(self) -> None:
        with self.bell.open("a") as file:
            file.write(".\n")

    def finished(self, *files: str) -> TurnFinished | None:
        return self.turns.finished(lambda: files)


@pytest.fixture
def aider(tmp_path: Path) -> Aider:
    return Aider(tmp_path)


def test_a_prompt_without_a_message_is_no_turn(aider: Aider) -> None:
    """A command, an empty line, Ctrl-C: Aider is back at its prompt and nothing was sent."""
    aider.says("#### /add b.py  \n> Added b.py to the chat  \n")
    assert aider.turns.started() is None
    assert aider.finished("b.py") is None


def test_a_turn_begins_once_and_ends_at_the_prompt(aider: Aider) -> None:
    """However often it is looked for, and with Aider's estimate of its last request."""
    aider.sends()
    assert [aider.turns.started(), aider.turns.started()] == [TurnStarted(), None]
    aider.sends(3000, 40)
    assert aider.turns.started() is None
    assert aider.finished() == TurnFinished(2, 3000, 40, ())
    assert (aider.finished(), aider.turns.started()) == (None, None)
    aider.sends()
    assert aider.turns.started() == TurnStarted()


def test_the_files_that_were_talked_of_are_named(aider: Aider) -> None:
    """Those of the chat that the text since the last prompt mentions; what was said before does not count."""
    aider.sends()
    aider.says("\n#### look at b.py\n\nI would change c.py.\n")
    finished = aider.finished("a.py", "b.py", "lib/c.py", "d.py")
    assert finished is not None
    assert finished.mentioned == ("b.py", "lib/c.py")
    assert "look at b.py" in aider.turns.said
    aider.finished("b.py")
    assert aider.turns.said == ""


def test_the_bell_tells_of_a_turn_that_is_not_in_the_log(aider: Aider) -> None:
    """Another version of Aider may log other names; its notification command runs after an answer all the same."""
    aider.rings()
    assert aider.finished() == TurnFinished(1, NOT_REPORTED, NOT_REPORTED, ())
    assert aider.finished() is None


def test_a_message_that_failed_is_a_turn(aider: Aider) -> None:
    """It went out; what it took is not known."""
    aider._event("message_send_starting")
    assert aider.finished() == TurnFinished(1, NOT_REPORTED, NOT_REPORTED, ())


def test_a_chat_in_other_bytes_is_read(aider: Aider) -> None:
    """The history may be in another encoding, and hold anything."""
    aider.sends()
    with aider.chat.open("ab") as file:
        file.write(b"\xff\xfe b.py \x00\n")
    finished = aider.finished("b.py")
    assert finished is not None
    assert finished.mentioned == ("b.py",)
