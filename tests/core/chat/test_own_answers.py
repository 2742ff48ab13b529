"""What of a chat goes with the door's own answers."""

from __future__ import annotations

import pytest

from aider_guard.core.chat.request import PREFIX, is_own, unanswered_places, visible_places

Message = tuple[str, str]
ANSWER: Message = ("assistant", f"{PREFIX}not sent")
EDITED: list[Message] = [("user", "I made those changes to the files."), ("assistant", "Ok.")]
SYSTEM: Message = ("system", "s")


def user(text: str) -> Message:
    return ("user", text)


def model(text: str) -> Message:
    return ("assistant", text)


@pytest.mark.parametrize(
    ("messages", "left"),
    [
        ([], ()),
        ([SYSTEM, user("a"), model("b")], (0, 1, 2)),
        ([SYSTEM, user("a"), ANSWER], (0, 1)),
        ([SYSTEM, user("a"), ANSWER, user("b")], (0, 1, 3)),
        ([SYSTEM, user("a"), ANSWER, user("a")], (0, 3)),
        ([SYSTEM, user("a"), ANSWER, user("a\n\nreminder")], (0, 3)),
        ([SYSTEM, user("a"), ANSWER, user("a\nmore")], (0, 1, 3)),
        ([SYSTEM, user("a"), ANSWER, user("b a")], (0, 1, 3)),
        ([user("a"), ANSWER, user("a")], (2,)),
        ([SYSTEM, user("a"), ANSWER, user("a"), ANSWER, user("a")], (0, 5)),
        ([user(" "), ANSWER, user(" ")], (0, 2)),
        ([model("a"), ANSWER, user("a")], (0, 2)),
        ([user("a"), ANSWER, model("a")], (0, 2)),
        ([ANSWER], ()),
        ([ANSWER, user("not so")], (1,)),
        ([user("a"), ("user", ANSWER[1]), user("b")], (0, 1, 2)),
        ([user("a"), ANSWER, *EDITED], (0,)),
        ([user("a"), ANSWER, *EDITED, user("a")], (4,)),
        ([user("a"), ANSWER, *EDITED, user("b")], (0, 4)),
        ([user("a"), ANSWER, EDITED[0], model("No.")], (0, 2, 3)),
        ([user("a"), ANSWER, user("b"), EDITED[1]], (0, 2, 3)),
        ([user("a"), model("b"), *EDITED], (0, 1, 2, 3)),
    ],
)
def test_what_the_model_is_to_see(messages: list[Message], left: tuple[int, ...]) -> None:
    """No answer of the door's; of a message that was sent again, the newest; no word on edits that were not made."""
    assert visible_places(messages) == left


@pytest.mark.parametrize(
    ("messages", "places"),
    [
        ([], ()),
        ([user("a"), ANSWER], (0,)),
        ([SYSTEM, user("a"), ANSWER, user("b"), ANSWER], (1, 3)),
        ([SYSTEM, user("a"), ANSWER, user("b"), model("c")], (1,)),
        ([SYSTEM, user("a"), ANSWER, user("a"), ANSWER], (3,)),
        ([SYSTEM, ANSWER], ()),
        ([user(" "), ANSWER], ()),
        ([user("a"), model("b")], ()),
        ([user("a"), ("user", ANSWER[1])], ()),
    ],
)
def test_the_messages_that_no_model_has_seen(
    messages: list[Message], places: tuple[int, ...]
) -> None:
    """The user's own, oldest first, each once."""
    assert unanswered_places(messages) == places


def test_the_oldest_unanswered_are_left_out_first() -> None:
    messages = [SYSTEM, user("a"), ANSWER, user("b"), ANSWER, user("c")]
    assert [visible_places(messages, count) for count in range(4)] == [
        (0, 1, 3, 5),
        (0, 3, 5),
        (0, 5),
        (0, 5),
    ]


def test_an_own_answer_is_known_by_its_beginning() -> None:
    assert is_own(f"\n {PREFIX}x")
    assert not is_own(f"x {PREFIX}")
