"""The text that Ollama makes of a request: the model's own messages, neighbours, thoughts, and what is not known."""

from __future__ import annotations

from typing import Any

import pytest

from aider_guard.core.chat.request import ChatRequest, Form, Message
from aider_guard.core.readings import Unavailable
from aider_guard.counting.prompt import (
    PromptFormat,
    card_of,
    collate,
    depends_on_thinking,
    has_template,
    is_text_only,
    messages_of,
    render,
)

TEMPLATE = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"
USER = Message("user", "hi")


def asked(
    *messages: Message, form: Form = "chat", raw: str | None = None, **body: Any
) -> ChatRequest:
    """A request."""
    return ChatRequest(form, "m", messages, stream=True, raw_prompt=raw, body=body)


def test_a_card_is_what_show_says() -> None:
    """Template, system prompt, default messages, family, capabilities."""
    shown = {
        "template": TEMPLATE,
        "system": "Be brief.",
        "modelfile": "FROM x\nTEMPLATE y\n",
        "messages": [{"role": "user", "content": "a"}, {"role": "user"}, "b"],
        "details": {"family": "qwen3"},
        "capabilities": ["completion", "thinking"],
    }
    card = card_of("hf.co/unsloth/Qwen3:8B", shown)
    assert card == PromptFormat(
        TEMPLATE, "Be brief.", (Message("user", "a"),), "qwen3", "qwen3", thinks=True
    )
    assert has_template(card)


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        ({}, False),
        ({"template": "{{ .Prompt }}"}, False),
        ({"template": " {{- .Prompt -}} "}, False),
        ({"template": "<s>{{ .Prompt }}"}, True),
        ({"template": TEMPLATE, "modelfile": "FROM x\nRENDERER qwen3-coder\n"}, False),
        ({"template": TEMPLATE, "renderer": "qwen3-coder"}, False),
        ({"template": 7, "modelfile": None, "details": [], "capabilities": "thinking"}, False),
    ],
)
def test_where_the_template_is_not_all(shown: dict[str, Any], known: bool) -> None:
    """Models without one, and those that Ollama renders by a program of its own."""
    assert has_template(card_of("m", shown)) is known


@pytest.mark.parametrize(
    ("request_", "roles"),
    [
        (asked(USER), ["system:own", "assistant:said", "user:hi"]),
        (asked(Message("system", "x"), USER), ["assistant:said", "system:x", "user:hi"]),
        (asked(USER, form="generate"), ["system:own", "assistant:said", "user:hi"]),
        (
            asked(Message("system", "x"), USER, form="generate"),
            ["system:x", "assistant:said", "user:hi"],
        ),
        (asked(form="openai_text", raw="hi"), ["system:own", "assistant:said", "user:hi"]),
    ],
)
def test_the_models_own_messages_come_first(request_: ChatRequest, roles: list[str]) -> None:
    """Its system prompt gives way to the request's, its default messages do not (server/routes.go)."""
    card = PromptFormat(TEMPLATE, "own", (Message("assistant", "said"),))
    assert [f"{one.role}:{one.content}" for one in messages_of(card, request_)] == roles


def test_neighbours_are_one_message() -> None:
    """But for answers of tools."""
    messages = [Message(role, role[0]) for role in ("user", "user", "tool", "tool", "user")]
    assert [(one.role, one.content) for one in collate(messages)] == [
        ("user", "u\n\nu"),
        ("tool", "t"),
        ("tool", "t"),
        ("user", "u"),
    ]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("<think>a\nb</think>\n\nSo.", "So."),
        ("\n <think></think>So.", "So."),
        ("<think>never ended", ""),
        ("So <think>a</think>.", "So <think>a</think>."),
        ("So.", "So."),
    ],
)
def test_earlier_thoughts_are_dropped(content: str, left: str) -> None:
    """Of the models for which Ollama does so, in answers before the last question."""
    question, answer = Message("user", "?"), Message("assistant", content)
    for card in (
        PromptFormat(TEMPLATE, family="qwen3"),
        PromptFormat(TEMPLATE, base_name="deepseek-r1"),
    ):
        texts = [
            one.content for one in messages_of(card, asked(question, answer, question, answer))
        ]
        assert texts == ["?", left, "?", content]
    other = messages_of(PromptFormat(TEMPLATE, family="llama"), asked(question, answer, question))
    assert other[1].content == content


@pytest.mark.parametrize(
    "request_",
    [
        asked(USER, tools=[{"type": "function"}]),
        asked(USER, images=["aGk="], form="generate"),
        asked(USER, template="x", form="generate"),
        asked(USER, suffix="}", form="generate"),
        asked(USER, context=[1, 2], form="generate"),
        asked(Message("user", "", plain=False)),
    ],
)
def test_what_holds_more_than_text_is_not_rendered(request_: ChatRequest) -> None:
    """Pictures, tools, another template."""
    assert not is_text_only(request_)
    assert isinstance(render(PromptFormat(TEMPLATE), request_, think=None), Unavailable)


def test_empty_keys_change_nothing() -> None:
    """litellm sends some."""
    request = asked(USER, tools=[], images=None, format="json")
    assert render(PromptFormat(TEMPLATE), request, think=None) == "<user>hi"


def test_a_template_that_is_not_understood_is_said() -> None:
    """Its prompts are estimated."""
    for template in (
        "{{ if }}",
        "{{ nope }}{{ .Messages }}",
        "{{ range .Messages }}{{ .Nope }}{{ end }}",
    ):
        text = render(PromptFormat(template), asked(USER), think=None)
        assert isinstance(text, Unavailable)
        assert "template" in text.reason


def test_which_templates_depend_on_thinking() -> None:
    """Those that name it."""
    assert depends_on_thinking(PromptFormat("{{ if $.IsThinkSet }}x{{ end }}"))
    assert not depends_on_thinking(PromptFormat(TEMPLATE))
