"""The next prompt: read from Aider's line, made ready as the request will be, and compared with it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aider_guard.core.chat.body import body_to_send
from aider_guard.core.chat.next_prompt import (
    HeadMatch,
    NextPrompt,
    Usefulness,
    compare_with_head,
    flattened,
    is_compared,
    known_characters,
    next_head,
    parse_told,
    sent_prompt,
)
from aider_guard.core.chat.request import ChatRequest, read
from aider_guard.core.chat.types import DoorRole, DoorSettings, RunnerOption, Upstream
from aider_guard.core.readings import Unavailable

OLLAMA = Upstream("", "http://127.0.0.1:11434", "ollama")
ROLE = DoorRole("main", "qwen3:8b", runner_options=(RunnerOption("num_gpu", 20),))
SETTINGS = DoorSettings("token", (OLLAMA,), (ROLE,), 8192)
VERSION = "0.35.0"
SYSTEM = ("system", "Act as an expert software developer.")
MAP = (
    ("user", "Here are summaries of some files present in my git repository.\ndef a()"),
    ("assistant", "Ok, I won't try and edit those files without asking first."),
)
FILES = (
    ("user", "I have *added these files to the chat* so you can go ahead.\n\na.py\n```\n1\n```\n"),
    ("assistant", "Ok, any changes I propose will be to those files."),
)
TALK = (("user", "What is a?"), ("assistant", "A name."))
REFUSED = (("user", "Too much"), ("assistant", "aider-guard: that does not fit"))
QUESTION = ("user", "And b?\n\nAnswer in short.")
HEAD = (SYSTEM, *MAP, *FILES, *TALK)


def listed(*messages: tuple[str, str]) -> list[dict[str, Any]]:
    """Messages as they stand in a body."""
    return [{"role": role, "content": content} for role, content in messages]


def told(
    *messages: tuple[str, str], model: str = "ollama_chat/qwen3:8b", **more: Any
) -> NextPrompt:
    """What Aider told."""
    line = json.dumps({"model": model, "messages": listed(*messages), **more}).encode()
    found = parse_told(line)
    assert isinstance(found, NextPrompt)
    return found


def request(*messages: tuple[str, str], form: str = "chat", **more: Any) -> ChatRequest:
    """A request of Aider's."""
    made = [{**message, "images": []} for message in listed(*messages)]
    prompt = {"messages": made} if form == "chat" else {"prompt": flattened(made)}
    body = {"model": "qwen3:8b", **prompt, "options": {"temperature": 0}, "stream": True, **more}
    return read(form, body, SETTINGS, "")  # type: ignore[arg-type]  # two of its forms


def match(prompt: NextPrompt, *messages: tuple[str, str], form: str = "chat") -> HeadMatch:
    """How much of a prompt a request begins with."""
    head = next_head(prompt, None, SETTINGS, OLLAMA, VERSION)
    assert head is not None
    came = request(*messages, form=form)
    return compare_with_head(head, sent_prompt(came, SETTINGS, OLLAMA), came)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"model": 1, "messages": []}', None),
        (b"[" * 100_000, None),
        (b"\xff\xfe", None),
        (b'{"unknown": "it is another"}', Unavailable("it is another")),
        (
            b'{"model": "openai/x", "messages": []}',
            Unavailable("the model is not one of Ollama's"),
        ),
        (
            b'{"model": "ollama/x:1", "messages": [{"role": "user", "content": "a"}, {"role": 1}]}',
            NextPrompt("/api/generate", "x:1", ({"role": "user", "content": "a"},)),
        ),
    ],
)
def test_what_a_line_says(line: bytes, found: object) -> None:
    """Any program may have written it; a message with more than text ends what is read ahead."""
    assert parse_told(line) == found


@pytest.mark.parametrize("form", ["chat", "generate"])
def test_the_head_is_what_the_request_begins_with(form: str) -> None:
    """Byte for byte as the door sends it, but for the message."""
    model = "ollama_chat/qwen3:8b" if form == "chat" else "ollama/qwen3:8b"
    last = request(SYSTEM, QUESTION, form=form, think=False)
    head = next_head(told(*HEAD, model=model), last, SETTINGS, OLLAMA, VERSION)
    assert head is not None
    came = request(*HEAD, QUESTION, form=form, think=False)
    sent = json.loads(body_to_send(came, b"", SETTINGS, OLLAMA, VERSION))
    piece = head.beginning(head.characters)
    if form == "chat":
        plain = [{key: message[key] for key in ("role", "content")} for message in sent["messages"]]
        assert piece["messages"][:-1] == plain[:-1]
    else:
        assert sent["prompt"].startswith(piece["prompt"])
        assert sent["prompt"][len(piece["prompt"]) :].startswith("And b?")
    same = ("model", "think", "keep_alive", "truncate")
    assert {key: piece[key] for key in same} == {key: sent[key] for key in same}
    assert piece["options"]["num_ctx"] == sent["options"]["num_ctx"] == 8192
    assert match(told(*HEAD, model=model), *HEAD, QUESTION, form=form).percent == 100


