"""Writes the door's own answers in each protocol, as the assistant's, so that Aider shows them and does not retry.

What Aider does with them was tried with 0.80 to 0.86 and the litellm of each:

* a commit message that is empty makes Aider say so and go on; ``null`` would be the same, but litellm cannot read a
  ``null`` from ``/api/chat``, and takes it for a broken connection;
* a summary must not be empty, or the history would be: it has to be ``null``, or, in ``/api/chat``, an error that
  litellm does not retry. Of all errors of Ollama's that is only "no such file or directory".
* older versions lose the text in the same line as ``"done": true``, so the text has a line of its own;
* only ``/api/chat`` and OpenAI's chat have a field for the text shown while waiting; older versions break off at it in
  ``/api/generate``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.chat.request import PREFIX, ChatRequest, wants_files_only

_JSON: Final = "application/json"


@dataclass(frozen=True)
class Timestamp:
    """The time of an answer: in ISO 8601, UTC, and in seconds since 1970."""

    iso: str
    unix_seconds: int


_BREAK = "  \n"
"""Markdown joins lines that do not end in two blanks (CommonMark 6.7)."""
_GAP = "   "
"""Stands between a command and the words on it."""


@dataclass(frozen=True)
class WireReply:
    """An answer, or a piece of one, in the bytes of its protocol."""

    content: bytes = field(repr=False)
    content_type: str = _JSON
    status: int = 200


def answer(request: ChatRequest, lines: Sequence[str], at: Timestamp) -> WireReply:
    """Return a complete answer of these lines; ``aider-guard: `` is put before the first.

    For a commit message and a summary it is one that makes Aider give up at once and lose nothing.
    """
    if request.purpose == "summary" and request.form == "chat" and not request.stream:
        error = (
            PREFIX + "\n".join(lines) + " (no such file or directory)"
        )  # which litellm does not retry
        return _as_json({"error": error}, status=400)
    text = PREFIX + _BREAK.join(map(_as_markdown, lines))
    if not request.stream:
        return _whole(request, text, at)
    # Here Aider would add every file that the answer names to the chat, and drop all others.
    if wants_files_only(request.messages):
        visible, blank = _piece(request, "", at, thinking=text), _piece(request, " ", at)
        return _streamed(request, [visible, blank, _end(request, at)])
    return _streamed(request, [_piece(request, text, at), _end(request, at)])


def _as_markdown(line: str) -> str:
    """Mark the command of a line, up to a gap, as code: Aider shows Markdown, and ``/drop __init__.py`` would lose its
    underscores.
    """
    command, gap, rest = line.partition(_GAP)
    if not gap:
        return line
    fence = "``" if "`" in command else "`"
    return f"{fence}{command}{fence}{gap}{rest}"


def waiting(request: ChatRequest, words: str, at: Timestamp) -> WireReply:
    """Return a piece of an answer that Aider shows while it waits and strips at the end; empty where there is none."""
    if not request.stream or request.form not in ("chat", "openai_chat"):
        return WireReply(b"", _content_type(request))
    return _streamed(
        request, [_piece(request, "", at, thinking=f"{PREFIX}{words}{_BREAK}")], done=False
    )


def _content_type(request: ChatRequest) -> str:
    if not request.stream:
        return _JSON
    is_ollamas = request.form in ("chat", "generate")
    return "application/x-ndjson" if is_ollamas else "text/event-stream"


def _streamed(
    request: ChatRequest, pieces: Iterable[dict[str, Any]], *, done: bool = True
) -> WireReply:
    lines = [json.dumps(piece) for piece in pieces]
    if request.form in ("chat", "generate"):
        text = "".join(f"{line}\n" for line in lines)
    else:
        text = "".join(f"data: {line}\n\n" for line in (*lines, *(["[DONE]"] if done else [])))
    return WireReply(text.encode("ascii"), _content_type(request))


def _piece(request: ChatRequest, text: str, at: Timestamp, *, thinking: str = "") -> dict[str, Any]:
    match request.form:
        case "chat":
            message = {"role": "assistant", "content": text}
            return _ollama(
                request, at, message={**message, **({"thinking": thinking} if thinking else {})}
            )
        case "generate":
            return _ollama(request, at, response=thinking + text)
        case "openai_chat":
            delta = {"role": "assistant", "content": text}
            more = {"reasoning_content": thinking} if thinking else {}
            return _openai(request, at, {"delta": {**delta, **more}, "finish_reason": None})
        case "openai_text":
            return _openai(request, at, {"text": thinking + text, "finish_reason": None})


def _end(request: ChatRequest, at: Timestamp) -> dict[str, Any]:
    if request.form in ("chat", "generate"):
        return _piece(request, "", at) | {"done": True, "done_reason": "stop"}
    nothing: dict[str, Any] = {"delta": {}} if request.form == "openai_chat" else {"text": ""}
    return _openai(request, at, {**nothing, "finish_reason": "stop"})


def _ollama(request: ChatRequest, at: Timestamp, **text_or_null: Any) -> dict[str, Any]:
    return {"model": request.model, "created_at": at.iso, **text_or_null, "done": False}


def _openai(request: ChatRequest, at: Timestamp, choice: dict[str, Any]) -> dict[str, Any]:
    kind = "chat.completion.chunk" if request.form == "openai_chat" else "text_completion"
    head = {"id": "aider-guard", "object": kind, "created": at.unix_seconds, "model": request.model}
    return {**head, "choices": [{"index": 0, **choice}]}


def _whole(request: ChatRequest, text: str, at: Timestamp) -> WireReply:
    text_or_null = {"commit": "", "summary": None}.get(request.purpose, text)
    ended = {"done": True, "done_reason": "stop", "prompt_eval_count": 0, "eval_count": 0}
    message = {"role": "assistant", "content": text_or_null}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    match request.form:
        case "chat":
            return _as_json(_ollama(request, at, message=message) | ended)
        case "generate":
            return _as_json(_ollama(request, at, response=text_or_null) | ended)
        case "openai_chat":
            body = _openai(request, at, {"message": message, "finish_reason": "stop"})
            return _as_json(body | {"object": "chat.completion", "usage": usage})
        case "openai_text":
            body = _openai(request, at, {"text": text_or_null, "finish_reason": "stop"})
            return _as_json(body | {"usage": usage})


def _as_json(value: dict[str, Any], *, status: int = 200) -> WireReply:
    return WireReply(json.dumps(value).encode("ascii"), _JSON, status)
