"""The body that the door sends to the server for a request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import LOCAL, OLLAMA, body, message, request_of, settings
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.body import (
    KEEP_ALIVE,
    KEEP_SECONDS,
    asks_for_usage,
    body_to_send,
    count_unanswered,
    forbids_truncation,
    without_unanswered,
)
from aider_guard.core.chat.request import Form, conversation
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable

OWN = "aider-guard: not sent: 5 tokens too large\n/clear   (frees 9 tokens)"
CHAT = [message("system", prompts.DIFF), message("user", "fix it")]


def after(
    form: Form,
    content: bytes,
    with_settings: DoorSettings | None = None,
    upstream: Upstream = OLLAMA,
    version: str | Unavailable = "0.24.0",
) -> Any:
    chat_request = request_of(form, content)
    return json.loads(
        body_to_send(chat_request, content, with_settings or settings(), upstream, version)
    )


@pytest.mark.parametrize("form", ["chat", "generate"])
def test_each_request_is_held_to_the_pin(form: Form) -> None:
    """Aider's own window, another on every request, would make Ollama load the model anew."""
    content = body(form, CHAT, options={"num_ctx": 14043, "temperature": 0})
    assert after(form, content)["options"] == {"num_ctx": 8192, "temperature": 0}
    bare = json.dumps({"model": "a", "prompt": "x", "messages": CHAT}).encode()
    assert after(form, bare)["options"] == {"num_ctx": 8192}


@pytest.mark.parametrize(
    ("version", "on_overflow", "found"),
    [
        ("0.12.5", "refuse", None),
        ("0.12.6", "refuse", False),
        ("0.33.0-rc2", "refuse", False),
        ("0.24.0", "warn", None),
        (Unavailable("?"), "refuse", None),
    ],
)
def test_truncation_is_forbidden_where_the_server_knows_it(
    version: str | Unavailable, on_overflow: Any, found: bool | None
) -> None:
    """Servers that know the field get it, unless the user wants only a warning."""
    chosen = settings(on_overflow=on_overflow)
    content = body("chat", CHAT)
    assert after("chat", content, chosen, version=version).get("truncate") is found
    chat_request = request_of("chat", content)
    assert forbids_truncation(chat_request, chosen, OLLAMA, version) is (found is False)


@pytest.mark.parametrize(
    ("user_keep_alive", "asked_for", "found"),
    [(False, None, "30m"), (True, None, None), (False, "1h", "1h"), (True, "1h", "1h")],
)
def test_a_model_stays_loaded_unless_the_user_decides(
    user_keep_alive: bool, asked_for: str | None, found: str | None
) -> None:
    """A value in the request itself is kept as well."""
    more: dict[str, Any] = {"keep_alive": asked_for} if asked_for else {}
    chosen = settings(user_keep_alive=user_keep_alive)
    assert after("chat", body("chat", CHAT, **more), chosen).get("keep_alive") == found


@pytest.mark.parametrize(
    ("window_tokens", "options", "found"),
    [
        (1, None, {"num_ctx": 1}),
        (1, "x", {"num_ctx": 1}),
        (0, None, None),
        (0, {"num_ctx": 14043}, {"num_ctx": 14043}),
    ],
)
def test_without_a_pin_the_options_stay_as_they_are(
    window_tokens: int, options: Any, found: Any
) -> None:
    """A window of 0 is no pin."""
    content = body("chat", CHAT, options=options)
    assert after("chat", content, settings(window_tokens))["options"] == found


@pytest.mark.parametrize("keep_alive", [False, "10s", "0x", 1, -1])
def test_a_time_to_stay_loaded_is_no_request_to_unload(keep_alive: Any) -> None:
    """The model is loaded with the pin, and stays for that long."""
    content = json.dumps({"model": "a", "keep_alive": keep_alive}).encode()
    expected = {"model": "a", "keep_alive": keep_alive, "options": {"num_ctx": 8192}}
    assert after("generate", content) == expected


def test_a_prompt_is_answered_before_its_model_is_unloaded() -> None:
    """Such a request is pinned as any other."""
    content = body("chat", CHAT, keep_alive=0)
    assert (after("chat", content)["options"]["num_ctx"], after("chat", content)["keep_alive"]) == (
        8192,
        0,
    )


def test_a_request_of_another_protocol_or_server_has_no_pin() -> None:
    """Only Ollama takes it, and only on its own paths."""
    content = body("chat", CHAT)
    assert after("chat", content, upstream=LOCAL) == json.loads(content)
    assert not forbids_truncation(request_of("chat", content), settings(), LOCAL, "0.24.0")
    openai = request_of("openai_chat", body("openai_chat", CHAT))
    assert not forbids_truncation(openai, settings(), OLLAMA, "0.24.0")