def test_before_the_first_request_the_options_are_the_users() -> None:
    """With any other the model would be loaded anew."""
    head = next_head(told(*HEAD, think="low"), None, SETTINGS, OLLAMA, VERSION)
    assert head is not None
    assert head.body == {
        "model": "qwen3:8b",
        "options": {"num_gpu": 20, "num_ctx": 8192, "num_predict": 1},
        "think": "low",
        "keep_alive": "30m",
        "truncate": False,
        "stream": False,
    }


def test_the_options_of_another_models_request_are_not_taken() -> None:
    """Nor those of another protocol."""
    for last in (request(SYSTEM, model="other"), request(SYSTEM, form="generate")):
        head = next_head(told(*HEAD), last, SETTINGS, OLLAMA, VERSION)
        assert head is not None
        assert "temperature" not in head.body["options"]


def test_the_doors_own_answers_are_left_out_as_in_the_request() -> None:
    """The message that it refused stays, as in the request."""
    assert match(told(*HEAD, *REFUSED), *HEAD, *REFUSED, QUESTION).percent == 100


def test_nothing_told_is_nothing_to_read() -> None:
    """Of a model with nothing but an image in its first message."""
    assert next_head(told(), None, SETTINGS, OLLAMA, VERSION) is None
    flat = replace(told(), path="/api/generate")
    assert next_head(flat, None, SETTINGS, OLLAMA, VERSION) is None


@pytest.mark.parametrize("form", ["chat", "generate"])
@pytest.mark.parametrize(
    ("came", "parted_in"),
    [
        ((SYSTEM, *MAP, *FILES, *TALK, QUESTION), ""),
        ((("system", "Act as an expert code analyst."), *MAP, QUESTION), "system"),
        ((SYSTEM, (MAP[0][0], MAP[0][1] + "def b()"), MAP[1], *FILES, *TALK, QUESTION), "map"),
        ((SYSTEM, *MAP, *TALK, *FILES, QUESTION), "history"),
        ((SYSTEM, *MAP, (FILES[0][0], FILES[0][1].replace("1", "2")), FILES[1], QUESTION), "file"),
        ((SYSTEM, *MAP, *FILES, QUESTION), "message"),
    ],
)
def test_where_the_prompts_part(came: Any, parted_in: str, form: str) -> None:
    """It is the part of the request that holds the first character which is another."""
    model = "ollama_chat/qwen3:8b" if form == "chat" else "ollama/qwen3:8b"
    found = match(told(*HEAD, model=model), *came, form=form)
    assert found.parted_in == parted_in
    assert (found.percent == 100) == (parted_in == "")


@pytest.mark.parametrize(
    ("cached", "answered", "known"),
    [
        ((), False, 0),
        ((SYSTEM, *MAP), False, (SYSTEM, *MAP)),
        ((SYSTEM, *MAP, *FILES, TALK[0]), True, HEAD),
        ((SYSTEM, *MAP, *FILES, TALK[0]), False, (*HEAD[:-1],)),
        # The reminder behind the message is not in the next prompt: the answer must be read again.
        ((SYSTEM, *MAP, *FILES, ("user", TALK[0][1] + "\n\nIn short.")), True, HEAD[:-1]),
        ((("system", "Generate a commit message."), QUESTION), True, 0),
    ],
)
def test_how_much_is_in_the_cache(cached: Any, answered: bool, known: Any) -> None:
    """The answer of the last request is the next message, and was made by the model itself."""
    head = next_head(told(*HEAD), None, SETTINGS, OLLAMA, VERSION)
    assert head is not None
    other = sent_prompt(request(*cached), SETTINGS, OLLAMA)
    expected = known if isinstance(known, int) else sum(len(text) for _, text in known)
    assert known_characters(head, other, answered=answered) == expected


@pytest.mark.parametrize(
    ("came", "compared"),
    [
        (request(*HEAD, QUESTION), True),
        (request(("user", "hello")), True),
        (request(), False),
        (replace(request(*HEAD), purpose="commit", role="weak"), False),
        (replace(request(*HEAD), role="editor"), False),
    ],
)
def test_which_requests_are_compared(came: ChatRequest, compared: bool) -> None:
    """Those that answer the user's message; one that only loads a model is none."""
    assert is_compared(came) is compared


def test_two_useless_readings_in_a_row_are_a_reason_to_rest() -> None:
    """Half of it is of use; and one that is of use ends the rest."""
    use = Usefulness()
    for percent, rests in (
        (0, False),
        (60, False),
        (10, False),
        (49, True),
        (0, True),
        (100, False),
    ):
        use = use.after(HeadMatch(percent, 100, "map"))
        assert bool(use.reason_to_rest) is rests


def test_a_head_of_nothing_is_matched_by_all() -> None:
    """There is nothing to divide by."""
    assert HeadMatch(0, 0).percent == 100
