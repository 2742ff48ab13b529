"""A request → the text that Ollama makes of it with the model's template (template/template.go, server/routes.go)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
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
# What changes a prompt in ways that are not known here.
_STRANGE_KEYS: Final = ("template", "suffix", "context", "images", "tools", "functions")


@dataclass(frozen=True)
class PromptFormat:
    """What ``/api/show`` says of how a model's prompts are made."""

    template: str = field(default="", repr=False)
    system: str = field(default="", repr=False)
    messages: tuple[Message, ...] = ()
    family: str = ""
    base_name: str = ""
    """The model's own name, without where it comes from and its tag."""
    thinks: bool = False
    own_renderer: bool = False
    """Whether Ollama renders prompts by a program of its own instead of the template."""


def card_of(name: str, shown: Mapping[str, Any]) -> PromptFormat:
    """The card in an answer of ``/api/show``; what is missing or strange in it is empty."""
    texts = {key: shown.get(key) for key in ("template", "system", "modelfile")}
    template, system, modelfile = (text if isinstance(text, str) else "" for text in texts.values())
    details, can = shown.get("details"), shown.get("capabilities")
    family = details.get("family") if isinstance(details, dict) else ""
    return PromptFormat(
        template,
        system,
        tuple(_default_messages(shown.get("messages"))),
        family if isinstance(family, str) else "",
        name.rpartition("/")[2].partition(":")[0].lower(),
        isinstance(can, list) and "thinking" in can,
        bool(shown.get("renderer")) or _RENDERER.search(modelfile) is not None,
    )


def _default_messages(entries: object) -> Iterator[Message]:
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case {"role": str(role), "content": str(content)}:
                yield Message(role, content)


def has_template(card: PromptFormat) -> bool:
    """Whether the prompts of a model are those of its template. Where it is only the user's text, Ollama 0.30 and
    later may use another one in the model's file instead.
    """
    return not card.own_renderer and _TRIVIAL.fullmatch(card.template) is None


def messages_of(card: PromptFormat, asked: ChatRequest) -> tuple[Message, ...]:
    """The request's messages with those of the model, as they come to its template."""
    messages = asked.messages
    if asked.form == "openai_text" and asked.raw_prompt is not None:
        messages = (Message("user", asked.raw_prompt),)
    own_system = messages[:1] if messages and messages[0].role == "system" else ()
    system = own_system or ((Message("system", card.system),) if card.system else ())
    if asked.form in ("chat", "openai_chat"):
        if own_system:
            return without_thoughts(card, (*card.messages, *messages))
        return without_thoughts(card, (*system, *card.messages, *messages))
    return (*system, *card.messages, *messages[len(own_system) :])


def without_thoughts(card: PromptFormat, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages as Ollama hands them on: the thoughts in earlier answers of some models are dropped."""
    if card.family != "qwen3" and card.base_name != "deepseek-r1":
        return tuple(messages)
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    last = users[-1] if users else 0
    return tuple(
        replace(message, content=_THOUGHT.sub("", message.content))
        if message.role == "assistant" and index < last
        else message
        for index, message in enumerate(messages)
    )


def render(card: PromptFormat, asked: ChatRequest, *, think: bool | None) -> str | Unavailable:
    """The text of the prompt. ``think`` is whether the model shall think, None where nobody says."""
    if not is_text_only(asked):
        return Unavailable("the prompt holds more than text")
    messages = messages_of(card, asked)
    try:
        tree, names = _parsed(card.template)
        known = {"Think": think is True, "IsThinkSet": think is not None, "ThinkLevel": ""}
        merged = collate(messages)
        if "messages" in names:
            return evaluate(tree, {**_chat_values(messages, merged), **known})
        return "".join(_turn_by_turn(tree, merged, known))
    except (TemplateError, RecursionError) as error:
        return Unavailable(f"the model's template is not understood ({error})")


def is_text_only(asked: ChatRequest) -> bool:
    """Whether a prompt is made of nothing but its messages and the model's template."""
    more = any(asked.body.get(key) for key in _STRANGE_KEYS)
    return not more and all(message.plain for message in asked.messages)


def depends_on_thinking(card: PromptFormat) -> bool:
    """Whether it matters to a model's prompts if it shall think."""
    return "Think" in card.template


@lru_cache(maxsize=16)
def _parsed(template: str) -> tuple[tuple[Node, ...], frozenset[str]]:
    """The tree and the names in it. Ollama adds the answer to a template that does not name it."""
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
    for operand in (operand for command in pipe.commands for operand in command):
        match operand:
            case FieldPath(Pipe() as inner, ()):
                yield from _names_in(inner)
            case FieldPath(str(), fields):
                yield from fields


def collate(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages in which neighbours of one role are one, but for answers of tools."""
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
    return {
        "System": _BETWEEN.join(systems),
        "Messages": [_record(message) for message in merged],
        "Tools": (),
        "Response": "",
    }


def _record(message: Message) -> Record:
    return Record(
        Role=message.role,
        Content=message.content,
        Thinking="",
        Images=(),
        ToolCalls=(),
        ToolName="",
    )


def _turn_by_turn(
    tree: Sequence[Node], messages: Sequence[Message], known: Mapping[str, Any]
) -> Iterator[str]:
    """A template without messages is evaluated for each question with its answer, the last time only up to it."""
    turn = {"System": "", "Prompt": "", "Response": ""}
    fields = {"system": "System", "user": "Prompt", "assistant": "Response"}
    for message in messages:
        name = fields.get(message.role)
        if name is None:
            continue
        begun = {"System": turn["Prompt"] or turn["Response"], "Prompt": turn["Response"]}
        if begun.get(name):
            yield evaluate(tree, {**turn, **known})
            turn = dict.fromkeys(turn, "")
        turn[name] = message.content
    yield evaluate(_upto_response(tree)[0], {**turn, **known})


def _upto_response(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """The nodes up to the one that writes the answer, and whether there was one.

    Raises ``TemplateError`` where it is written in a branch that has another one beside it: Ollama fails there.
    """
    kept: list[Node] = []
    for node in nodes:
        match node:
            case Action(pipe):
                kept.append(node)
                if any(
                    _writes_response(operand) for command in pipe.commands for operand in command
                ):
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


def _writes_response(operand: object) -> bool:
    return isinstance(operand, FieldPath) and operand.start == "" and "Response" in operand.fields
