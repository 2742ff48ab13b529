"""Bytes of a request → what is asked. The protocols are Ollama's api/types.go and OpenAI's.

Ollama reads a body with Go's decoder: the first JSON value, invalid UTF-8 replaced, names of fields in any case. What
it would understand must be understood here too, or a name could pass unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aider_guard.core.chat.types import DoorSettings, Purpose, RoleName
from aider_guard.core.model_names import same_model

# The door's own answers, and what of a later prompt goes with them: the model never sees any of it.

PREFIX: Final = "aider-guard: "
"""Every answer of the door's own begins so."""

_SAID_AFTER_EDITING: Final = ("I made those changes to the files.", "Ok.")
"""What Aider's architect mode adds to the chat after its editor ran, also when that had nothing to do."""


def is_own(text: str) -> bool:
    """Whether a text is an answer of the door's own."""
    return text.lstrip().startswith(PREFIX)


def visible_places(messages: Sequence[tuple[str, str]], leave_out: int = 0) -> tuple[int, ...]:
    """Which of these messages (role and content) the model is to see, by their places.

    Not the door's answers; not the message that was answered so when the user sent it once more (it would be in the
    prompt twice, and may be the very thing that was too large); not what Aider says of edits that were not made; and
    not the oldest ``leave_out`` of those that are ``unanswered``.
    """
    left_out = unanswered_places(messages)[:leave_out]
    return tuple(place for place in _visible_places(messages) if place not in left_out)


