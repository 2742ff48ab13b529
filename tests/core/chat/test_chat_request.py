"""Parsing requests: their purpose, role, messages and limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import Form, asks_for_nothing, conversation, decode_body

FORMS: tuple[Form, ...] = ("chat", "generate", "openai_chat")
FILES = [message("user", prompts.CHAT_FILES), message("assistant", "Ok.")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("system", "user", "stream", "purpose", "role"),
    [
        (prompts.COMMIT, "# Diffs:\n+a\n", False, "commit", "weak"),
        (f"/no_think\n{prompts.COMMIT}", "context\n# Diffs:\n+a\n", False, "commit", "weak"),
        ("Write it as a haiku.", "# Diffs:\n+a\n", False, "commit", "weak"),
        (prompts.SUMMARY, "# USER\nhello\n# ASSISTANT\nhi\n", False, "summary", "weak"),
        (prompts.EDITOR_DIFF, "do it", True, "edit", "editor"),
        (prompts.EDITOR_WHOLE, "do it", True, "edit", "editor"),
        (prompts.EDITOR_FENCED, "do it", True, "edit", "editor"),
        (prompts.EDITOR_DIFF, "do it", False, "edit", "editor"),
        (prompts.DIFF, "do it", True, "chat", "main"),
        (prompts.DIFF, "do it", False, "chat", "main"),
        (prompts.ASK, "what is it?", True, "chat", "main"),
        (prompts.ARCHITECT, "plan it", True, "chat", "main"),
        (prompts.CONTEXT, "find it", True, "chat", "main"),
        (prompts.HELP, "help me", True, "chat", "main"),
        ("You are a pirate.", "hello", True, "other", "main"),
        (prompts.DIFF, f"what does this do? {prompts.EDITOR_DIFF}", True, "chat", "main"),
        (prompts.DIFF, f"explain: {prompts.COMMIT}", True, "chat", "main"),
    ],
)
def test_the_purpose_and_role_are_seen_by_the_shape_in_each_protocol(
    form: Form, system: str, user: str, stream: bool, purpose: str, role: str
) -> None:
    """Commit message, summary, editor and chat are recognised, flattened by litellm or not."""
    between = [] if purpose in ("commit", "summary") else FILES
    messages = [message("system", system), *between, message("user", user)]
    chat_request = request_of(form, body(form, messages, stream=stream))
    assert (chat_request.purpose, chat_request.role, chat_request.stream) == (purpose, role, stream)


def test_what_is_streamed_is_no_commit_message_and_no_summary() -> None:
    """Aider requests those in one piece; a streamed message of the user may be about diffs."""
    for system in (prompts.COMMIT, prompts.SUMMARY, "You are a pirate."):
        messages = [message("system", system), message("user", "# Diffs:\n+a")]
        assert request_of("chat", body("chat", messages)).purpose == "other"


def test_a_system_text_sent_as_the_users_first_message_is_recognised() -> None:
    """``use_system_prompt: false`` makes Aider send it so, answered by "Ok."."""
    messages = [
        message("user", prompts.EDITOR_DIFF),
        message("assistant", "Ok."),
        message("user", "x"),
    ]
    assert request_of("chat", body("chat", messages)).purpose == "edit"


@pytest.mark.parametrize(
    ("model", "role"),
    [
        ("qwen3:8b", "main"),
        ("QWEN3:8b", "main"),
        ("coder:7b", "editor"),
        ("tiny:1b", "weak"),
        ("x", "main"),
    ],
)
def test_a_chats_role_is_that_of_its_model(model: str, role: str) -> None:
    """A model without a role counts as the main model: the user switched to it."""
    content = body("chat", [message("system", prompts.DIFF), message("user", "x")], model=model)
    assert request_of("chat", content).role == role


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"model":"a"}', {"model": "a"}),
        (b' \r\n{"model":"a"} and more', {"model": "a"}),  # Go reads the first value only
        (b'{"model":"a\xff"}', {"model": "a\ufffd"}),  # and replaces what is no UTF-8
        (b"[1]", None),
        (b"", None),
        (b"<html>", None),
        (b'{"model":', None),
        # What the server might read, but not here, or not with the same outcome:
        (b'{"x":' + b"9" * 5000 + b',"model":"a"}', None),
        (b'{"x":' * 200_000, None),
        (b'{"model":"a","model":null}', None),
        (b'{"messages":[{"content":"a","content":"b"}]}', None),
    ],
)
def test_a_body_is_read_as_gos_decoder_reads_it(content: bytes, found: Any) -> None:
    """Every body that the server would read is read here, or a name could pass unseen."""
    assert decode_body(content) == found


@pytest.mark.parametrize(
    ("form", "content", "nothing"),
    [
        ("generate", {"model": "a", "keep_alive": 0}, True),
        ("generate", {"model": "a", "prompt": ""}, True),
        ("generate", {"model": "a", "prompt": "x"}, False),
        ("chat", {"model": "a", "messages": []}, True),
        ("chat", {"model": "a"}, True),
        ("chat", {"model": "a", "messages": [{"role": "user", "content": "x"}]}, False),
        ("openai_chat", {"model": "a"}, False),
    ],
)
def test_a_request_without_a_prompt_only_loads_or_unloads(
    form: Form, content: dict[str, Any], nothing: bool
) -> None:
    """The rule is that of Ollama's routes.go."""
    assert asks_for_nothing(request_of(form, json.dumps(content).encode())) is nothing


