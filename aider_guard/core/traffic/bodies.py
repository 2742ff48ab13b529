"""The body that is sent in place of the one that came."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aider_guard.core.ollama_eras import knows_truncate
from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic import own
from aider_guard.core.traffic.asked import Asked
from aider_guard.core.traffic.flattened import prompt_blocks, summary_blocks
from aider_guard.core.traffic.kinds import DoorSettings, Upstream
from aider_guard.core.traffic.reading import asks_for_nothing, own_free

KEEP_SECONDS: Final = 1800
KEEP_ALIVE: Final = "30m"


def forbids_truncation(
    asked: Asked, settings: DoorSettings, upstream: Upstream, version: str | Unavailable
) -> bool:
    """Whether the body that is sent says that nothing may be cut."""
    return (
        upstream.kind == "ollama"
        and asked.form in ("chat", "generate")
        and settings.on_overflow == "refuse"
        and knows_truncate(version)
        and not asks_for_nothing(asked)
    )


def sent(
    asked: Asked,
    body: bytes,
    settings: DoorSettings,
    upstream: Upstream,
    version: str | Unavailable,
) -> bytes:
    """The body for the server: the pin, how long the model stays, no truncation, and none of the door's own answers.

    All else keeps its value and its place; a body in which nothing changes is sent as it came. OpenAI's protocol has
    no field for a window; there the usage is asked for where the client did not (``asks_for_usage``).
    """
    changed = dict(asked.body)
    if upstream.kind == "ollama" and asked.form in ("chat", "generate"):
        if _unloads(asked):
            return body
        _pin(changed, asked, settings, upstream, version)
    elif asks_for_usage(asked):
        options = changed.get("stream_options")
        changed["stream_options"] = {
            **(options if isinstance(options, dict) else {}),
            "include_usage": True,
        }
    _remove_own(changed, asked)
    return body if changed == asked.body else encoded(changed)


def unanswered(asked: Asked) -> int:
    """How many messages of the user's are in the prompt that the door answered itself."""
    messages, prompt = asked.body.get("messages"), asked.body.get("prompt")
    if asked.form == "generate" and isinstance(prompt, str) and own.PREFIX in prompt:
        blocks = prompt_blocks(prompt) if asked.raw_prompt is None else ()
        return len(own.unanswered([(block.role, block.content) for block in blocks]))
    if asked.form not in ("chat", "openai_chat") or not isinstance(messages, list):
        return 0
    said = [_role_and_text(message) for message in messages]
    if asked.purpose != "summary":
        return len(own.unanswered(said))
    return sum(len(own.unanswered(_summed_up(text))) for _, text in said if own.PREFIX in text)


def without_unanswered(asked: Asked, leave_out: int) -> dict[str, Any]:
    """The body without the door's own answers, and without the oldest of the messages that it answered so."""
    changed = dict(asked.body)
    _remove_own(changed, asked, leave_out)
    return changed


def asks_for_usage(asked: Asked) -> bool:
    """Whether the door asks for the usage of a stream that the client did not ask for."""
    if asked.form not in ("openai_chat", "openai_text") or not asked.stream:
        return False
    match asked.body.get("stream_options"):
        case {"include_usage": True}:
            return False
        case _:
            return True


def _unloads(asked: Asked) -> bool:
    """``keep_alive`` of 0, in any of Ollama's spellings, and no prompt."""
    value = asked.body.get("keep_alive")
    zero = value == 0 or (isinstance(value, str) and re.fullmatch(r"-?0+(ns|us|ms|s|m|h)?", value))
    return bool(zero) and not isinstance(value, bool) and asks_for_nothing(asked)


def _pin(
    changed: dict[str, Any],
    asked: Asked,
    settings: DoorSettings,
    upstream: Upstream,
    version: str | Unavailable,
) -> None:
    options = changed.get("options")
    if settings.window_tokens > 0:
        pinned = {"num_ctx": settings.window_tokens}
        changed["options"] = {**options, **pinned} if isinstance(options, dict) else pinned
    if not settings.user_keep_alive and changed.get("keep_alive") is None:
        changed["keep_alive"] = KEEP_ALIVE
    if forbids_truncation(asked, settings, upstream, version):
        changed["truncate"] = False


def _remove_own(changed: dict[str, Any], asked: Asked, leave_out: int = 0) -> None:
    prompt, messages = changed.get("prompt"), changed.get("messages")
    if asked.form == "generate" and isinstance(prompt, str) and asked.raw_prompt is None:
        changed["prompt"] = own_free(prompt, leave_out)
    if asked.form not in ("chat", "openai_chat") or not isinstance(messages, list):
        return
    said = [_role_and_text(message) for message in messages]
    is_summary = asked.purpose == "summary"
    places = own.kept(said, 0 if is_summary else leave_out)
    changed["messages"] = [messages[place] for place in places]
    if is_summary:
        changed["messages"] = [_summarised(one, leave_out) for one in changed["messages"]]


def _role_and_text(message: object) -> tuple[str, str]:
    match message:
        case {"role": str(role), "content": str(content)}:
            return role, content
        case {"role": str(role), "content": [{"type": "text", "text": str(content)}]}:
            return role, content
        case _:
            return "", ""


def _summarised(message: Any, leave_out: int) -> Any:
    """A conversation to summarise without the door's own answers."""
    match message:
        case {"role": "user", "content": str(content)} if own.PREFIX in content:
            blocks = summary_blocks(content)
            places = own.kept(_summed_up(content), leave_out)
            left = "".join(blocks[place].whole for place in places)
            return {**message, "content": left or content}
        case _:
            return message


def _summed_up(text: str) -> list[tuple[str, str]]:
    """The messages of a conversation to summarise, by role and content."""
    return [(one.role, one.content.rstrip("\n")) for one in summary_blocks(text)]


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body's bytes."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, only an escape
        return json.dumps(body, separators=(",", ":")).encode("ascii")
