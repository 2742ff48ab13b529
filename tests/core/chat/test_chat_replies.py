"""The door's own answers, in each protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, chat, message, request_of

from aider_guard.core.chat.replies import Timestamp, WireReply, answer, waiting
from aider_guard.core.chat.request import ChatRequest, Form

AT = Timestamp("2026-01-02T03:04:05Z", 1767323045)
LINES = ("not sent: too large", "/drop pkg/__init__.py   (frees 7 tokens)")
TEXT = "aider-guard: not sent: too large  \n`/drop pkg/__init__.py`   (frees 7 tokens)"
"""As Markdown, in which a name loses its underscores unless it is code, and a line its end unless two blanks say so."""
PLAIN = "aider-guard: not sent: too large\n/drop pkg/__init__.py   (frees 7 tokens)"
FORMS: tuple[Form, ...] = ("chat", "generate", "openai_chat", "openai_text")


def request_in(
    form: Form, *, stream: bool, system: str = prompts.DIFF, user: str = "x"
) -> ChatRequest:
    if form == "openai_text":
        raw = {"model": "a", "prompt": "x", "stream": stream}
        return request_of(form, json.dumps(raw).encode())
    messages = [message("system", system), message("user", user)]
    return request_of(form, body(form, messages, stream=stream))


def pieces(spoken: WireReply) -> list[Any]:
    """The events of a stream; "[DONE]" stays a text."""
    if spoken.content_type == "application/x-ndjson":
        assert spoken.content.endswith(b"\n")
        return [json.loads(line) for line in spoken.content.splitlines()]
    assert spoken.content_type == "text/event-stream"
    events = spoken.content.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in events]


def text_of(form: Form, piece: Any, key: str = "content") -> str:
    match form:
        case "chat":
            return str(piece["message"].get("thinking" if key == "reasoning_content" else key, ""))
        case "generate":
            return str(piece["response"])
        case "openai_chat":
            return str(piece["choices"][0]["delta"].get(key, ""))
        case "openai_text":
            return str(piece["choices"][0]["text"])


@pytest.mark.parametrize("form", FORMS)
def test_a_streamed_answer_is_the_text_and_then_an_end(form: Form) -> None:
    """The text has a line of its own, as older litellm loses text in the last line."""
    found = pieces(answer(request_in(form, stream=True), LINES, AT))
    if form in ("openai_chat", "openai_text"):
        assert found.pop() == "[DONE]"
        assert [piece["choices"][0]["finish_reason"] for piece in found] == [None, "stop"]
    else:
        assert [piece["done"] for piece in found] == [False, True]
        assert found[-1]["done_reason"] == "stop"
        assert {piece["created_at"] for piece in found} == {AT.iso}
    assert [text_of(form, piece) for piece in found] == [TEXT, ""]


OLLAMA = {"model": "qwen3:8b", "created_at": AT.iso}
OPENAI = {"id": "aider-guard", "created": AT.unix_seconds}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "chat",
            [
                {**OLLAMA, "message": {"role": "assistant", "content": TEXT}, "done": False},
                {
                    **OLLAMA,
                    "message": {"role": "assistant", "content": ""},
                    "done": True,
                    "done_reason": "stop",
                },
            ],
        ),
        (
            "generate",
            [
                {**OLLAMA, "response": TEXT, "done": False},
                {**OLLAMA, "response": "", "done": True, "done_reason": "stop"},
            ],
        ),
        (
            "openai_chat",
            [
                {
                    **OPENAI,
                    "object": "chat.completion.chunk",
                    "model": "qwen3:8b",
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"role": "assistant", "content": TEXT},
                            "finish_reason": None,
                        }
                    ],
                },
                {
                    **OPENAI,
                    "object": "chat.completion.chunk",
                    "model": "qwen3:8b",
                    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                },
                "[DONE]",
            ],
        ),
        (
            "openai_text",
            [
                {
                    **OPENAI,
                    "object": "text_completion",
                    "model": "a",
                    "choices": [{"index": 0, "text": TEXT, "finish_reason": None}],
                },
                {
                    **OPENAI,
                    "object": "text_completion",
                    "model": "a",
                    "choices": [{"index": 0, "text": "", "finish_reason": "stop"}],
                },
                "[DONE]",
            ],
        ),
    ],
)
def test_each_field_of_a_streamed_answer(form: Form, expected: list[Any]) -> None:
    """It has the fields that the server's own answers have."""
    spoken = answer(request_in(form, stream=True), LINES, AT)
    assert (spoken.status, pieces(spoken)) == (200, expected)


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_is_not_streamed_is_one_document(form: Form) -> None:
    """It has all fields that litellm reads."""
    spoken = answer(request_in(form, stream=False), LINES, AT)
    found = json.loads(spoken.content)
    assert (spoken.status, spoken.content_type) == (200, "application/json")
    match form:
        case "chat":
            assert (found["message"]["content"], found["done"], found["eval_count"]) == (
                TEXT,
                True,
                0,
            )
        case "generate":
            assert (found["response"], found["done"]) == (TEXT, True)
            assert (found["prompt_eval_count"], found["eval_count"]) == (0, 0)
        case "openai_chat":
            assert found["choices"][0]["message"]["content"] == TEXT
            assert (found["object"], set(found["usage"].values())) == ("chat.completion", {0})
            assert found["choices"][0]["index"] == 0
        case "openai_text":
            assert (found["choices"][0]["text"], set(found["usage"].values())) == (TEXT, {0})


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/clear", "/clear"),
        ("/drop a.py   (frees 7)", "`/drop a.py`   (frees 7)"),
        ("/drop `a`.py   (frees 7)   x", "``/drop `a`.py``   (frees 7)   x"),
        ("no  gap", "no  gap"),
    ],
)
def test_a_command_before_a_gap_is_code(line: str, shown: str) -> None:
    """In marks that the command itself does not end."""
    found = json.loads(answer(request_in("chat", stream=False), [line], AT).content)
    assert found["message"]["content"] == f"aider-guard: {shown}"


