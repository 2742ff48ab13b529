"""The door's own answers, and what of a later prompt goes with them: the model never sees any of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PREFIX: Final = "aider-guard: "
"""Every answer of the door's own begins so."""

_SAID_AFTER_EDITING: Final = ("I made those changes to the files.", "Ok.")
"""What Aider's architect mode adds to the chat after its editor ran, also when that had nothing to do."""


def is_own(text: str) -> bool:
    """Whether a text is an answer of the door's own."""
    return text.lstrip().startswith(PREFIX)


def kept(messages: Sequence[tuple[str, str]], leave_out: int = 0) -> tuple[int, ...]:
    """Which of these messages (role and content) the model is to see, by their places.

    Not the door's answers; not the message that was answered so when the user sent it once more (it would be in the
    prompt twice, and may be the very thing that was too large); not what Aider says of edits that were not made; and
    not the oldest ``leave_out`` of those that are ``unanswered``.
    """
    left_out = unanswered(messages)[:leave_out]
    return tuple(place for place in _kept(messages) if place not in left_out)


def unanswered(messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """The places of the user's messages that no model has seen: the door answered each itself. Oldest first."""
    places = range(len(messages) - 1)
    answered = (place for place in places if _is_answer(messages[place + 1]))
    mine = {
        place for place in answered if messages[place][0] == "user" and messages[place][1].strip()
    }
    return tuple(place for place in _kept(messages) if place in mine)


def _is_answer(message: tuple[str, str]) -> bool:
    return message[0] == "assistant" and is_own(message[1])


def _kept(messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    gone: set[int] = set()
    for place, message in enumerate(messages):
        if not _is_answer(message):
            continue
        gone.add(place)
        after = messages[place + 1 : place + 3]
        if after == [("user", _SAID_AFTER_EDITING[0]), ("assistant", _SAID_AFTER_EDITING[1])]:
            gone |= {place + 1, place + 2}
            after = messages[place + 3 : place + 4]
        if place and after and _sent_again(messages[place - 1], after[0]):
            gone.add(place - 1)
    return tuple(place for place in range(len(messages)) if place not in gone)


def _sent_again(earlier: tuple[str, str], later: tuple[str, str]) -> bool:
    """Aider may add its reminder of the edit format to the newest message, after an empty line."""
    if earlier[0] != "user" or later[0] != "user" or not earlier[1].strip():
        return False
    return later[1] == earlier[1] or later[1].startswith(f"{earlier[1]}\n\n")
