"""Parses a request for text: its protocol, model, messages and purpose, without the door's own answers in it.

The protocols are Ollama's (api/types.go) and OpenAI's. Ollama reads a body with Go's decoder: the first JSON value,
invalid UTF-8 replaced, names of fields in any case. Whatever Ollama would read must be read here too, or the name of a
cloud model could pass unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aider_guard.core.chat.types import OLLAMAS_OPENAI_PATH, DoorSettings, Purpose, RoleName
from aider_guard.core.model_names import same_model

# The door's own answers, and the messages of later prompts that are removed with them, so that no model sees them.

PREFIX: Final = "aider-guard: "
"""The first characters of every answer that the door gives itself."""

_SAID_AFTER_EDITING: Final = ("I made those changes to the files.", "Ok.")
"""What Aider's architect mode adds to the chat after its editor ran, even if it changed nothing."""


def is_own(text: str) -> bool:
    """Whether the door itself gave this answer."""
    return text.lstrip().startswith(PREFIX)


def visible_places(messages: Sequence[tuple[str, str]], leave_out: int = 0) -> tuple[int, ...]:
    """Return the indices of the messages (role and content) that the model is to see.

    These are left out: the door's answers; a message that the door answered and the user then sent again (it would be
    in the prompt twice, and may be what was too large); Aider's report of edits that were not made; and the oldest
    ``leave_out`` of the ``unanswered_places``.
    """
    left_out = unanswered_places(messages)[:leave_out]
    return tuple(place for place in _visible_places(messages) if place not in left_out)


