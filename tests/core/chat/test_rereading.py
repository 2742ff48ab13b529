"""Where two prompts part, and why a model read again what it had read before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from core.chat.aider_prompts import (
    ASK,
    CHAT_FILES,
    DIFF,
    MAP,
    REMINDER,
    body,
    listing,
    message,
    request_of,
)

from aider_guard.core.chat.events import PartedAt, PromptReread, RereadCause
from aider_guard.core.chat.rereading import (
    ReadEvidence,
    common_length,
    parting,
    prompt_reread,
    why_read,
)
from aider_guard.core.chat.size import Part, parts
from aider_guard.core.readings import Unavailable

OK = message("assistant", "Ok.")
FILES = {"a.py": "x = 1\n", "b.py": "y = 2\n"}


def prompt(
    said: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
    now: tuple[str, ...] = ("fix it",),
    repo_map: str = "",
    system: str = DIFF,
) -> tuple[Part, ...]:
    """A prompt as Aider orders it: map, conversation, files, the newest messages with the reminder."""
    messages = [message("system", system)]
    if repo_map:
        messages += [message("user", MAP + repo_map), OK]
    for at, text in enumerate(said):
        messages.append(message("assistant" if at % 2 else "user", text))
    messages += [message("user", listing(CHAT_FILES, FILES if files is None else files)), OK]
    for at, text in enumerate(now):
        is_last = at == len(now) - 1
        content = f"{text}\n\n{REMINDER}" if is_last else text
        messages.append(message("assistant" if at % 2 else "user", content))
    return parts(request_of("chat", body("chat", messages)))


FIRST = prompt(repo_map="a.py:\n", said=("hello", "hi"))
CHANGES: list[tuple[PartedAt, dict[str, Any]]] = [
    ("message", {"now": ("fix it", "done", "and that")}),
    ("message", {"now": ("do something else",)}),
    ("map", {"repo_map": "a.py:\nc.py:\n"}),
    ("map", {"repo_map": ""}),
    ("history_grew", {"said": ("hello", "hi", "fix it", "done")}),
    ("history_changed", {"said": ("I spoke to you previously",)}),
    ("history_changed", {"said": ()}),
    ("file_edited", {"files": FILES | {"a.py": "x = 3\n"}}),
    ("files_changed", {"files": {"b.py": "y = 2\n"}}),
    ("files_changed", {"files": FILES | {"c.py": "z = 3\n"}}),
    ("instructions", {"system": ASK}),
]


@pytest.mark.parametrize(("at", "change"), CHANGES)
def test_where_a_prompt_parts_from_the_one_before(at: PartedAt, change: dict[str, Any]) -> None:
    """Everything before that place is equal, and the character there is not."""
    usual: dict[str, Any] = {"repo_map": "a.py:\n", "said": ("hello", "hi")}
    now = prompt(**usual | change)
    parted = parting(FIRST, now)
    before, after = ("".join(part.text for part in each) for each in (FIRST, now))
    assert parted.at == at
    assert before[: parted.characters] == after[: parted.characters]
    ends = parted.characters in (len(before), len(after))
    assert ends or before[parted.characters] != after[parted.characters]
    assert parted.all_characters == len(after)


def test_the_same_prompt_again_parts_nowhere() -> None:
    """Its message is the last of it."""
    parted = parting(FIRST, FIRST)
    assert (parted.at, parted.tokens(100)) == ("message", 100)


def test_the_place_in_tokens_is_estimated_by_the_share_of_the_text() -> None:
    before, now = (Part("system", "abcd"),), (Part("system", "abxx"), Part("history", "1234"))
    assert parting(before, now).tokens(400) == 100


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("", "abc", 0), ("abc", "abc", 3), ("abcx", "abcy", 3), ([1, 2, 3], [1, 2], 2), ("x", "y", 0)],
)
def test_how_long_two_begin_alike(one: Any, other: Any, length: int) -> None:
    assert common_length(one, other) == length


MUCH = ReadEvidence(6_000, 2_000, 2_000, "history_grew", message_tokens=50, prefill_seconds=20.0)
VERDICTS: list[tuple[RereadCause | None, dict[str, Any]]] = [
    ("history_grew", {}),
    ("map", {"parted_at": "map"}),
    (None, {"parted_at": "message"}),
    (None, {"prefill_seconds": 4.9}),
    (None, {"prefill_seconds": Unavailable("not told")}),
    (None, {"cached_tokens": 5_200}),
    (None, {"message_tokens": 3_500}),
    (None, {"was_loaded": True}),
    ("history_grew", {"cached_tokens": 1_800}),
    ("other_program", {"common_tokens": 5_900, "parted_at": "message"}),
    ("no_checkpoint", {"common_tokens": 5_900, "parted_at": "message", "goes_back": False}),
    ("own_request", {"common_tokens": 5_900, "parted_at": "message", "between": "commit"}),
    (None, {"common_tokens": 5_900, "parted_at": "message", "between": "other"}),
    ("map", {"common_tokens": 2_400, "parted_at": "map", "goes_back": False}),
]


@pytest.mark.parametrize(("cause", "more"), VERDICTS)
def test_why_much_was_read_again(cause: RereadCause | None, more: dict[str, Any]) -> None:
    """What was lost of the common beginning counts where it is most of what was read, else what differs."""
    assert why_read(replace(MUCH, **more)) == cause


def test_a_notice_says_how_much_why_from_where_and_what_helps() -> None:
    event = PromptReread(3, "qwen3:8b", "history_grew", 6_000, 4_000, 2_000, True, 20.4)
    assert prompt_reread(event).lines == (
        (
            "qwen3:8b read 4,000 of 6,000 tokens in 20 s: the conversation grew, which stands before the files"
            " (from token 2,001 on)"
        ),
        "/read-only FILE   (for files that are not to be edited: they stand before it)",
    )


@pytest.mark.parametrize(
    "cause", [*get_args(PartedAt), "no_checkpoint", "own_request", "other_program"]
)
def test_every_cause_has_words(cause: RereadCause) -> None:
    lines = prompt_reread(PromptReread(3, "m", cause, 6_000, 4_000, 2_000, False)).lines
    assert all(lines)
    assert (len(lines) == 2) == (cause not in ("message", "instructions", "map"))
    assert ("about token" in lines[0]) == (cause in get_args(PartedAt))