@pytest.mark.parametrize("keep_alive", [0, "0", "0s", "0m", 0.0, "-0", "00ms"])
def test_a_request_to_unload_is_sent_as_it_came(keep_alive: Any) -> None:
    """A window in it would load the model first."""
    for form in ("generate", "chat"):
        content = json.dumps({"model": "a", "keep_alive": keep_alive}, indent=3).encode()
        chat_request = request_of(form, content)
        assert body_to_send(chat_request, content, settings(), OLLAMA, "0.24.0") == content


def test_a_request_to_load_is_pinned_and_says_nothing_of_truncation() -> None:
    """Without the pin the first prompt would load the model once more."""
    found = after("generate", b'{"model":"a","keep_alive":-1}')
    assert found == {"model": "a", "keep_alive": -1, "options": {"num_ctx": 8192}}


@pytest.mark.parametrize("form", ["chat", "openai_chat"])
def test_the_model_never_sees_the_doors_own_answers(form: Form) -> None:
    """A message that the door answered is removed when the user sends it again; all others stay as they were."""
    said = [
        *CHAT,
        message("assistant", OWN),
        message("user", f"fix it\n\n{prompts.REMINDER}"),
    ]
    assert after(form, body(form, said))["messages"] == [said[0], said[3]]
    other = [*CHAT, message("assistant", OWN), message("user", "no, another thing")]
    assert after(form, body(form, other))["messages"] == [other[0], other[1], other[3]]


def test_what_aider_says_of_edits_that_were_not_made_goes_too() -> None:
    """After the door's own answer to an architect nothing was edited, so Aider's report of edits is removed."""
    said = [
        *CHAT,
        message("assistant", OWN),
        message("user", "I made those changes to the files."),
        message("assistant", "Ok."),
        message("user", "try again"),
    ]
    assert after("chat", body("chat", said))["messages"] == [said[0], said[1], said[5]]


def test_a_flattened_prompt_loses_only_the_doors_own_answers() -> None:
    """The rest of the text stays to the letter."""
    said = [*CHAT, message("assistant", OWN), message("user", "more")]
    found = after("generate", body("generate", said))["prompt"]
    assert found == prompts.flattened(CHAT) + prompts.flattened([message("user", "more")])


REFUSED = [
    CHAT[0],
    message("user", "here is a log"),
    message("assistant", OWN),
    message("user", "rename it"),
    message("assistant", "Which one?"),
    message("user", "all of it"),
    message("assistant", OWN),
    message("user", "go on"),
]


@pytest.mark.parametrize("form", ["chat", "openai_chat"])
def test_what_was_not_sent_before_can_be_left_out(form: Form) -> None:
    """The oldest are left out first, never one that the model has answered, and never the newest."""
    chat_request = request_of(form, body(form, REFUSED))
    assert count_unanswered(chat_request) == 2
    for leave_out, places in ((0, (0, 1, 3, 4, 5, 7)), (1, (0, 3, 4, 5, 7)), (2, (0, 3, 4, 7))):
        left = without_unanswered(chat_request, leave_out)
        assert left == {**chat_request.body, "messages": [REFUSED[place] for place in places]}


def test_a_flattened_prompt_can_do_without_what_was_not_sent() -> None:
    """The rest of the text stays to the letter."""
    chat_request = request_of("generate", body("generate", REFUSED))
    assert count_unanswered(chat_request) == 2
    assert [m.content for m in conversation(chat_request)] == [
        REFUSED[place]["content"] for place in (0, 1, 3, 4, 5, 7)
    ]
    left = [REFUSED[place] for place in (0, 3, 4, 5, 7)]
    assert without_unanswered(chat_request, 1)["prompt"] == (
        prompts.flattened(left[:-1]) + prompts.flattened(left[-1:])
    )


def test_a_summary_can_do_without_what_was_not_sent() -> None:
    """A message that no model answered is no part of the conversation to summarise."""
    text = f"# USER\nlog\n# ASSISTANT\n{OWN}\n# USER\nsecond\n# ASSISTANT\nyes\n"
    said = [message("system", prompts.SUMMARY), message("user", text)]
    chat_request = request_of("chat", body("chat", said, stream=False))
    assert count_unanswered(chat_request) == 1
    left = without_unanswered(chat_request, 1)["messages"]
    assert left == [said[0], message("user", "# USER\nsecond\n# ASSISTANT\nyes\n")]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("openai_text", {"prompt": prompts.flattened(REFUSED), "messages": REFUSED}),
        ("generate", {"prompt": prompts.flattened(REFUSED), "raw": True}),
        ("generate", {"prompt": 5, "messages": REFUSED}),
        ("generate", {"messages": REFUSED}),
        ("chat", {"messages": {"a": 1}}),
        ("chat", {"prompt": prompts.flattened(REFUSED)}),
    ],
)
def test_nothing_is_left_out_where_no_conversation_is_known(
    form: Form, content: dict[str, Any]
) -> None:
    """Raw prompts and fields of another protocol are sent as they are."""
    chat_request = request_of(form, json.dumps(content).encode())
    assert count_unanswered(chat_request) == 0
    assert without_unanswered(chat_request, 9) == content


