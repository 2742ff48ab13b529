"""Renders a request as Ollama does, with the model's template (template/template.go, server/routes.go)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.readings import Unavailable
from aider_guard.counting.gotemplate import (
    Action,
    Branch,
    FieldPath,
    Node,
    Pipe,
    Record,
    TemplateError,
    evaluate,
    parse,
)

_BETWEEN: Final = "\n\n"
_THOUGHT: Final = re.compile(r"\A\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
_RENDERER: Final = re.compile(r"^RENDERER\s", re.MULTILINE)
_TRIVIAL: Final = re.compile(r"\s*(?:\{\{-?\s*\.Prompt\s*-?\}\}\s*)?")
# Keys of a body that change a prompt in ways that are not known here.
_UNKNOWN_KEYS: Final = ("template", "suffix", "context", "images", "tools", "functions")


@dataclass(frozen=True)
class PromptFormat:
    """How a model's prompts are made, as ``/api/show`` describes it."""

    template: str = field(default="", repr=False)
    system: str = field(default="", repr=False)
    messages: tuple[Message, ...] = ()
    family: str = ""
    base_name: str = ""
    """The model's own name, without host, namespace and tag."""
    thinks: bool = False
    own_renderer: bool = False
    """Whether Ollama renders prompts with code of its own instead of the template."""


def read_format(name: str, description: Mapping[str, Any]) -> PromptFormat:
    """Read the format from an answer of ``/api/show``; what is missing or strange in it is empty."""
    texts = {key: description.get(key) for key in ("template", "system", "modelfile")}
    template, system, modelfile = (text if isinstance(text, str) else "" for text in texts.values())
    details, can = description.get("details"), description.get("capabilities")
    family = details.get("family") if isinstance(details, dict) else ""
    return PromptFormat(
        template,
        system,
        tuple(_default_messages(description.get("messages"))),
        family if isinstance(family, str) else "",
        name.rpartition("/")[2].partition(":")[0].lower(),
        isinstance(can, list) and "thinking" in can,
        bool(description.get("renderer")) or _RENDERER.search(modelfile) is not None,
    )


def _default_messages(entries: object) -> Iterator[Message]:
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case {"role": str(role), "content": str(content)}:
                yield Message(role, content)


def has_template(prompt_format: PromptFormat) -> bool:
    """Return whether a model's prompts are made with its template.

    Where that is only the user's text, Ollama 0.30 and later may use another one in the model's file instead.
    """
    return not prompt_format.own_renderer and _TRIVIAL.fullmatch(prompt_format.template) is None


def messages_of(prompt_format: PromptFormat, request: ChatRequest) -> tuple[Message, ...]:
    """Return the request's messages with those of the model, as its template gets them."""
    messages = request.messages
    if request.form == "openai_text" and request.raw_prompt is not None:
        messages = (Message("user", request.raw_prompt),)
    own_system = messages[:1] if messages and messages[0].role == "system" else ()
    default = (Message("system", prompt_format.system),) if prompt_format.system else ()
    system = own_system or default
    if request.form in ("chat", "openai_chat"):
        first = () if own_system else default
        return without_thoughts(prompt_format, (*first, *prompt_format.messages, *messages))
    return (*system, *prompt_format.messages, *messages[len(own_system) :])


def without_thoughts(
    prompt_format: PromptFormat, messages: Sequence[Message]
) -> tuple[Message, ...]:
    """Drop the thoughts from earlier answers, as Ollama does for some models."""
    if prompt_format.family != "qwen3" and prompt_format.base_name != "deepseek-r1":
        return tuple(messages)
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    last = users[-1] if users else 0
    return tuple(
        replace(message, content=_THOUGHT.sub("", message.content))
        if message.role == "assistant" and index < last
        else message
        for index, message in enumerate(messages)
    )