@pytest.mark.parametrize(
    ("form", "system", "status", "where", "said"),
    [
        ("chat", prompts.COMMIT, 200, ("message", "content"), ""),
        ("generate", prompts.COMMIT, 200, ("response",), ""),
        ("openai_chat", prompts.COMMIT, 200, ("choices", 0, "message", "content"), ""),
        ("chat", prompts.SUMMARY, 400, ("error",), f"{PLAIN} (no such file or directory)"),
        ("generate", prompts.SUMMARY, 200, ("response",), None),
        ("openai_chat", prompts.SUMMARY, 200, ("choices", 0, "message", "content"), None),
    ],
)
def test_aider_gives_up_a_commit_message_and_a_summary_at_once(
    form: Form, system: str, status: int, where: tuple[Any, ...], said: str | None
) -> None:
    """An empty commit message, and no summary, leave the history as it was."""
    user = "# Diffs:\n+a" if system == prompts.COMMIT else "# USER\nhello\n"
    spoken = answer(request_in(form, stream=False, system=system, user=user), LINES, AT)
    found = json.loads(spoken.content)
    for key in where:
        found = found[key]
    assert (spoken.status, found) == (status, said)


@pytest.mark.parametrize("form", ["chat", "openai_chat"])
def test_waiting_is_shown_as_thinking(form: Form) -> None:
    """Aider shows it and strips it at the end; the stream goes on after it."""
    shown = waiting(request_in(form, stream=True), "waiting: busy", AT)
    assert shown.status == 200
    (piece,) = pieces(shown)
    assert text_of(form, piece, "reasoning_content") == "aider-guard: waiting: busy  \n"
    assert text_of(form, piece) == ""


@pytest.mark.parametrize(
    ("form", "stream"),
    [("generate", True), ("openai_text", True), ("chat", False), ("openai_chat", False)],
)
def test_nothing_is_shown_while_waiting_where_there_is_no_place_for_it(
    form: Form, stream: bool
) -> None:
    """No byte is sent in these protocols, as it would fix the status of the answer."""
    spoken = waiting(request_in(form, stream=stream), "waiting", AT)
    kinds = {"generate": "application/x-ndjson", "openai_text": "text/event-stream"}
    assert (spoken.content, spoken.content_type) == (b"", kinds.get(form, "application/json"))


@pytest.mark.parametrize("form", ["chat", "openai_chat"])
def test_in_context_mode_the_answer_names_no_file(form: Form) -> None:
    """There, Aider drops all files that an answer does not name: the text is shown as thinking."""
    found = pieces(answer(chat(prompts.CONTEXT, form=form), LINES, AT))
    kept = [piece for piece in found if piece != "[DONE]"]
    assert "".join(text_of(form, piece) for piece in kept).strip() == ""
    assert [text_of(form, piece, "reasoning_content") for piece in kept] == [TEXT, "", ""]
