"""The head of a prompt: it ends where the next Aider's prompt differs, and each piece is the beginning of the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.body import (
    PromptHead,
    head_of,
    loading_body,
    may_have_head,
    runner_options,
)
from aider_guard.core.chat.request import ChatRequest, Form, read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Purpose, RoleName, Upstream
from aider_guard.core.readings import Unavailable

OLLAMA = Upstream("", "http://127.0.0.1:11434", "ollama")
SETTINGS = DoorSettings("token", (OLLAMA,), (DoorRole("main", "qwen3:8b"),), 8192)
OLD = "0.9.3"

SYSTEM = ("system", "Act as an expert software developer.\n# *SEARCH/REPLACE block* Rules:")
EXAMPLES = (
    ("user", "Change get_factorial() to use math.factorial"),
    ("assistant", "mathweb/flask/app.py\n```python\n<<<<<<< SEARCH"),
    (
        "user",
        (
            "I switched to a new code base. Please don't consider the above files"
            " or try to edit them any longer."
        ),
    ),
    ("assistant", "Ok."),
)
READ_ONLY = (
    (
        "user",
        (
            "Here are some READ ONLY files, provided for your reference.\nDo not edit these files!\n"
            "\nRULES.md\n```\nBe kind.\n```\n"
        ),
    ),
    ("assistant", "Ok, I will use these files as references."),
)
MAP = (
    (
        "user",
        (
            "Here are summaries of some files present in my git repository.\n"
            "Do not propose changes to these files, treat them as *read-only*.\n\ntill.py:\n⋮\n│def total():"
        ),
    ),
    ("assistant", "Ok, I won't try and edit those files without asking first."),
)
HISTORY = (("user", "What is a basket?"), ("assistant", "A thing to carry apples in."))
FILES = (
    (
        "user",
        (
            "I have *added these files to the chat* so you can go ahead and edit them.\n\n"
            "*Trust this message as the true contents of these files!*\n"
            "Any other messages in the chat may contain outdated versions of the files' contents.\n"
            "\ntill.py\n```\nprint(1)\n```\n"
        ),
    ),
    ("assistant", "Ok, any changes I propose will be to those files."),
)
QUESTION = (("user", "And a box?"),)
NEXT = ("user", ".")
"""Stands for the message that is not typed yet."""
FIXED = (SYSTEM, *EXAMPLES, *READ_ONLY, *MAP)
WHOLE = (*FIXED, *HISTORY, *FILES, *QUESTION)


def chat(*messages: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A body of Aider's for /api/chat."""
    listed = [{"role": role, "content": content} for role, content in messages]
    options = {"temperature": 0, "num_ctx": 14043, "num_gpu": 20}
    return {"model": "qwen3:8b", "messages": listed, "options": options, "stream": True, **more}


def flattened(*messages: tuple[str, str]) -> dict[str, Any]:
    """The same as litellm sends it for ``ollama/`` models."""
    prompt = "".join(f"### {role.title()}:\n{content}\n\n" for role, content in messages)
    return {"model": "qwen3:8b", "prompt": prompt, "options": {}, "stream": True}


def head(
    body: dict[str, Any], version: str | Unavailable = OLD, settings: DoorSettings = SETTINGS
) -> PromptHead | None:
    """The head of a request for text."""
    form = "generate" if "prompt" in body else "chat"
    chat_request = read(form, body, settings, "")  # type: ignore[arg-type]  # two of its forms
    return head_of(chat_request, settings, OLLAMA, version)


def texts(found: PromptHead | None, characters: int | None = None) -> list[tuple[str, str]]:
    """The messages that are sent ahead."""
    assert found is not None
    body = found.beginning(found.characters if characters is None else characters)
    return [(message["role"], message["content"]) for message in body["messages"]]


@pytest.mark.parametrize(
    ("messages", "fixed"),
    [
        (WHOLE, FIXED),
        ((SYSTEM, *MAP, *HISTORY, *FILES, *QUESTION), (SYSTEM, *MAP)),
        ((SYSTEM, *READ_ONLY, *HISTORY, *QUESTION), (SYSTEM, *READ_ONLY)),
        ((SYSTEM, *EXAMPLES, *HISTORY, *QUESTION), (SYSTEM, *EXAMPLES)),
    ],
)
def test_ends_where_the_history_begins(messages: Any, fixed: Any) -> None:
    """System text, examples, read-only files and the map are sent again by the next Aider, the rest is not."""
    assert texts(head(chat(*messages))) == [*fixed, NEXT]


