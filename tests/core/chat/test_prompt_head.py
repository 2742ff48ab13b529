"""The head of a prompt: it ends where the next Aider's prompt differs, and each piece is the beginning of the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.body import PromptHead, head_of, loading_body, runner_options
from aider_guard.core.chat.request import read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
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
    assert texts(head(chat(*messages))) == list(fixed)


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


def test_an_image_ends_it() -> None:
    """A message with more than text ends the head."""
    body = chat(*FIXED, *QUESTION)
    body["messages"][7]["images"] = ["AAAA"]
    assert texts(head(body)) == list(FIXED[:7])


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
    options = runner_options({"options": {"num_gpu": 20, "temperature": 1, "num_ctx": 4096}})
    assert options == {"num_gpu": 20, "num_ctx": 4096}
    body = loading_body("qwen3:8b", options, SETTINGS, "2m")
    assert body == {
        "model": "qwen3:8b",
        "stream": False,
        "options": {"num_gpu": 20, "num_ctx": 8192},
        "keep_alive": "2m",
    }
    assert "keep_alive" not in loading_body("qwen3:8b", {}, SETTINGS, None)


@pytest.mark.parametrize("options", [None, "x", []])
def test_options_of_another_form_are_none(options: Any) -> None:
    """Options of another type are ignored, as any program may send a body."""
    assert runner_options({"options": options}) == {}
