"""Reads what a server reports in its answer: tokens, times and why it ended; and filters the answer's bytes.

The fields are Ollama's (api/types.go), OpenAI's and llama.cpp's. Ollama omits zeros and counts time in nanoseconds;
llama.cpp's ``timings`` are in milliseconds, and its ``prompt_n`` leaves out the cached tokens (``cache_n``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aider_guard.core.chat.events import NOT_TOLD, BrokeOff
from aider_guard.core.readings import Unavailable

_LOOP: Final = 30
"""After so many repetitions of a token, Ollama before September 2026 ends an answer without an end
(llm/server.go, llm/llama_server.go; later ones report an error after 100, ollama#18374)."""


@dataclass(frozen=True)
class Usage:
    """What the server has reported so far.

    ``error`` is its words, ``is_heard`` whether Aider reads them too, ``remote`` where the model really runs, ``ended``
    whether the answer is complete. ``texts`` is the number of pieces with text or a tool call; thinking does not count.
    ``repeats`` is how often the newest text, or thought, came before in a row.
    """

    prompt_tokens: int | Unavailable = NOT_TOLD
    answer_tokens: int | Unavailable = NOT_TOLD
    cached_tokens: int | Unavailable = NOT_TOLD
    load_seconds: float | Unavailable = NOT_TOLD
    prefill_seconds: float | Unavailable = NOT_TOLD
    generation_seconds: float | Unavailable = NOT_TOLD
    done_reason: str = ""
    ended: bool = False
    error: str = field(default="", repr=False)
    is_heard: bool = True
    remote: str = ""
    texts: int = 0
    pieces: int = 0
    repeats: int = 0
    newest: str | None = field(default=None, repr=False)

    @property
    def is_broken(self) -> bool:
        """Whether the server broke the answer off, though the connection ended in order."""
        return bool(self.error or (self.pieces and not self.ended))

    @property
    def broke_off(self) -> BrokeOff:
        """How the answer was broken off where Aider takes it as whole, as the connection ended in order.

        litellm 1.81 adds the end that is missing, in every protocol, and raises at an error that it reads.
        """
        if not self.is_broken or (self.error and self.is_heard):
            return ""
        if self.error:
            return "error"
        return "repetition" if self.repeats >= _LOOP else "no_end"


def with_piece(usage: Usage, piece: Mapping[str, Any]) -> Usage:
    """Return the usage after one more decoded piece of an answer."""
    newest, repeats = usage.newest, usage.repeats
    if said := _said(piece):
        repeats = repeats + 1 if said.strip() == newest else 0
        newest = said.strip()
    texts = usage.texts + _has_text(piece)
    usage = replace(usage, pieces=usage.pieces + 1, texts=texts, newest=newest, repeats=repeats)
    if "error" in piece:
        return replace(usage, error=error_words(piece["error"]))
    if "choices" in piece or "usage" in piece or "timings" in piece:
        return _with_openai(usage, piece)
    return _with_ollama(usage, piece)


def error_words(error: object) -> str:
    """Return the words of an ``error`` field: a text in Ollama's protocol, an object with a message in OpenAI's."""
    match error:
        case {"message": str(words)} | str(words):
            return words
    return str(error)


def _with_ollama(usage: Usage, piece: Mapping[str, Any]) -> Usage:
    remote = piece.get("remote_host") or piece.get("remote_model")
    if remote:
        usage = replace(usage, remote=str(remote))
    if piece.get("done") is not True:
        return usage
    reason = piece.get("done_reason")
    return replace(
        usage,
        ended=True,
        done_reason=reason if isinstance(reason, str) else "",
        prompt_tokens=_count(piece.get("prompt_eval_count")),
        cached_tokens=_count(piece.get("prompt_eval_cached_count")),
        answer_tokens=_count(piece.get("eval_count", 0)),
        load_seconds=_seconds(piece.get("load_duration"), 1e9),
        prefill_seconds=_seconds(piece.get("prompt_eval_duration"), 1e9),
        generation_seconds=_seconds(piece.get("eval_duration"), 1e9),
    )


def _with_openai(usage: Usage, piece: Mapping[str, Any]) -> Usage:
    match piece.get("choices"):
        case [{"finish_reason": str(reason)}, *_]:
            usage = replace(usage, done_reason=reason, ended=True)
    match piece.get("timings"):
        case {} as timings:
            evaluated, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
            if isinstance(evaluated, int) and isinstance(cached, int):
                usage = replace(usage, prompt_tokens=evaluated + cached, cached_tokens=cached)
            usage = replace(
                usage,
                answer_tokens=_count(timings.get("predicted_n"), usage.answer_tokens),
                prefill_seconds=_seconds(timings.get("prompt_ms"), 1e3),
                generation_seconds=_seconds(timings.get("predicted_ms"), 1e3),
            )
    match piece.get("usage"):
        case {} as counts:
            details = counts.get("prompt_tokens_details")
            reused = details.get("cached_tokens") if isinstance(details, dict) else None
            usage = replace(
                usage,
                prompt_tokens=_count(counts.get("prompt_tokens"), usage.prompt_tokens),
                answer_tokens=_count(counts.get("completion_tokens"), usage.answer_tokens),
                cached_tokens=_count(reused, usage.cached_tokens),
            )
    return usage


def _has_text(piece: Mapping[str, Any]) -> bool:
    message = _message(piece)
    return any(message.get(key) for key in ("content", "response", "text", "tool_calls"))


def _said(piece: Mapping[str, Any]) -> str:
    """Return the text of a piece, or the thought in each of the fields that servers have for it."""
    keys = ("content", "response", "text", "thinking", "reasoning_content", "reasoning")
    found = (_message(piece).get(key) for key in keys)
    return next((text for text in found if isinstance(text, str) and text), "")


def _message(piece: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a piece that holds its text, in the fields of its protocol."""
    match piece:
        case {"choices": [{} as inner, *_]}:
            pass
        case {"choices": _}:
            return {}
        case _:
            inner = piece
    found = inner.get("delta") or inner.get("message")
    return found if isinstance(found, Mapping) else inner


def _count(value: object, otherwise: int | Unavailable = NOT_TOLD) -> int | Unavailable:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    return otherwise


def _seconds(value: object, per_second: float) -> float | Unavailable:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**18:
        return NOT_TOLD
    return value / per_second


_MAX_ANSWER_LINE_BYTES: Final = 4 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 4096
_BEFORE_TEXT: Final = b'"created_at"'
"""Ollama writes where a model runs before the time, and the time before any text (api/types.go)."""
_REMOTE: Final = re.compile(rb'"remote_(?:host|model)"\s*:\s*"(?!")')
_OPENING: Final = b'{"model":'


class Meter:
    """Reads the usage from the bytes of an answer as they pass: NDJSON, server-sent events or one JSON document.

    It never raises. It keeps one unfinished line, 4 MiB at most, and ignores lines that are longer or no JSON.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._too_long = False
        self._usage = Usage()

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes, in any chunking."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            if not self._too_long:
                self._usage = _read(self._usage, bytes(self._line))
            self._too_long = False
            self._line.clear()
        self._add(rest)

    @property
    def so_far(self) -> Usage:
        """The usage by the complete lines; cheap, unlike ``usage``, which may read a line again."""
        return self._usage

    @property
    def usage(self) -> Usage:
        """The usage by all bytes so far, for an answer without line ends (a single document)."""
        return _read(self._usage, bytes(self._line))

    def _add(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > _MAX_ANSWER_LINE_BYTES:
            self._too_long = True
            self._line.clear()
        if not self._too_long:
            self._line += piece


def _read(usage: Usage, line: bytes) -> Usage:
    field, _, value = line.partition(b":")
    line = value if field in (b"data", b"error") else line
    if not line.lstrip().startswith(b"{"):
        return usage
    try:
        piece = json.loads(line)
    except (ValueError, RecursionError):
        return usage
    # llama.cpp's own way (server.cpp), of which OpenAI's client, Aider's, takes no notice.
    if field == b"error":
        usage, piece = replace(usage, is_heard=False), {"error": piece}
    return with_piece(usage, piece) if isinstance(piece, dict) else usage


class AnswerHead:
    """Holds back the first bytes of an answer of Ollama's until they show whether the model runs elsewhere.

    They show it when the time follows, within the first bytes; an answer that begins otherwise is not held back.
    """

    def __init__(self) -> None:
        self._held = b""
        self._over = False

    def feed(self, chunk: bytes) -> bytes | None:
        """Return the bytes that may be passed on now; None when the answer comes from another machine."""
        if self._over:
            return chunk
        held = self._held + chunk
        before_text, is_whole, _ = held.partition(_BEFORE_TEXT)
        if _REMOTE.search(before_text):
            return None
        ours = held.startswith(_OPENING) or _OPENING.startswith(held)
        if ours and not is_whole and b"\n" not in held and len(held) < _MAX_HEAD_BYTES:
            self._held = held
            return b""
        self._over, self._held = True, b""
        return held

    def rest(self) -> bytes:
        """Return the bytes held at the answer's end, which nowhere names another machine."""
        held, self._held = self._held, b""
        return held


_USAGE_ONLY: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DATA: Final = b"data:"
_MAX_USAGE_LINE_BYTES: Final = 1024 * 1024


class UsageFilter:
    """Removes the event that holds only the usage from a stream, where the door requested it and not the client.

    Other lines pass as they come. Servers write whole events, so no line is held longer than its own bytes take.
    """

    def __init__(self) -> None:
        self._held = b""
        self._dropped = False

    def feed(self, chunk: bytes) -> bytes:
        """Return what the client gets for this piece; an unfinished line is kept for the next."""
        *lines, self._held = (self._held + chunk).split(b"\n")
        passed = b"".join(line + b"\n" for line in lines if self._passes(line))
        may_be_data = self._held.startswith(_DATA) or _DATA.startswith(self._held)
        if not may_be_data or len(self._held) > _MAX_USAGE_LINE_BYTES:
            passed, self._held = passed + self._held, b""
        return passed

    def rest(self) -> bytes:
        """Return what the client gets at the answer's end: a last line without a newline."""
        held, self._held = self._held, b""
        return held if held and self._passes(held) else b""

    def _passes(self, line: bytes) -> bool:
        if self._dropped and not line.strip():  # the empty line that ended the event
            self._dropped = False
            return False
        self._dropped = _is_usage_only(line)
        return not self._dropped


def _is_usage_only(line: bytes) -> bool:
    if not line.startswith(_DATA) or not _USAGE_ONLY.search(line):
        return False
    try:
        event = json.loads(line.removeprefix(_DATA))
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))