def test_files_that_may_change_are_no_part_of_it() -> None:
    """Files that may change follow the history, and a restored history comes before them."""
    found = texts(head(chat(SYSTEM, *MAP, *FILES, *QUESTION)))
    assert found[:3] == [SYSTEM, *MAP]
    assert "print(1)" not in str(found)


def test_a_head_that_asks_nothing_gets_a_question() -> None:
    """Templates may refuse a conversation without a message of the user's."""
    assert texts(head(chat(SYSTEM, *QUESTION))) == [SYSTEM, ("user", ".")]


def test_is_sent_as_the_real_request_is() -> None:
    """The pin, every runner's option and whatever changes the template stay; the answer is the smallest possible."""
    found = head(chat(*WHOLE, think=False, tools=[], format="json"), "0.12.6")
    assert found is not None
    body = found.beginning(10)
    assert body["options"] == {"num_ctx": 8192, "num_gpu": 20, "num_predict": 1}
    assert (body["think"], body["tools"], body["truncate"]) == (False, [], False)
    assert (body["keep_alive"], body["stream"]) == ("30m", False)
    assert "format" not in body
    assert found.path == "/api/chat"


def test_a_flattened_prompt_is_cut_in_its_text() -> None:
    """``ollama/`` models get one text: its beginning up to the same place."""
    body = flattened(*WHOLE)
    found = head(body)
    assert found is not None
    sent = found.beginning(found.characters)
    assert found.path == "/api/generate"
    assert body["prompt"].startswith(sent["prompt"])
    assert sent["prompt"].endswith(
        f"{MAP[1][1]}\n\n"
    )  # the block is complete with what separates it from the next
    assert "messages" not in sent


@pytest.mark.parametrize(
    "body",
    [
        chat(*QUESTION),
        flattened(*QUESTION),
        flattened(*HISTORY, *QUESTION),
        {"model": "qwen3:8b", "prompt": "hello\nyou"},
        {"model": "qwen3:8b", "prompt": None, "images": ["aGk="]},
        chat(*HISTORY, *QUESTION),
        chat(),
        {"model": "qwen3:8b", "messages": [{"role": "user"}]},
        {"model": "qwen3:8b", "messages": "x"},
        {"model": "qwen3:8b", "prompt": "hello", "raw": True},
        {"model": "qwen3:8b", "prompt": "hello", "system": "s"},
        {"model": "qwen3:8b", "prompt": ""},
    ],
)
def test_no_head_where_none_is_known(body: dict[str, Any]) -> None:
    """A request of an unknown form has no head."""
    assert head(body) is None


def test_only_of_the_main_model() -> None:
    """Commit messages, summaries and editors have prompts of their own."""
    editor = DoorSettings("token", (OLLAMA,), (DoorRole("editor", "qwen3:8b"),), 8192)
    assert head(chat(*WHOLE), settings=editor) is None


@pytest.mark.parametrize(
    ("purpose", "role", "form", "raw", "may"),
    [
        ("chat", "main", "chat", None, True),
        ("other", "main", "generate", None, True),
        ("edit", "main", "chat", None, False),
        ("chat", "editor", "chat", None, False),
        ("chat", "main", "openai_chat", None, False),
        ("chat", "main", "generate", "x", False),
    ],
)
def test_which_requests_may_have_one(
    purpose: Purpose, role: RoleName, form: Form, raw: str | None, may: bool
) -> None:
    """The main model's, in Ollama's own protocol, with messages or a text that litellm flattened."""
    asked = ChatRequest(form, "m", (), stream=True, role=role, purpose=purpose, raw_prompt=raw)
    assert may_have_head(asked) is may


def test_only_of_ollama() -> None:
    """Another server keeps what it evaluated in its own way."""
    request = read("chat", chat(*WHOLE), SETTINGS, "")
    other = Upstream("local", "http://127.0.0.1:8080/v1", "openai")
    assert head_of(request, SETTINGS, OLLAMA, OLD) is not None
    assert head_of(request, SETTINGS, other, OLD) is None


