"""Turns, counted by the policy from what Aider writes beside the screen and what the door reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aider_guard.core.actions import Announce
from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chat.types import Verdict
from aider_guard.core.chatlog import files_mentioned
from aider_guard.core.events import (
    AiderLogged,
    Event,
    PromptClosed,
    PromptShown,
    SidecarLost,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.policy import decide
from aider_guard.core.readings import Unavailable
from aider_guard.core.rules.turns import has_begun
from aider_guard.core.state import Phase, State
from aider_guard.session.side_channels import SideChannels

NOT_REPORTED = Unavailable("Aider did not report it")


class Aider:
    """Writes as Aider does; the policy learns of it as in a session."""

    def __init__(self, folder: Path) -> None:
        self.log, self.chat, self.bell = folder / "log", folder / "chat", folder / "bell"
        self.chat.write_text("#### seeded a.py\n")
        self.channels = SideChannels(self.log, self.chat, self.bell)
        self.state = State(phase=Phase.RUNNING)

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
        """The turn that ends with the main prompt that is shown now."""
        return self.on_event(PromptShown(), *files)

    def begins_turn(self) -> bool:
        """Look for a turn that began, as the session does from time to time."""
        begins = has_begun(self.state, logged_requests=self.channels.requests_started())
        if begins:
            assert self._decide(TurnStarted()) is None
        return begins

    def on_event(self, event: Event, *files: str) -> TurnFinished | None:
        """The turn that ends with this event."""
        finished = self._decide(event)
        if not isinstance(event, PromptShown):
            return finished
        assert finished is None
        sent, text = self.channels.read()
        mentioned = files_mentioned(text, files)
        return self._decide(
            AiderLogged(sent.requests, sent.sent_tokens, sent.received_tokens, mentioned)
        )

    def _decide(self, event: Event) -> TurnFinished | None:
        self.state, actions = decide(self.state, event, 0.0)
        announced = [action.event for action in actions if isinstance(action, Announce)]
        assert len(announced) <= 1
        for turn in announced:
            self.state, _ = decide(self.state, turn, 0.0)
        return announced[0] if announced else None

    def passes(self, *events: Event) -> None:
        """The door reports this; no turn ends by it."""
        assert [self.on_event(event) for event in events] == [None] * len(events)


@pytest.fixture
def aider(tmp_path: Path) -> Aider:
    return Aider(tmp_path)


def test_a_prompt_without_a_message_is_no_turn(aider: Aider) -> None:
    """A command, an empty line, Ctrl-C: Aider is back at its prompt and nothing was sent."""
    aider.says("#### /add b.py  \n> Added b.py to the chat  \n")
    assert not aider.begins_turn()
    assert aider.finished("b.py") is None


def test_a_turn_begins_once_and_ends_at_the_prompt(aider: Aider) -> None:
    """However often it is looked for, and with Aider's estimate of its last request."""
    aider.sends()
    assert [aider.begins_turn(), aider.begins_turn()] == [True, False]
    aider.sends(3000, 40)
    assert not aider.begins_turn()
    assert aider.finished() == TurnFinished(2, 3000, 40, ())
    assert (aider.finished(), aider.begins_turn()) == (None, False)
    aider.sends()
    assert aider.begins_turn()


def test_the_files_that_were_talked_of_are_named(aider: Aider) -> None:
    """Those of the chat that the text since the last prompt mentions; what was written before does not count."""
    aider.sends()
    aider.says("\n#### look at b.py\n\nI would change c.py.\n")
    finished = aider.finished("a.py", "b.py", "lib/c.py", "d.py")
    assert finished is not None
    assert finished.mentioned == ("b.py", "lib/c.py")
    aider.sends()
    again = aider.finished("b.py")
    assert again is not None
    assert again.mentioned == ()


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


# What the door reports


def begins(number: int = 1, purpose: Any = "chat") -> RequestStarted:
    return RequestStarted(number, "main", purpose, "m")


def ends(number: int = 1, purpose: Any = "chat", **more: Any) -> RequestFinished:
    verdict = Verdict("whole", "")
    return RequestFinished(
        number, "main", purpose, "m", more.pop("outcome", "answered"), verdict, **more
    )


def refuses(number: int = 1, purpose: Any = "chat") -> RequestRefused:
    return RequestRefused(number, "main", purpose, "m", "overflow", 9_000, 900, 8_192)


FULL: dict[str, Any] = {
    "prompt_tokens": 4_000,
    "answer_tokens": 50,
    "load_seconds": 0.1,
    "prefill_seconds": 0.2,
    "generation_seconds": 3.0,
}


