"""The prompt that Ollama makes of a request: the model's own messages, neighbours, thoughts, and unknown forms."""

from __future__ import annotations

from typing import Any

import pytest

from aider_guard.core.chat.request import ChatRequest, Form, Message
from aider_guard.core.readings import Unavailable
from aider_guard.counting.prompt import (
    PromptFormat,
    collate,
    depends_on_thinking,
    has_template,
    is_text_only,
    messages_of,
    read_format,
    render,
)

TEMPLATE = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"
USER = Message("user", "hi")


def chat(
    *messages: Message, form: Form = "chat", raw: str | None = None, **body: Any
) -> ChatRequest:
    """A request."""
    return ChatRequest(form, "m", messages, stream=True, raw_prompt=raw, body=body)


def test_a_card_is_what_show_says() -> None:
    """Template, system prompt, default messages, family, capabilities."""
    description = {
        "template": TEMPLATE,
        "system": "Be brief.",
        "modelfile": "FROM x\nTEMPLATE y\n",
        "messages": [{"role": "user", "content": "a"}, {"role": "user"}, "b"],
        "details": {"family": "qwen3"},
        "capabilities": ["completion", "thinking"],
    }
    prompt_format = read_format("hf.co/unsloth/Qwen3:8B", description)
    assert prompt_format == PromptFormat(
        TEMPLATE, "Be brief.", (Message("user", "a"),), "qwen3", "qwen3", thinks=True
    )
    assert has_template(prompt_format)


@pytest.mark.parametrize(
    ("description", "known"),
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
def test_where_the_template_is_not_all(description: dict[str, Any], known: bool) -> None:
    """Models without one, and those that Ollama renders by a program of its own."""
    assert has_template(read_format("m", description)) is known


@pytest.mark.parametrize(
    ("request_", "roles"),
    [
        (chat(USER), ["system:own", "assistant:said", "user:hi"]),
        (chat(Message("system", "x"), USER), ["assistant:said", "system:x", "user:hi"]),
        (chat(USER, form="generate"), ["system:own", "assistant:said", "user:hi"]),
        (
            chat(Message("system", "x"), USER, form="generate"),
            ["system:x", "assistant:said", "user:hi"],
        ),
        (chat(form="openai_text", raw="hi"), ["system:own", "assistant:said", "user:hi"]),
        # What is raw is no message:
        (chat(form="generate", raw="hi"), ["system:own", "assistant:said"]),
        (chat(Message("system", "x"), form="openai_chat"), ["assistant:said", "system:x"]),
        (chat(Message("system", "x"), form="generate"), ["system:x", "assistant:said"]),
        (chat(), ["system:own", "assistant:said"]),
    ],
)
def test_the_models_own_messages_come_first(request_: ChatRequest, roles: list[str]) -> None:
    """Its system prompt gives way to the request's, its default messages do not (server/routes.go)."""
    prompt_format = PromptFormat(TEMPLATE, "own", (Message("assistant", "said"),))
    assert [f"{one.role}:{one.content}" for one in messages_of(prompt_format, request_)] == roles


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
    for prompt_format in (
        PromptFormat(TEMPLATE, family="qwen3"),
        PromptFormat(TEMPLATE, base_name="deepseek-r1"),
    ):
        texts = [
            one.content
            for one in messages_of(prompt_format, chat(question, answer, question, answer))
        ]
        assert texts == ["?", left, "?", content]
        later = messages_of(prompt_format, chat(question, answer, question, answer, answer))
        assert [one.content for one in later] == ["?", left, "?", content, content]
        alone = messages_of(prompt_format, chat(answer, answer))
        assert [one.content for one in alone] == [content, content]
    other = messages_of(PromptFormat(TEMPLATE, family="llama"), chat(question, answer, question))
    assert other[1].content == content


@pytest.mark.parametrize(
    "request_",
    [
        chat(USER, tools=[{"type": "function"}]),
        chat(USER, images=["aGk="], form="generate"),
        chat(USER, template="x", form="generate"),
        chat(USER, suffix="}", form="generate"),
        chat(USER, context=[1, 2], form="generate"),
        chat(Message("user", "", plain=False)),
    ],
)
def test_what_holds_more_than_text_is_not_rendered(request_: ChatRequest) -> None:
    """Pictures, tools, another template."""
    assert not is_text_only(request_)
    assert isinstance(render(PromptFormat(TEMPLATE), request_, think=None), Unavailable)


def test_empty_keys_change_nothing() -> None:
    """litellm sends some."""
    request = chat(USER, tools=[], images=None, format="json")
    assert render(PromptFormat(TEMPLATE), request, think=None) == "<user>hi"


def test_a_template_that_is_not_understood_is_said() -> None:
    """Its prompts are estimated."""
    for template in (
        "{{ if }}",
        "{{ nope }}{{ .Messages }}",
        "{{ range .Messages }}{{ .Nope }}{{ end }}",
    ):
        text = render(PromptFormat(template), chat(USER), think=None)
        assert isinstance(text, Unavailable)
        assert "template" in text.reason


def test_which_templates_depend_on_thinking() -> None:
    """Those that name it."""
    assert depends_on_thinking(PromptFormat("{{ if $.IsThinkSet }}x{{ end }}"))
    assert not depends_on_thinking(PromptFormat(TEMPLATE))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<{{ .System }}|{{ .Prompt }}>{{ .Response }}!", "<s|a>b!<|c>"),
        ("<{{ .Prompt }}>", "<a>b<c>"),
        ("{{ if .Prompt }}{{ if .Prompt }}<{{ .Prompt }}>{{ .Response }}!{{ end }}?{{ end }}.", "<a>b!?.<c>"),
        ("{{ if .Think }}x{{ else }}<{{ .Prompt }}>{{ .Response }}!{{ end }}?", "<a>b!?<c>"),
        ("{{ if .IsThinkSet }}x{{ end }}<{{ .Prompt }}>{{ .Response }}!", "<a>b!<c>"),
        ("<{{ .Prompt }}>{{ .Thinking.Response }}{{ .Response }}", None),
        ("{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}", None),
    ],
)  # fmt: skip
def test_a_template_without_messages_is_written_for_each_turn(
    template: str, text: str | None
) -> None:
    """The last time up to the answer; messages of other roles are not in it."""
    turns = [
        Message(role, text) for role, text in (("user", "a"), ("tool", "t"), ("assistant", "b"))
    ]
    system, last = Message("system", "s"), Message("user", "c")
    found = render(PromptFormat(template), chat(system, *turns, last), think=None)
    assert (None if isinstance(found, Unavailable) else found) == text


@pytest.mark.parametrize(("think", "text"), [(None, "-"), (False, "set"), (True, "set think")])
def test_a_template_knows_whether_the_model_shall_think(think: bool | None, text: str) -> None:
    """And whether the request says so at all."""
    template = "{{ if .IsThinkSet }}set{{ if .Think }} think{{ end }}{{ else }}-{{ end }}"
    for more in ("", "{{ range .Messages }}{{ end }}"):
        assert render(PromptFormat(template + more), chat(USER), think=think) == text


def test_the_values_of_a_template_with_messages() -> None:
    """All system texts at once, and each message by its role."""
    template = (
        "{{ .System }}|{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}|{{ .Response }}"
    )
    system = Message("system", "s")
    text = render(PromptFormat(template), chat(system, USER, system, USER, USER), think=None)
    assert text == "s\n\ns|system:s;user:hi;system:s;user:hi\n\nhi;|"


def test_no_text_is_in_a_formats_own_words() -> None:
    """A system prompt may be the user's."""
    assert "secret" not in repr(PromptFormat("the secret", "the secret"))