def test_messages_in_one_part_are_read_as_texts_are() -> None:
    """Some clients send a list with one text; a message of several parts, or of another form, is left alone."""

    def part(role: str, *texts: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}

    said = [CHAT[0], part("user", "a"), part("assistant", OWN), part("user", "b"), part("user")]
    other = [part("assistant", OWN, "x"), {"role": "assistant", "content": None}, "x"]
    chat_request = request_of("openai_chat", body("openai_chat", [*said, *other]))  # type: ignore[list-item]
    assert count_unanswered(chat_request) == 1
    left = without_unanswered(chat_request, 1)["messages"]
    assert left == [said[0], said[3], said[4], *other]


def test_a_summary_of_nothing_but_what_was_not_sent_is_sent_as_it_is() -> None:
    """An empty prompt would be refused; nor is a message changed that is no conversation."""
    text = f"# USER\nlog\n# ASSISTANT\n{OWN}\n"
    said = [message("system", f"{prompts.SUMMARY}{text}"), message("user", text)]
    chat_request = request_of("chat", body("chat", said, stream=False))
    assert count_unanswered(chat_request) == 1
    assert without_unanswered(chat_request, 1)["messages"] == said
    assert without_unanswered(chat_request, 0)["messages"] == [
        said[0],
        message("user", "# USER\nlog\n"),
    ]


def test_what_was_sent_again_is_not_there_twice_to_be_left_out() -> None:
    """Of two equal messages the newer one is the current message."""
    said = [*CHAT, message("assistant", OWN), CHAT[1]]
    for form in ("chat", "generate"):
        assert count_unanswered(request_of(form, body(form, said))) == 0
    assert count_unanswered(request_of("openai_text", body("generate", said))) == 0


def test_a_summary_is_not_made_of_the_doors_own_answers() -> None:
    """In a summary's request the door's answers are part of one text."""
    text = f"# USER\nhello\n# ASSISTANT\n{OWN}\n# USER\nsecond\n# ASSISTANT\nyes\n"
    content = body(
        "chat", [message("system", prompts.SUMMARY), message("user", text)], stream=False
    )
    found = after("chat", content)["messages"][1]["content"]
    assert found == "# USER\nhello\n# USER\nsecond\n# ASSISTANT\nyes\n"


def test_openais_protocol_has_no_window_and_is_asked_for_usage() -> None:
    """The usage is requested only for a stream that does not request it already."""
    found = after("openai_chat", body("openai_chat", CHAT))
    assert "options" not in found
    assert "truncate" not in found
    assert "keep_alive" not in found
    assert found["stream_options"] == {"include_usage": True}
    for options, more in (({"x": 1, "include_usage": False}, {"x": 1}), ("x", {}), (None, {})):
        other = body("openai_chat", CHAT, stream_options=options)
        assert after("openai_chat", other)["stream_options"] == {**more, "include_usage": True}
    told = body("openai_chat", CHAT, stream_options={"include_usage": True})
    assert not asks_for_usage(request_of("openai_chat", told))
    whole = body("openai_chat", CHAT, stream=False)
    for upstream in (OLLAMA, LOCAL):
        for content in (told, whole):
            chat_request = request_of("openai_chat", content)
            assert body_to_send(chat_request, content, settings(), upstream, "0.24.0") == content


TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.sampled_from(["chat", "generate"]))
def test_everything_else_keeps_its_value_and_its_place(more: dict[str, Any], form: Form) -> None:
    """The order of the fields stays, too, as a server may depend on it."""
    touched = ("options", "keep_alive", "truncate", "messages", "prompt", "model", "stream")
    content = body(form, CHAT, **{k: v for k, v in more.items() if k not in touched})
    before, found = json.loads(content), after(form, content)
    assert {k: v for k, v in found.items() if k not in touched} == {
        k: v for k, v in before.items() if k not in touched
    }
    assert [key for key in found if key in before] == list(before)
    assert found["options"]["temperature"] == 0


def test_text_that_utf_8_cannot_hold_survives() -> None:
    """A lone surrogate is sent as the escape that it came as."""
    content = b'{"model":"a","messages":[{"role":"user","content":"\\ud800 \xc3\xa9"}]}'
    chat_request = request_of("chat", content)
    found = json.loads(body_to_send(chat_request, content, settings(), OLLAMA, "0.24.0"))
    assert found["messages"][0]["content"] == "\ud800 é"
    content = '{"model":"a","prompt":"é"}'.encode()
    sent = body_to_send(request_of("generate", content), content, settings(), OLLAMA, "0.12.5")
    expected = '{"model":"a","prompt":"é","options":{"num_ctx":8192},"keep_alive":"30m"}'
    assert sent == expected.encode()


def test_the_time_that_a_model_stays_loaded_is_one_in_both_forms() -> None:
    """Ollama is told what the door counts on."""
    assert f"{KEEP_SECONDS / 60:g}m" == KEEP_ALIVE