def unanswered_places(messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Return the indices of the user's messages that no model saw, because the door answered them, oldest first."""
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
            after = messages[place + 3 :]
        if place and after and _sent_again(messages[place - 1], after[0]):
            gone.add(place - 1)
    return tuple(place for place in range(len(messages)) if place not in gone)


def _sent_again(earlier: tuple[str, str], later: tuple[str, str]) -> bool:
    """Whether the user sent the same message again; Aider may append its reminder of the edit format to the newest."""
    if earlier[0] != "user" or later[0] != "user" or not earlier[1].strip():
        return False
    return later[1] == earlier[1] or later[1].startswith(f"{earlier[1]}\n\n")


Form = Literal["chat", "generate", "openai_chat", "openai_text"]
"""The protocol of a request: ``/api/chat``, ``/api/generate``, ``/v1/chat/completions`` and ``/v1/completions``."""


@dataclass(frozen=True)
class Message:
    """One message of a prompt. ``plain`` is whether it holds nothing but ``content``: no images, no tool calls."""

    role: str
    content: str = field(repr=False)
    plain: bool = True


@dataclass(frozen=True)
class ChatRequest:
    """A parsed request for text.

    A ``generate`` request without ``raw`` has its system text and prompt as messages; one with ``raw``, and any
    ``openai_text`` request, has ``raw_prompt`` instead.
    """

    form: Form
    model: str
    messages: tuple[Message, ...]
    stream: bool
    role: RoleName = "main"
    purpose: Purpose = "other"
    raw_prompt: str | None = field(default=None, repr=False)
    num_ctx: int = 0
    """The window that the request itself asks for; 0 for none."""
    num_predict: int = 0
    """The longest answer that the request asks for, in tokens; 0 for no limit."""
    has_tools: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole body, decoded."""


# Splitting a conversation that was flattened into one text.
#
# litellm sends ``ollama/`` models one prompt for ``/api/generate`` (``ollama_pt``: a heading for each role, consecutive
# messages of the user merged), and Aider puts a conversation to summarise into one message (``history.py``). Each
# character of the text is in exactly one block.

_PROMPT: Final = re.compile(r"(?:\A|(?<=\n\n))### (User|System|Assistant):\n")
_SUMMARY_BLOCK: Final = re.compile(r"^# (USER|ASSISTANT)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One message in a flattened text: ``whole`` has its heading, ``content`` has not."""

    role: str
    whole: str = field(repr=False)
    content: str = field(repr=False)


def prompt_blocks(text: str) -> tuple[Block, ...]:
    """Return the messages of a prompt that litellm flattened; any other text is one message of the user."""
    return _blocks(text, _PROMPT) or (Block("user", text, text),)


def summary_blocks(text: str) -> tuple[Block, ...]:
    """Return the messages of a conversation that Aider wants summarised; none when the text is no such one."""
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


# The purpose of a request, recognised by phrases in its system text.
#
# The phrases are from Aider's ``prompts.py`` and ``coders/*_prompts.py``, the same from 0.80 to 0.86. They may stand
# anywhere in the system text, as a model's settings may put a prefix before it.

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
"""The prompt of ``editor-diff-fenced`` is that of ``diff-fenced`` without these."""
_CHAT: Final = ("Act as an expert", "You are an expert on the AI coding tool called Aider.")
_CONTEXT: Final = (
    "solely to determine ALL the existing sources files which will need to be modified"
)


def system_text(messages: Sequence[Message]) -> str:
    """Return the system text of a prompt, "" for none.

    With ``use_system_prompt: false`` it is the user's first message, answered by "Ok.".
    """
    match messages:
        case [Message("system", content), *_]:
            return content
        case [Message("user", content), Message("assistant", "Ok."), _, *_]:
            return content
    return ""


def purpose(messages: Sequence[Message], *, stream: bool) -> Purpose:
    """Return what a request is for; ``other`` when no prompt of Aider's is recognised."""
    system = system_text(messages)
    if not stream and len(messages) == 2:  # simple_send_with_retries: system text and one message
        if _SUMMARY_PROMPT in system:
            return "summary"
        # With a prompt of the user's own (--commit-prompt) only the diffs show it.
        if _COMMIT in system or f"\n{_DIFFS}" in f"\n{messages[1].content}":
            return "commit"
    is_fenced = _FENCED_EDITOR_WITH in system and not any(
        phrase in system for phrase in _FENCED_EDITOR_WITHOUT
    )
    if is_fenced or any(phrase in system for phrase in _EDITORS):
        return "edit"
    return "chat" if any(phrase in system for phrase in _CHAT) else "other"


def wants_files_only(messages: Sequence[Message]) -> bool:
    """Whether Aider adds every file that the answer names to the chat, and drops all others (context mode)."""
    return _CONTEXT in system_text(messages)


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
    """Return the JSON object of a body as Go's decoder reads it; None where that is not certain.

    It is not for a body that is no object, has a number of thousands of digits, is nested too deeply, or has a field
    twice: of two values Go takes the last, but not if that is ``null``.
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
    """Return the parsed request of a decoded body. A field with a value of another type counts as missing."""
    model = _text(body.get("model"))
    all_messages = tuple(_messages(form, body))
    messages = tuple(
        all_messages[place] for place in visible_places([(m.role, m.content) for m in all_messages])
    )
    # An answer is a stream by default in Ollama's protocol, on request in OpenAI's.
    streams = body.get("stream")
    stream = streams is not False if form in ("chat", "generate") else streams is True
    is_raw = form == "openai_text" or (form == "generate" and body.get("raw") is True)
    request_purpose = purpose(_unflattened(form, body, messages), stream=stream)
    options = body.get("options")
    options = options if isinstance(options, dict) else {}
    return ChatRequest(
        form=form,
        model=model,
        messages=messages,
        stream=stream,
        role=_role(model, request_purpose, settings, role_path(form, upstream_path)),
        purpose=request_purpose,
        raw_prompt=_text(body.get("prompt")) if is_raw else None,
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
    """Return the messages of a prompt, also of one that litellm flattened."""
    return _unflattened(request.form, request.body, request.messages)


def _messages(form: Form, body: Mapping[str, Any]) -> Sequence[Message]:
    match form:
        case "generate" if body.get("raw") is not True:
            plain = not (body.get("images") or body.get("context") or body.get("suffix"))
            prompt = without_own_answers(_text(body.get("prompt")))
            parts = (("system", _text(body.get("system")), True), ("user", prompt, plain))
            return [Message(role, text, alone) for role, text, alone in parts if text or not alone]
        case "chat" | "openai_chat":
            messages = body.get("messages")
            return [_message(item) for item in messages] if isinstance(messages, list) else []
    return []


def _message(value: object) -> Message:
    match value:
        case {"role": str(role), "content": str(content), **more}:
            return Message(role, content, not any(more.values()))
        case {"role": str(role), "content": list(parts), **more}:
            texts = [text for part in parts if (text := _text_of(part)) is not None]
            plain = len(texts) == len(parts) and not any(more.values())
            return Message(role, "".join(texts), plain)
        case {"role": str(role)}:
            return Message(role, "", plain=False)
    return Message("", "", plain=False)


def _text_of(part: object) -> str | None:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    return None


def _unflattened(
    form: Form, body: Mapping[str, Any], messages: tuple[Message, ...]
) -> tuple[Message, ...]:
    """Return the messages of a flattened prompt without the door's own answers; other messages as they are."""
    if form != "generate" or len(messages) != 1 or body.get("system"):
        return messages
    blocks = prompt_blocks(messages[0].content)
    return tuple(Message(block.role, block.content, messages[0].plain) for block in blocks)


def without_own_answers(prompt: str, leave_out: int = 0) -> str:
    """Return a flattened prompt with its ``visible_places`` only, unchanged where it has no answer of the door's."""
    if PREFIX not in prompt:
        return prompt
    blocks = prompt_blocks(prompt)
    places = visible_places([(block.role, block.content) for block in blocks], leave_out)
    return "".join(blocks[place].whole for place in places)


def role_path(form: Form, upstream_path: str) -> str:
    """Return the path that the roles of such requests have (``DoorRole.path``)."""
    is_openai = form in ("openai_chat", "openai_text")
    return upstream_path or (OLLAMAS_OPENAI_PATH if is_openai else "")


def _role(model: str, request_purpose: Purpose, settings: DoorSettings, path: str) -> RoleName:
    match request_purpose:
        case "commit" | "summary":
            return "weak"
        case "edit":
            return "editor"
    roles = {
        entry.role
        for entry in settings.roles
        if entry.path == path and same_model(entry.model, model)
    }
    return next((role for role in ("main", "editor", "weak") if role in roles), "main")


def _longest_answer(form: Form, body: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    if form in ("chat", "generate"):
        return _positive(options.get("num_predict"))
    return _positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _positive(value: object) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0