def render(
    prompt_format: PromptFormat, request: ChatRequest, *, think: bool | None
) -> str | Unavailable:
    """Return the text of the prompt. ``think``: whether the model shall think, None where it is not said."""
    if not is_text_only(request):
        return Unavailable("the prompt holds more than text")
    messages = messages_of(prompt_format, request)
    try:
        tree, names = _parsed(prompt_format.template)
        thinking = {"Think": think is True, "IsThinkSet": think is not None, "ThinkLevel": ""}
        merged = collate(messages)
        if "messages" in names:
            return evaluate(tree, {**_chat_values(messages, merged), **thinking})
        return "".join(_turn_by_turn(tree, merged, thinking))
    except (TemplateError, RecursionError) as error:
        return Unavailable(f"the model's template is not understood ({error})")


def is_text_only(request: ChatRequest) -> bool:
    """Return whether a prompt is made of nothing but its messages and the model's template."""
    has_more = any(request.body.get(key) for key in _UNKNOWN_KEYS)
    return not has_more and all(message.plain for message in request.messages)


def depends_on_thinking(prompt_format: PromptFormat) -> bool:
    """Return whether a model's prompts depend on whether it shall think."""
    return "Think" in prompt_format.template


@lru_cache
def _parsed(template: str) -> tuple[tuple[Node, ...], frozenset[str]]:
    """Return the tree and the names in it. Ollama adds the answer to a template that does not name it."""
    tree = parse(template)
    names = frozenset(name.lower() for name in _names(tree))
    if not names & {"messages", "response"}:
        tree = (*tree, Action(Pipe(((FieldPath("", ("Response",)),),))))
    return tree, names


def _names(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        match node:
            case Action(pipe):
                yield from _names_in(pipe)
            case Branch(_, pipe, body, otherwise):
                yield from _names_in(pipe)
                yield from _names((*body, *otherwise))


def _names_in(pipe: Pipe) -> Iterator[str]:
    for operand in chain(*pipe.commands):
        match operand:
            case FieldPath(Pipe() as inner, ()):
                yield from _names_in(inner)
            case FieldPath(str(), fields):
                yield from fields


def collate(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Join neighbouring messages of one role, but for answers of tools."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role != "tool":
            content = f"{merged[-1].content}{_BETWEEN}{message.content}"
            merged[-1] = replace(message, content=content)
        else:
            merged.append(message)
    return tuple(merged)


def _chat_values(messages: Sequence[Message], merged: Sequence[Message]) -> dict[str, Any]:
    systems = [message.content for message in messages if message.role == "system"]
    empty = {"Thinking": "", "Images": (), "ToolCalls": (), "ToolName": ""}
    records = [Record(Role=entry.role, Content=entry.content, **empty) for entry in merged]
    return {"System": _BETWEEN.join(systems), "Messages": records, "Tools": (), "Response": ""}


def _turn_by_turn(
    tree: Sequence[Node], messages: Sequence[Message], thinking: Mapping[str, Any]
) -> Iterator[str]:
    """Evaluate a template without messages for each question with its answer, the last time only up to the answer."""
    turn = {"System": "", "Prompt": "", "Response": ""}
    fields = {"system": "System", "user": "Prompt", "assistant": "Response"}
    for message in messages:
        if (name := fields.get(message.role)) is None:
            continue
        earlier = {"System": turn["Prompt"] or turn["Response"], "Prompt": turn["Response"]}
        if earlier.get(name):
            yield evaluate(tree, {**turn, **thinking})
            turn = dict.fromkeys(turn, "")
        turn[name] = message.content
    yield evaluate(_upto_response(tree)[0], {**turn, **thinking})


def _upto_response(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """Return the nodes up to the one that writes the answer, and whether there was one.

    Raises ``TemplateError`` where it is written in a branch that has another one beside it: Ollama fails there.
    """
    kept: list[Node] = []
    for node in nodes:
        match node:
            case Action(pipe):
                kept.append(node)
                paths = [part for part in chain(*pipe.commands) if isinstance(part, FieldPath)]
                if any(path.start == "" and "Response" in path.fields for path in paths):
                    return tuple(kept), True
            case Branch(kind, pipe, body, otherwise):
                body, in_body = _upto_response(body)
                if in_body and otherwise:
                    raise TemplateError("an answer in one of two branches")
                otherwise, in_otherwise = _upto_response(otherwise)
                kept.append(Branch(kind, pipe, body, otherwise))
                if in_body or in_otherwise:
                    return tuple(kept), True
            case _:
                kept.append(node)
    return tuple(kept), False
