"""Texts of prompts and answers are shown nowhere: not in a value's own words, and not in the journal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from core.chat.aider_prompts import OLLAMA, settings
from core.histories_of_events import finished

from aider_guard.core.actions import ServeDoor
from aider_guard.core.chat.body import PromptHead
from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.events import RequestRefused
from aider_guard.core.chat.replies import WireReply
from aider_guard.core.chat.request import Block, ChatRequest, Message
from aider_guard.core.chat.response import Usage
from aider_guard.core.chat.size import Part
from aider_guard.core.readings import ContextRow
from aider_guard.journal import FileJournal

SECRET = "the key is 1234"


@pytest.mark.parametrize(
    "value",
    [
        Message("user", SECRET),
        ChatRequest("chat", "m", (Message("user", SECRET),), stream=True),
        ChatRequest("generate", "m", (), stream=True, raw_prompt=SECRET, body={"prompt": SECRET}),
        Block("user", f"### User:\n{SECRET}", SECRET),
        PromptHead("/api/generate", {"system": SECRET}, (), SECRET),
        PromptHead("/api/chat", {}, ({"role": "user", "content": SECRET},), ""),
        Part("history", SECRET),
        Usage(error=SECRET),
        Failure("refused", SECRET),
        WireReply(SECRET.encode()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_text_is_in_a_values_own_words(value: object) -> None:
    """An error's traceback, or a log, shows values in their own words."""
    assert SECRET not in repr(value)


@pytest.mark.parametrize(
    "happened",
    [
        finished(500, parts=(ContextRow("file", SECRET, 5),)),
        RequestRefused(1, "main", "chat", "m", "overflow", said=(SECRET,)),
        ServeDoor(replace(settings(), token=SECRET)),
        ServeDoor(replace(settings(), upstreams=(replace(OLLAMA, base=f"http://{SECRET}@host"),))),
    ],
    ids=["parts", "answer", "token", "address"],
)
def test_no_name_and_no_password_is_in_the_journal(happened: object) -> None:
    """The journal is for others to read, so names of files, answers and what opens the door are left out."""
    assert SECRET not in journaled(happened)


def test_what_a_prompt_is_made_of_is_not_in_the_journal() -> None:
    """Only its size is: the sizes of the files in it tell which files they are."""
    line = journaled(finished(500, parts=(ContextRow("file", "a.py", 4321),)))
    assert '"prompt_tokens": 500' in line
    assert "4321" not in line


def journaled(happened: object) -> str:
    """The line of the journal for this."""
    file = io.StringIO()
    FileJournal(file, clock=lambda: 0.0, on_failure=pytest.fail).write(happened)
    assert '"event": "' in file.getvalue()
    return file.getvalue()