def test_the_requests_of_a_turn_are_summed(aider: Aider) -> None:
    """An architect, an editor, a commit message; Aider's own estimate stays that of its last request."""
    aider.sends(3_000, 40)
    aider.sends(900, 30)
    aider.passes(begins(1), ends(1, **FULL), begins(2, "edit"), ends(2, "edit", **FULL))
    aider.passes(begins(3, "commit"), ends(3, "commit", prompt_tokens=500, answer_tokens=9))
    sums = (3, 900, 30, (), 8_500, 109, 0.2, 0.4, 6.0)
    assert aider.finished() == TurnFinished(*sums)
    aider.sends()
    assert aider.finished() == TurnFinished(1, 100, 10, ())


def test_what_no_server_tells_is_not_measured(aider: Aider) -> None:
    """A server that tells only the size of prompts gives only those."""
    aider.sends()
    aider.passes(begins(), ends(prompt_tokens=7), begins(2), ends(2, outcome="cancelled"))
    turn = aider.finished()
    assert turn is not None
    assert (turn.requests, turn.prompt_tokens) == (2, 7)
    assert turn.answer_tokens == turn.load_seconds == Unavailable("not measured")


def test_numbers_that_come_after_the_prompt_are_waited_for(aider: Aider) -> None:
    """The turn ends with the last of them."""
    aider.sends()
    aider.passes(begins(1), begins(2), ends(1, **FULL), PromptShown())
    turn = aider.on_event(ends(2, **FULL))
    assert turn is not None
    assert (turn.requests, turn.prompt_tokens) == (2, 8_000)
    assert aider.finished() is None


NO_REPORT: list[tuple[Event, ...]] = [
    (PromptShown(), SidecarLost("it died")),
    (SidecarLost("it died"), PromptShown()),
    (PromptShown(), PromptClosed()),
]


@pytest.mark.parametrize("events", NO_REPORT, ids=lambda e: type(e[-1]).__name__)
def test_numbers_that_never_come_are_not_waited_for(
    aider: Aider, events: tuple[Event, Event]
) -> None:
    """The sidecar died, or the user goes on: the turn counts with the numbers that are known."""
    aider.sends()
    aider.passes(begins(1), ends(1, **FULL), begins(2), events[0])
    turn = aider.on_event(events[1])
    assert turn is not None
    assert (turn.requests, turn.prompt_tokens) == (1, 4_000)
    aider.passes(ends(2))


def test_a_turn_of_another_log_is_known_from_the_door(aider: Aider) -> None:
    """A message that was answered is one, whatever Aider writes down; a commit message or what was given up is none."""
    aider.passes(begins(), ends(**FULL))
    turn = aider.finished()
    assert turn is not None
    assert (turn.requests, turn.sent_tokens) == (1, NOT_REPORTED)
    aider.passes(begins(1, "commit"), ends(1, "commit", **FULL))
    assert aider.finished() is None
    aider.passes(begins(), ends(outcome="cancelled"))
    assert aider.finished() is None
    aider.passes(begins(), PromptShown(), ends(outcome="cancelled"))
    aider.passes(begins(), PromptShown())
    assert aider.on_event(ends()) is not None


def test_a_refused_message_is_no_turn(aider: Aider) -> None:
    """Aider's log says that it was sent and answered, and its bell rang; no model ever saw it."""
    aider.sends()
    aider.rings()
    aider.passes(refuses(), PromptShown())
    aider.sends()
    aider.passes(begins(2), PromptShown(), refuses(2))
    aider.sends()
    aider.passes(begins(3), ends(3, **FULL))
    turn = aider.finished()
    assert turn is not None
    assert turn.requests == 1


def test_what_a_program_inside_is_refused_is_no_message_of_the_user_s(aider: Aider) -> None:
    """It may be all that is reported of a turn whose requests go past the door."""
    aider.sends()
    aider.passes(refuses(0, "other"))
    assert aider.finished() is not None


def test_a_turn_that_was_refused_in_its_middle_is_one(aider: Aider) -> None:
    """The architect was answered, its editor or a commit message was not; a lost request may have been answered."""
    aider.sends()
    aider.passes(begins(), ends(**FULL), refuses(2, "edit"))
    assert aider.finished() is not None
    aider.sends()
    aider.passes(begins(), SidecarLost("it died"), refuses(1))
    assert aider.finished() is not None
    aider.sends()
    aider.passes(refuses(3, "commit"))
    assert aider.finished() is not None


def test_what_was_summed_for_no_turn_is_forgotten(aider: Aider) -> None:
    """A /commit between two messages is neither's."""
    aider.passes(begins(1, "commit"), ends(1, "commit", **FULL), PromptShown())
    aider.sends()
    assert aider.finished() == TurnFinished(1, 100, 10, ())


def test_a_turn_begins_with_its_first_request(aider: Aider) -> None:
    """Whichever of the two tells it first; a commit message begins none."""
    aider.passes(begins(1, "commit"))
    assert not aider.begins_turn()
    aider.passes(begins(2))
    assert [aider.begins_turn(), aider.begins_turn()] == [True, False]
