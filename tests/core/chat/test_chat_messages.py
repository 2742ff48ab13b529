"""The notices on requests, word for word."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from core.histories_of_events import UNKNOWN, finished
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.actions import Notice
from aider_guard.core.chat import messages as chat_messages
from aider_guard.core.chat.events import BrokeOff, Reason, ReloadSeen, RequestRefused
from aider_guard.core.chat.types import Purpose, RoleName, Stage, Verdict
from aider_guard.core.drop_advice import Advice

DROP = Advice("/drop a.py", ("a.py",), 5_000, 26.4)
HELP = "/drop a.py   (frees about 5,000 tokens, then 26 %)"
LOOK = "/tokens   (shows what takes the room; /drop and /clear make some)"


def seen(
    stage: Stage = "tokens",
    cut: Any = 1_230,
    evidence: str = "why",
    advice: Advice | None = DROP,
    **more: Any,
) -> tuple[str, ...]:
    event = finished(8_192, verdict=Verdict("cut", evidence, stage, cut), **more)
    return chat_messages.truncation_seen(event, advice).lines


def unknown(advice: Advice | None = DROP, **more: Any) -> tuple[str, ...]:
    event = finished(**{"prompt": 8_000, "verdict": Verdict("unknown", "why"), **more})
    return chat_messages.truncation_unknown(event, advice).lines


def refused(
    purpose: Purpose, reason: Reason, over: int = 0, said: tuple[str, ...] = ()
) -> tuple[str, ...]:
    event = RequestRefused(1, "weak", purpose, "m", reason, 9_000, over, 8_192, said)
    return chat_messages.request_refused(event).lines


LINES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (
        seen(counted_exactly=True, evidence="9,422 counted before, 8,192 evaluated"),
        (
            ("1,230 tokens of the prompt never reached the model: the text was cut"
            " (9,422 counted before, 8,192 evaluated)"),
            HELP,
        ),
    ),
    (
        seen("messages", evidence=""),
        ("about 1,230 tokens of the prompt never reached the model: whole messages were left out", HELP),
    ),
    (
        seen("generation", role="editor"),
        (
            ("about 1,230 tokens of the editor's prompt were pushed out of the window while the answer was written"
            " (why)"),
            HELP,
        ),
    ),
    (
        seen("generation", UNKNOWN),
        ("a part of the prompt was pushed out of the window while the answer was written (why)", HELP),
    ),
    (seen("", 1, evidence=""), ("about 1 tokens of the prompt never reached the model", HELP)),
    (seen("", 0), ("a part of the prompt never reached the model (why)", HELP)),
    (seen("", advice=None, parts=()), ("about 1,230 tokens of the prompt never reached the model (why)", LOOK)),
    (
        seen("", advice=None),
        (
            "about 1,230 tokens of the prompt never reached the model (why)",
            "nothing in the chat can be dropped; only a larger window holds more",
        ),
    ),
    (
        seen("tokens", advice=None, purpose="commit", role="weak"),
        (
            ("about 1,230 tokens of the changes to be described in a commit message never reached the model:"
            " the text was cut (why)"),
            "read the message before you push it; smaller commits fit",
        ),
    ),
    (
        seen("tokens", advice=None, purpose="summary", role="weak"),
        (
            "about 1,230 tokens of the conversation to be summarised never reached the model: the text was cut (why)",
            "/clear   (forgets the conversation)",
        ),
    ),
    (
        unknown(counted_tokens=9_000),
        (
            ("it is not known whether the model saw all of the prompt: about 9,000 tokens"
            " for a window of 10,000 (why)"),
            HELP,
        ),
    ),
    (
        unknown(None, prompt=UNKNOWN, window_tokens=UNKNOWN),
        ("it is not known whether the model saw all of the prompt: its size is not known (why)", LOOK),
    ),
    (
        chat_messages.reload_seen(ReloadSeen("qwen3:8b", 4.26, "another program used the memory")).lines,
        ("qwen3:8b was loaded again, which took 4.3 s: another program used the memory",),
    ),
    (
        refused("commit", "overflow", 2_500),
        ("the model wrote no commit message: the changes are too large for the window by 2,500 tokens",),
    ),
    (refused("other", "overflow", 1), ("a request was not sent: it is too large for the window by 1 tokens",)),
    (
        refused("summary", "overflow"),
        (
            "the conversation was not summarised, and stays as it is: it is too large for the window",
            "/clear   (forgets the conversation)",
        ),
    ),
    (
        refused("summary", "down", said=("aider-guard: Ollama does not answer", "ollama serve", "more")),
        (
            "the conversation was not summarised, and stays as it is: Ollama does not answer",
            "ollama serve",
        ),
    ),
    (refused("commit", "memory"), ("the model wrote no commit message: memory does not suffice",)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "lines"), LINES)
def test_the_words(said: tuple[str, ...], lines: tuple[str, ...]) -> None:
    """Each notice has exactly these words."""
    assert said == lines


@given(
    st.sampled_from(get_args(RoleName)),
    st.sampled_from(get_args(Purpose)),
    st.sampled_from(get_args(Stage)),
    st.sampled_from([UNKNOWN, 0, 9]),
    st.sampled_from([None, DROP]),
)
def test_whatever_was_cut_is_told_in_two_lines(
    role: RoleName, purpose: Purpose, stage: Stage, cut: Any, advice: Advice | None
) -> None:
    """The first line says what is lost and the second what helps; no line is empty or unreadable."""
    for verdict, say in (
        (Verdict("cut", "", stage, cut), chat_messages.truncation_seen),
        (Verdict("unknown", ""), chat_messages.truncation_unknown),
    ):
        notice = say(finished(UNKNOWN, role=role, purpose=purpose, verdict=verdict), advice)
        assert_readable(notice, 2)


@pytest.mark.parametrize(
    ("messages", "lines"),
    [
        (
            1,
            (
                "the message that was not sent before is still too large for the window of 10,000, and left out",
                "it goes with a later message once /drop FILE has made room",
            ),
        ),
        (
            2,
            (
                "the 2 messages that were not sent before are still too large for the window of 10,000, and left out",
                "they go with a later message once /drop FILE has made room",
            ),
        ),
    ],
)
def test_what_was_left_out_is_said(messages: int, lines: tuple[str, str]) -> None:
    """The notice also says when the model will see the message."""
    notice = chat_messages.message_left_out(finished(500, left_out=messages))
    assert notice.lines == lines
    assert_readable(notice, 2)


def test_what_broke_off_is_said_with_what_helps() -> None:
    """In all, also where it was a commit message or a summary."""
    notice = chat_messages.answer_broke_off(finished(UNKNOWN, broke_off="no_end"))
    assert notice.lines == (
        "the answer broke off, and Aider takes it as whole: the server ended it without saying that it is complete",
        "/diff   (shows what it changed all the same; then send your message again)",
    )
    for purpose in get_args(Purpose):
        for how in set(get_args(BrokeOff)) - {""}:
            event = finished(UNKNOWN, purpose=purpose, broke_off=how)
            assert_readable(chat_messages.answer_broke_off(event), 2)


@pytest.mark.parametrize("reason", get_args(Reason))
@pytest.mark.parametrize("purpose", get_args(Purpose))
def test_whatever_was_refused_has_a_reason_in_words(purpose: Purpose, reason: Reason) -> None:
    """Any purpose and reason has words, also without lines of the door."""
    event = RequestRefused(1, "main", purpose, "m", reason)
    assert_readable(chat_messages.request_refused(event), 2)


def assert_readable(notice: Notice, at_most: int) -> None:
    assert 1 <= len(notice.lines) <= at_most
    for line in notice.lines:
        assert line == line.strip() != ""
        assert "Unavailable" not in line