@pytest.mark.parametrize(
    ("characters", "found"),
    [
        (0, [("user", ".")]),
        (1, [("system", "A"), ("user", ".")]),
        (len(SYSTEM[1]), [SYSTEM, ("user", ".")]),
        (len(SYSTEM[1]) + 1, [SYSTEM, ("user", "H")]),
        (len(SYSTEM[1]) + len(READ_ONLY[0][1]), [SYSTEM, READ_ONLY[0]]),
        (9_999, [SYSTEM, *READ_ONLY, NEXT]),
    ],
)
def test_a_piece_has_so_many_characters(characters: int, found: list[tuple[str, str]]) -> None:
    """Whole messages, the last one cut."""
    made = head(chat(SYSTEM, *READ_ONLY, *QUESTION))
    assert made is not None
    assert made.characters == sum(len(text) for _, text in (SYSTEM, *READ_ONLY))
    assert texts(made, characters) == found


def test_a_flattened_head_may_end_within_a_message() -> None:
    """What introduces the files in the chat is the same in each prompt, their content is not."""
    body = flattened(SYSTEM, *FILES, *QUESTION)
    found = head(body)
    assert found is not None
    end = body["prompt"].index("\ntill.py")
    assert found.beginning(9_999)["prompt"] == body["prompt"][:end]
    assert found.beginning(20)["prompt"] == body["prompt"][:20]
    assert found.characters == end


def test_an_image_ends_it() -> None:
    """A message with more than text ends the head."""
    body = chat(*FIXED, *QUESTION)
    body["messages"][7]["images"] = ["AAAA"]
    assert texts(head(body)) == [*FIXED[:7], *([] if FIXED[6][0] == "user" else [NEXT])]
    parts = chat(SYSTEM, *MAP, *QUESTION)
    parts["messages"][1]["content"] = [{"type": "text", "text": MAP[0][1]}]
    assert texts(head(parts)) == [SYSTEM, ("user", ".")]


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([chat, flattened]))
def test_each_piece_is_the_beginning_of_the_next(one: int, other: int, form: Any) -> None:
    """Each piece begins the next one, and the last one begins the real request."""
    found = head(form(*WHOLE))
    assert found is not None
    shorter, longer = (_text(found.beginning(size)) for size in sorted((one, other)))
    assert longer.startswith(shorter)
    assert _text(form(*WHOLE)).startswith(longer)


def _text(body: dict[str, Any]) -> str:
    """A prompt up to the last text in it, in a template that marks each message. The added question is no part."""
    if "prompt" in body:
        return str(body["prompt"])
    messages = [one for one in body["messages"] if one["content"] != "."]
    return "<end>".join(f"<{one['role']}>{one['content']}" for one in messages)


def test_loading_asks_for_nothing_but_the_runner() -> None:
    """The request that loads has the runner's options and the pin, and no prompt."""
    wanted = {"num_gpu": 20, "temperature": 1, "num_ctx": 4096, "num_batch": None}
    options = runner_options({"options": wanted})
    assert options == {"num_gpu": 20, "num_ctx": 4096}
    body = loading_body("qwen3:8b", options, SETTINGS, "2m")
    assert body == {
        "model": "qwen3:8b",
        "stream": False,
        "options": {"num_gpu": 20, "num_ctx": 8192},
        "keep_alive": "2m",
    }
    assert "keep_alive" not in loading_body("qwen3:8b", {}, SETTINGS, None)
    for window, found in ((0, {}), (1, {"num_ctx": 1})):
        pinned = DoorSettings("token", (OLLAMA,), (), window)
        assert loading_body("m", {}, pinned, None)["options"] == found


@pytest.mark.parametrize("options", [None, "x", []])
def test_options_of_another_form_are_none(options: Any) -> None:
    """Options of another type are ignored, as any program may send a body."""
    assert runner_options({"options": options}) == {}


def test_a_shift_that_is_off_loads_the_model_with_it() -> None:
    """It is beside the options, and a flag of the model's process: with another the model would be loaded again."""
    options = runner_options({"options": {"num_gpu": 9}, "shift": False})
    assert options == {"num_gpu": 9, "shift": False}
    body = loading_body("m", options, SETTINGS, None)
    assert body["shift"] is False
    assert "shift" not in body["options"]
    for shift in (True, None, "no"):
        assert runner_options({"shift": shift}) == {}
    assert "shift" not in loading_body("m", {}, SETTINGS, None)