def unanswered_places(messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """The places of the user's messages that no model has seen: the door answered each itself. Oldest first."""
    places = range(len(messages) - 1)
    answered = (place for place in places if _is_answer(messages[place + 1]))
    mine = {
        place for place in answered if messages[place][0] == "user" and messages[place][1].strip()
    }
    return tuple(place for place in _visible_places(messages) if place in mine)


def _is_answer(message: tuple[str, str]) -> bool:
    return message[0] == "assistant" and is_own(message[1])


def _visible_places(messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    gone: set[int] = set()
    for place, message in enumerate(messages):
        if not _is_answer(message):
            continue
        gone.add(place)
        after = messages[place + 1 : place + 3]
        if after == [("user", _SAID_AFTER_EDITING[0]), ("assistant", _SAID_AFTER_EDITING[1])]:
            gone |= {place + 1, place + 2}
            after = messages[place + 3 : place + 4]
        if place and after and _sent_again(messages[place - 1], after[0]):
            gone.add(place - 1)
    return tuple(place for place in range(len(messages)) if place not in gone)


def _sent_again(earlier: tuple[str, str], later: tuple[str, str]) -> bool:
    """Aider may add its reminder of the edit format to the newest message, after an empty line."""
    if earlier[0] != "user" or later[0] != "user" or not earlier[1].strip():
        return False
    return later[1] == earlier[1] or later[1].startswith(f"{earlier[1]}\n\n")


# A request for text, understood: which model, what for, and the prompt's messages.

Form = Literal["chat", "generate", "openai_chat", "openai_text"]
"""The protocol: ``/api/chat``, ``/api/generate``, ``/v1/chat/completions`` and ``/v1/completions``."""


@dataclass(frozen=True)
class Message:
    """One message of a prompt. ``plain`` is whether ``content`` is all of it: no images, no calls of tools."""

    role: str
    content: str = field(repr=False)
    plain: bool = True


@dataclass(frozen=True)
class ChatRequest:
    """A request for text. A ``generate`` request without ``raw`` has its system text and prompt as messages, one with
    ``raw`` (and ``openai_text``) has ``raw_prompt`` instead.
    """

    form: Form
    model: str
    messages: tuple[Message, ...]
    stream: bool
    role: RoleName = "main"
    purpose: Purpose = "other"
    raw_prompt: str | None = field(default=None, repr=False)
    num_ctx: int = 0
    """What the request itself asks for; 0 for nothing."""
    num_predict: int = 0
    """The longest answer that the request asks for, in tokens; 0 for no limit."""
    has_tools: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole body, decoded."""


# Conversations that were made one text, and their messages again.
#
# litellm sends ``ollama/`` models one prompt for ``/api/generate`` (``ollama_pt``: a heading for each role, consecutive
# messages of the user merged), and Aider puts a conversation to summarise into one message (``history.py``). The blocks
# are a partition of the text: nothing of it is in two of them, and nothing in none.

_PROMPT: Final = re.compile(r"(?:\A|(?<=\n\n))### (User|System|Assistant):\n")
_SUMMARY_BLOCK: Final = re.compile(r"^# (USER|ASSISTANT)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One message in a text: ``whole`` is with its heading, ``content`` what was said."""

    role: str
    whole: str = field(repr=False)
    content: str = field(repr=False)


def prompt_blocks(text: str) -> tuple[Block, ...]:
    """The messages of a prompt that litellm flattened; one message of the user when it is none."""
    return _blocks(text, _PROMPT) or (Block("user", text, text),)


def summary_blocks(text: str) -> tuple[Block, ...]:
    """The messages of a conversation that Aider wants summarised; none when it is no such text."""
    return _blocks(text, _SUMMARY_BLOCK)


def _blocks(text: str, heading: re.Pattern[str]) -> tuple[Block, ...]:
    matches = list(heading.finditer(text))
    if not matches or matches[0].start():
        return ()
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return tuple(
        Block(
            match.group(1).lower(),
            text[match.start() : end],
            text[match.end() : end].removesuffix("\n\n"),
        )
        for match, end in zip(matches, ends, strict=True)
    )


# What Aider wants of a model, seen by the shape of the prompt.
#
# The phrases are from Aider's ``prompts.py`` and ``coders/*_prompts.py``, the same from 0.80 to 0.86. They are looked
# for in the system text alone, anywhere in it: a model's settings may put a prefix before it.

_COMMIT: Final = "expert software engineer that generates concise, one-line Git commit messages"
_DIFFS: Final = "# Diffs:\n"
_SUMMARY_PROMPT: Final = "*Briefly* summarize this partial conversation about programming."
_EDITORS: Final = (
    "Act as an expert software developer who edits source code.",
    "Act as an expert software developer and make changes to source code.",
)
_FENCED_EDITOR_WITH: Final = "ONLY EVER RETURN CODE IN A *SEARCH/REPLACE BLOCK*!"
_FENCED_EDITOR_WITHOUT: Final = (
    "*Concisely* suggest any shell commands",
    "Keep in mind these details about the user's platform and environment:",
)
"""``editor-diff-fenced`` is ``diff-fenced`` without any words on the shell or the platform."""
_CHAT: Final = ("Act as an expert", "You are an expert on the AI coding tool called Aider.")
_CONTEXT: Final = (
    "solely to determine ALL the existing sources files which will need to be modified"
)
_NO_SYSTEM_REPLY: Final = "Ok."


def system_text(messages: Sequence[Message]) -> str:
    """The system text of a prompt; "" for none. With ``use_system_prompt: false`` it is the user's first message,
    answered by "Ok.".
    """
    match messages:
        case [Message("system", content), *_]:
            return content
        case [Message("user", content), Message("assistant", reply), _, *_] if (
            reply == _NO_SYSTEM_REPLY
        ):
            return content
        case _:
            return ""


def purpose(messages: Sequence[Message], *, stream: bool) -> Purpose:
    """What a request is for; ``other`` when it is none of Aider's."""
    system = system_text(messages)
    if not stream and len(messages) == 2:  # simple_send_with_retries: system text and one message
        if _SUMMARY_PROMPT in system:
            return "summary"
        # A user may have a prompt for commit messages of his own (--commit-prompt): the diffs show it.
        if _COMMIT in system or _has_diffs(messages[1].content):
            return "commit"
    if any(phrase in system for phrase in _EDITORS) or _is_fenced_editor(system):
        return "edit"
    return "chat" if any(phrase in system for phrase in _CHAT) else "other"


def wants_files_only(messages: Sequence[Message]) -> bool:
    """Whether Aider takes every file that the answer names into the chat, and drops all others (context mode)."""
    return _CONTEXT in system_text(messages)


def _has_diffs(content: str) -> bool:
    return content.startswith(_DIFFS) or f"\n{_DIFFS}" in content


def _is_fenced_editor(system: str) -> bool:
    return _FENCED_EDITOR_WITH in system and not any(
        phrase in system for phrase in _FENCED_EDITOR_WITHOUT
    )


FORMS: Final[Mapping[str, Form]] = {
    "/api/chat": "chat",
    "/api/generate": "generate",
    "/v1/chat/completions": "openai_chat",
    "/v1/completions": "openai_text",
    # Behind another base, which ends where OpenAI's own does (…/v1):
    "/chat/completions": "openai_chat",
    "/completions": "openai_text",
}
"""The paths of requests for text."""


def decode_body(body: bytes) -> dict[str, Any] | None:
    """The JSON object of a body as Go's decoder reads it; None where it cannot be told what that would read.

    Besides what is no object that is a number of thousands of digits, what is nested too deeply, and an object with a
    field twice: of two values Go takes the last, but not if that is ``null``.
    """
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_fields)


def read(
    form: Form, body: Mapping[str, Any], settings: DoorSettings, upstream_path: str
) -> ChatRequest:
    """What a decoded body asks for. What is not of the type that it should be is taken as not there."""
    model = _text(body.get("model"))
    all_messages = tuple(_messages(form, body))
    messages = tuple(
        all_messages[place] for place in visible_places([(m.role, m.content) for m in all_messages])
    )
    stream = _streams(form, body)
    request_purpose = purpose(_unflattened(form, body, messages), stream=stream)
    options = _mapping(body.get("options"))
    return ChatRequest(
        form=form,
        model=model,
        messages=messages,
        stream=stream,
        role=_role(model, request_purpose, settings, upstream_path),
        purpose=request_purpose,
        raw_prompt=_raw_prompt(form, body),
        num_ctx=_positive(options.get("num_ctx")),
        num_predict=_longest_answer(form, body, options),
        has_tools=bool(body.get("tools") or body.get("functions")),
        body=body,
    )


def asks_for_nothing(request: ChatRequest) -> bool:
    """Whether the request only loads or unloads a model (Ollama's routes.go: an empty prompt, no messages)."""
    if request.form == "generate":
        return not request.body.get("prompt") and not request.body.get("images")
    return request.form == "chat" and not request.body.get("messages")


def conversation(request: ChatRequest) -> tuple[Message, ...]:
    """The messages of a prompt, also where litellm had flattened them into one."""
    return _unflattened(request.form, request.body, request.messages)


def _messages(form: Form, body: Mapping[str, Any]) -> Sequence[Message]:
    match form:
        case "generate" if body.get("raw") is not True:
            plain = not (body.get("images") or body.get("context") or body.get("suffix"))
            parts = (("system", _text(body.get("system")), True), ("user", _prompt(body), plain))
            return [Message(role, text, fine) for role, text, fine in parts if text or not fine]
        case "chat" | "openai_chat":
            matches = body.get("messages")
            return [_message(one) for one in matches] if isinstance(matches, list) else []
        case _:
            return []


def _message(value: object) -> Message:
    match value:
        case {"role": str(role), "content": str(content), **more}:
            return Message(role, content, not any(more.values()))
        case {"role": str(role), "content": list(parts), **more}:
            texts = [part["text"] for part in parts if _is_text(part)]
            return Message(
                role, "".join(texts), len(texts) == len(parts) and not any(more.values())
            )
        case {"role": str(role)}:
            return Message(role, "", plain=False)
        case _:
            return Message("", "", plain=False)


def _is_text(part: object) -> bool:
    match part:
        case {"type": "text", "text": str()}:
            return True
        case _:
            return False


def _unflattened(
    form: Form, body: Mapping[str, Any], messages: tuple[Message, ...]
) -> tuple[Message, ...]:
    """A flattened prompt's messages, without the door's own answers; else the messages as they are."""
    if form != "generate" or len(messages) != 1 or body.get("system"):
        return messages
    blocks = prompt_blocks(messages[0].content)
    return tuple(Message(block.role, block.content, messages[0].plain) for block in blocks)


def _prompt(body: Mapping[str, Any]) -> str:
    return without_own_answers(_text(body.get("prompt")))


def without_own_answers(prompt: str, leave_out: int = 0) -> str:
    """A flattened prompt without the door's own answers (own.kept); the very text where there are none."""
    if PREFIX not in prompt:
        return prompt
    blocks = prompt_blocks(prompt)
    places = visible_places([(block.role, block.content) for block in blocks], leave_out)
    return prompt if len(places) == len(blocks) else "".join(blocks[p].whole for p in places)


def _raw_prompt(form: Form, body: Mapping[str, Any]) -> str | None:
    if form == "openai_text" or (form == "generate" and body.get("raw") is True):
        return _text(body.get("prompt"))
    return None


def _streams(form: Form, body: Mapping[str, Any]) -> bool:
    """Ollama's own protocol streams unless told otherwise, OpenAI's only when told so."""
    return (
        body.get("stream") is not False
        if form in ("chat", "generate")
        else body.get("stream") is True
    )


def _role(
    model: str, request_purpose: Purpose, settings: DoorSettings, upstream_path: str
) -> RoleName:
    match request_purpose:
        case "commit" | "summary":
            return "weak"
        case "edit":
            return "editor"
    mine = [
        one for one in settings.roles if one.path == upstream_path and same_model(one.model, model)
    ]
    roles = {one.role for one in mine}
    return next((role for role in ("main", "editor", "weak") if role in roles), "main")


def _longest_answer(form: Form, body: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    if form in ("chat", "generate"):
        return _positive(options.get("num_predict"))
    return _positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