@pytest.mark.parametrize(
    ("content", "text", "plain"),
    [
        ("x", "x", True),
        ([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}], "xy", True),
        ([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}], "x", False),
        (None, "", False),
        (5, "", False),
    ],
)
def test_the_content_of_a_message_may_be_parts(content: Any, text: str, plain: bool) -> None:
    """A message with parts other than texts is not plain."""
    raw = json.dumps({"model": "a", "messages": [{"role": "user", "content": content}]})
    found = request_of("openai_chat", raw.encode()).messages[0]
    assert (found.content, found.plain) == (text, plain)


def test_images_tools_and_limits_are_seen() -> None:
    """They decide whether a prompt can be counted, and how much is kept for the answer."""
    raw: dict[str, Any] = {
        "model": "a",
        "messages": [{"role": "user", "content": "x", "images": ["aGk="]}],
        "tools": [{"type": "function"}],
        "options": {"num_ctx": 4096, "num_predict": 77},
    }
    chat_request = request_of("chat", json.dumps(raw).encode())
    assert not chat_request.messages[0].plain
    assert (
        chat_request.has_tools,
        chat_request.num_ctx,
        chat_request.num_predict,
        chat_request.stream,
    ) == (
        True,
        4096,
        77,
        True,
    )
    openai = request_of("openai_chat", json.dumps({**raw, "max_tokens": 5}).encode())
    assert (openai.num_ctx, openai.num_predict, openai.stream) == (4096, 5, False)


def test_a_flattened_prompt_is_a_conversation_again() -> None:
    """The roles are split again; messages that litellm merged stay merged."""
    messages = [message("system", "s"), message("user", "a\n\nb"), message("assistant", "c")]
    chat_request = request_of("generate", body("generate", messages))
    assert [(m.role, m.content) for m in conversation(chat_request)] == [
        ("system", "s"),
        ("user", "a\n\nb"),
        ("assistant", "c"),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "options",
        "stream",
        "system",
        "tools",
        "images",
        "keep_alive",
        "raw",
    ]
)


@given(st.sampled_from([*FORMS, "openai_text"]), st.dictionaries(FIELDS, JSON))
def test_no_object_however_strange_is_too_much(form: Form, content: dict[str, Any]) -> None:
    """A field of another type counts as missing, and nothing raises."""
    chat_request = request_of(form, json.dumps(content).encode())
    assert chat_request.model == (content["model"] if isinstance(content.get("model"), str) else "")
    asks_for_nothing(chat_request)
    conversation(chat_request)
