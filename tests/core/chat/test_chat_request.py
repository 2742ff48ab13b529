"""Parsing requests: their purpose, role, messages and limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import (
    ChatRequest,
    Form,
    Message,
    asks_for_nothing,
    conversation,
    decode_body,
    prompt_blocks,
    read,
    summary_blocks,
    system_text,
    wants_files_only,
)
from aider_guard.core.chat.types import DoorRole, DoorSettings, RoleName

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
        ("generate", {"model": "a", "prompt": "", "images": ["aGk="]}, False),
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


@pytest.mark.parametrize(
    ("form", "content", "expected"),
    [
        ("chat", {}, ChatRequest("chat", "", (), stream=True)),
        ("generate", {}, ChatRequest("generate", "", (), stream=True)),
        ("openai_chat", {}, ChatRequest("openai_chat", "", (), stream=False)),
        ("openai_text", {}, ChatRequest("openai_text", "", (), stream=False, raw_prompt="")),
        ("chat", {"stream": False}, ChatRequest("chat", "", (), stream=False)),
        ("chat", {"stream": None}, ChatRequest("chat", "", (), stream=True)),
        ("openai_chat", {"stream": 1}, ChatRequest("openai_chat", "", (), stream=False)),
        ("openai_chat", {"stream": True}, ChatRequest("openai_chat", "", (), stream=True)),
        (
            "generate",
            {"system": "s", "prompt": "p"},
            ChatRequest("generate", "", (Message("system", "s"), Message("user", "p")), stream=True),
        ),
        (
            "generate",
            {"system": "s", "prompt": "p", "raw": True},
            ChatRequest("generate", "", (), stream=True, raw_prompt="p"),
        ),
        (
            "generate",
            {"prompt": "p", "raw": 1},
            ChatRequest("generate", "", (Message("user", "p"),), stream=True),
        ),
        (
            "generate",
            {"system": "s", "prompt": "", "images": ["aGk="]},
            ChatRequest(
                "generate", "", (Message("system", "s"), Message("user", "", plain=False)), stream=True
            ),
        ),
        (
            "generate",
            {"prompt": "p", "context": [1, 2]},
            ChatRequest("generate", "", (Message("user", "p", plain=False),), stream=True),
        ),
        (
            "generate",
            {"prompt": "p", "suffix": "}"},
            ChatRequest("generate", "", (Message("user", "p", plain=False),), stream=True),
        ),
        (
            "chat",
            {"prompt": "p", "raw": True, "messages": "x"},
            ChatRequest("chat", "", (), stream=True),
        ),
        (
            "openai_text",
            {"prompt": "p", "messages": [{"role": "user", "content": "x"}]},
            ChatRequest("openai_text", "", (), stream=False, raw_prompt="p"),
        ),
        (
            "chat",
            {"messages": [5, {"role": "user"}, {"role": "user", "content": "x", "name": ""}]},
            ChatRequest(
                "chat",
                "",
                (Message("", "", plain=False), Message("user", "", plain=False), Message("user", "x")),
                stream=True,
            ),
        ),
        (
            "openai_chat",
            {"functions": [{}], "max_tokens": 5, "max_completion_tokens": 7},
            ChatRequest("openai_chat", "", (), stream=False, num_predict=7, has_tools=True),
        ),
        (
            "openai_chat",
            {"max_tokens": 5, "max_completion_tokens": 0, "options": {"num_predict": 9}},
            ChatRequest("openai_chat", "", (), stream=False, num_predict=5),
        ),
        (
            "chat",
            {"max_tokens": 5, "tools": [], "options": {"num_ctx": 1, "num_predict": 1}},
            ChatRequest("chat", "", (), stream=True, num_ctx=1, num_predict=1),
        ),
        (
            "chat",
            {"options": {"num_ctx": 0, "num_predict": -1}},
            ChatRequest("chat", "", (), stream=True),
        ),
        (
            "generate",
            {"options": {"num_ctx": True, "num_predict": "9"}},
            ChatRequest("generate", "", (), stream=True),
        ),
    ],
)  # fmt: skip
def test_each_field_of_a_body_has_its_place(
    form: Form, content: dict[str, Any], expected: ChatRequest
) -> None:
    """Streams, raw prompts, pictures and limits, in each protocol; a value of another type counts as missing."""
    assert request_of(form, json.dumps(content).encode()) == replace(expected, body=content)


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        (("weak", "editor", "main"), "main"),
        (("weak", "editor"), "editor"),
        (("weak",), "weak"),
        ((), "main"),
    ],
)
def test_a_model_of_several_roles_has_the_first_of_them(
    roles: tuple[RoleName, ...], role: RoleName
) -> None:
    """A chat is rather the main model's than the editor's; and a model on another server has no part in it."""
    here = tuple(DoorRole(name, "a", path="local") for name in roles)
    elsewhere = (DoorRole("weak", "a"), DoorRole("editor", "a", path="other"))
    with_settings = DoorSettings("token", (), (*elsewhere, *here), 8192)
    content = {"model": "a", "messages": [message("user", "x")]}
    assert read("openai_chat", content, with_settings, "local").role == role


def test_a_prompt_with_a_system_text_of_its_own_is_not_split() -> None:
    """Only what litellm flattened is: a heading in another prompt is part of the user's text."""
    prompt = "### User:\na\n\n### Assistant:\nb\n\n"
    for more, roles in (({}, ["user", "assistant"]), ({"system": "s"}, ["system", "user"])):
        content = json.dumps({"prompt": prompt, **more}).encode()
        assert [m.role for m in conversation(request_of("generate", content))] == roles


