"""Bytes of a request → what is asked. The protocols are Ollama's api/types.go and OpenAI's.

Ollama reads a body with Go's decoder: the first JSON value, invalid UTF-8 replaced, names of fields in any case. What
it would understand must be understood here too, or a name could pass unseen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aider_guard.core.state import same_model
from aider_guard.core.traffic import own
from aider_guard.core.traffic.asked import Asked, Form, Message
from aider_guard.core.traffic.flattened import prompt_blocks
from aider_guard.core.traffic.kinds import DoorSettings, Purpose, RoleName
from aider_guard.core.traffic.purposes import purpose

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


def decoded(body: bytes) -> dict[str, Any] | None:
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def read(form: Form, body: Mapping[str, Any], settings: DoorSettings, upstream_path: str) -> Asked:
    """What a decoded body asks for. What is not of the type that it should be is taken as not there."""
    model = _text(body.get("model"))
    seen = tuple(_messages(form, body))
    messages = tuple(seen[place] for place in own.kept([(m.role, m.content) for m in seen]))
    stream = _streams(form, body)
    wanted = purpose(_single(form, body, messages), stream=stream)
    options = _mapping(body.get("options"))
    return Asked(
        form=form,
        model=model,
        messages=messages,
        stream=stream,
        role=_role(model, wanted, settings, upstream_path),
        purpose=wanted,
        raw_prompt=_raw_prompt(form, body),
        num_ctx=_positive(options.get("num_ctx")),
        num_predict=_longest_answer(form, body, options),
        has_tools=bool(body.get("tools") or body.get("functions")),
        body=body,
    )


def asks_for_nothing(asked: Asked) -> bool:
    """Whether the request only loads or unloads a model (Ollama's routes.go: an empty prompt, no messages)."""
    if asked.form == "generate":
        return not asked.body.get("prompt") and not asked.body.get("images")
    return asked.form == "chat" and not asked.body.get("messages")


def conversation(asked: Asked) -> tuple[Message, ...]:
    """The messages of a prompt, also where litellm had flattened them into one."""
    return _single(asked.form, asked.body, asked.messages)


def _messages(form: Form, body: Mapping[str, Any]) -> Sequence[Message]:
    match form:
        case "generate" if body.get("raw") is not True:
            plain = not (body.get("images") or body.get("context") or body.get("suffix"))
            parts = (("system", _text(body.get("system")), True), ("user", _prompt(body), plain))
            return [Message(role, text, fine) for role, text, fine in parts if text or not fine]
        case "chat" | "openai_chat":
            found = body.get("messages")
            return [_message(one) for one in found] if isinstance(found, list) else []
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


def _single(
    form: Form, body: Mapping[str, Any], messages: tuple[Message, ...]
) -> tuple[Message, ...]:
    """A flattened prompt's messages, without the door's own answers; else the messages as they are."""
    if form != "generate" or len(messages) != 1 or body.get("system"):
        return messages
    blocks = prompt_blocks(messages[0].content)
    return tuple(Message(block.role, block.content, messages[0].plain) for block in blocks)


def _prompt(body: Mapping[str, Any]) -> str:
    return own_free(_text(body.get("prompt")))


def own_free(prompt: str, leave_out: int = 0) -> str:
    """A flattened prompt without the door's own answers (own.kept); the very text where there are none."""
    if own.PREFIX not in prompt:
        return prompt
    blocks = prompt_blocks(prompt)
    places = own.kept([(block.role, block.content) for block in blocks], leave_out)
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


def _role(model: str, wanted: Purpose, settings: DoorSettings, upstream_path: str) -> RoleName:
    match wanted:
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