def test_a_flattened_picture_is_not_plain() -> None:
    """What stands beside the text belongs to every message in it."""
    content = {"prompt": "### User:\na\n\n### Assistant:\nb\n\n", "images": ["aGk="]}
    chat_request = request_of("generate", json.dumps(content).encode())
    assert [m.plain for m in conversation(chat_request)] == [False, False]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", [("user", "", "")]),
        ("x", [("user", "x", "x")]),
        ("x\n\n### User:\na", [("user", "x\n\n### User:\na", "x\n\n### User:\na")]),
        ("### User:\n", [("user", "### User:\n", "")]),
        (
            "### System:\ns\n\n### User:\na\n### User:\nb\n\n\n\n### Assistant:\nc",
            [
                ("system", "### System:\ns\n\n", "s"),
                ("user", "### User:\na\n### User:\nb\n\n\n\n", "a\n### User:\nb\n\n"),
                ("assistant", "### Assistant:\nc", "c"),
            ],
        ),
    ],
)
def test_the_blocks_of_a_flattened_prompt(text: str, blocks: list[tuple[str, str, str]]) -> None:
    """A heading begins a block at the beginning and after an empty line; a text that begins otherwise is one block."""
    assert [(b.role, b.whole, b.content) for b in prompt_blocks(text)] == blocks


def test_the_blocks_of_a_conversation_to_summarise() -> None:
    """A text that does not begin with a heading is no such conversation."""
    text = "# USER\na\n# ASSISTANT\nb # USER\n# USER\n"
    assert [(b.role, b.whole, b.content) for b in summary_blocks(text)] == [
        ("user", "# USER\na\n", "a\n"),
        ("assistant", "# ASSISTANT\nb # USER\n", "b # USER\n"),
        ("user", "# USER\n", ""),
    ]
    assert summary_blocks(f"x{text}") == summary_blocks("") == ()


@pytest.mark.parametrize(
    ("between", "user", "purpose"),
    [
        ([], "# Diffs:\n+a", "commit"),
        ([], "context\n# Diffs:\n+a", "commit"),
        ([], "context # Diffs:\n+a", "other"),
        ([message("user", "x")], "# Diffs:\n+a", "other"),
    ],
)
def test_diffs_alone_show_a_commit_message(
    between: list[dict[str, str]], user: str, purpose: str
) -> None:
    """On a line of their own, in a prompt of a system text and one message."""
    messages = [message("system", "Write it as a haiku."), *between, message("user", user)]
    assert request_of("chat", body("chat", messages, stream=False)).purpose == purpose


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([], ""),
        ([("system", "s")], "s"),
        ([("system", "s"), ("user", "u")], "s"),
        ([("user", "u"), ("assistant", "Ok.")], ""),
        ([("user", "u"), ("assistant", "Ok."), ("user", "x")], "u"),
        ([("user", "u"), ("assistant", "No."), ("user", "x")], ""),
    ],
)
def test_the_system_text_of_a_prompt(messages: list[tuple[str, str]], found: str) -> None:
    """The first message, or the user's first one when it was answered by "Ok." and others follow."""
    assert system_text([Message(role, content) for role, content in messages]) == found


def test_context_mode_is_known_by_its_system_text() -> None:
    """In that mode Aider takes the files from the answer."""
    assert wants_files_only([Message("system", prompts.CONTEXT), Message("user", "x")])
    assert not wants_files_only([Message("system", prompts.ASK), Message("user", prompts.CONTEXT)])


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
