"""What a server says of its own answer: tokens, times, why it ended. Ollama's api/types.go, OpenAI's and llama.cpp's.

Ollama leaves out what is 0, and counts time in nanoseconds; llama.cpp's ``timings`` are in milliseconds, and its
``prompt_n`` is without what it had in its cache (``cache_n``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aider_guard.core.chat.events import NOT_TOLD
from aider_guard.core.readings import Unavailable


@dataclass(frozen=True)
class Usage:
    """What was said so far. ``error`` are the server's words, ``remote`` where the model really runs.

    ``texts`` is how many pieces held text or a call of a tool, thinking aside; ``ended`` whether the answer is whole.
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
    remote: str = ""
    texts: int = 0
    pieces: int = 0


def with_piece(usage: Usage, piece: Mapping[str, Any]) -> Usage:
    """What is known after one more piece of an answer, decoded."""
    usage = replace(usage, pieces=usage.pieces + 1, texts=usage.texts + _has_text(piece))
    if "error" in piece:
        return replace(usage, error=error_words(piece["error"]))
    if "choices" in piece or "usage" in piece or "timings" in piece:
        return _with_openai(usage, piece)
    return _with_ollama(usage, piece)


def error_words(error: object) -> str:
    """The words of an ``error`` field: a text in Ollama's protocol, an object with a message in OpenAI's."""
    match error:
        case {"message": str(words)} | str(words):
            return words
        case _:
            return str(error)


def _with_ollama(usage: Usage, piece: Mapping[str, Any]) -> Usage:
    remote = piece.get("remote_host") or piece.get("remote_model")
    if remote:
        usage = replace(usage, remote=str(remote))
    if piece.get("done") is not True:
        return usage
    return replace(
        usage,
        ended=True,
        done_reason=_word(piece.get("done_reason")),
        prompt_tokens=_count(piece.get("prompt_eval_count")),
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
            usage = _with_timings(usage, timings)
    match piece.get("usage"):
        case {} as counts:
            details = counts.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else None
            usage = replace(
                usage,
                prompt_tokens=_count(counts.get("prompt_tokens"), usage.prompt_tokens),
                answer_tokens=_count(counts.get("completion_tokens"), usage.answer_tokens),
                cached_tokens=_count(cached, usage.cached_tokens),
            )
    return usage


def _with_timings(usage: Usage, timings: Mapping[str, Any]) -> Usage:
    match _count(timings.get("prompt_n")), _count(timings.get("cache_n")):
        case int(evaluated), int(cached):
            usage = replace(usage, prompt_tokens=evaluated + cached, cached_tokens=cached)
    return replace(
        usage,
        answer_tokens=_count(timings.get("predicted_n"), usage.answer_tokens),
        prefill_seconds=_seconds(timings.get("prompt_ms"), 1e3),
        generation_seconds=_seconds(timings.get("predicted_ms"), 1e3),
    )


def _has_text(piece: Mapping[str, Any]) -> bool:
    match piece:
        case {"message": {} as message}:
            return bool(message.get("content") or message.get("tool_calls"))
        case {"response": str(text)}:
            return bool(text)
        case {"choices": [{"delta": {} as delta}, *_]} | {
            "choices": [{"message": {} as delta}, *_]
        }:
            return bool(delta.get("content") or delta.get("tool_calls"))
        case {"choices": [{"text": str(text)}, *_]}:
            return bool(text)
        case _:
            return False


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object, otherwise: int | Unavailable = NOT_TOLD) -> int | Unavailable:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    return otherwise


def _seconds(value: object, per_second: float) -> float | Unavailable:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        return NOT_TOLD
    return value / per_second


# Feeds on the bytes of an answer as they pass, in any chunking, and knows what the server said of it.

_MAX_ANSWER_LINE_BYTES: Final = 4 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 4096
_BEFORE_TEXT: Final = b'"created_at"'
"""Ollama writes where a model runs before the time, and the time before any text (api/types.go)."""
_REMOTE: Final = re.compile(rb'"remote_(?:host|model)"\s*:\s*"(?!")')
_OPENING: Final = b'{"model":'


class Meter:
    """Reads NDJSON, server-sent events and single JSON documents; keeps one unfinished line, 4 MiB at most.

    It never raises and never changes a byte. A line that is longer, or none of JSON's, counts for nothing.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._too_long = False
        self._usage = Usage()

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            self._read_line()
        self._add(rest)

    @property
    def so_far(self) -> Usage:
        """What the finished lines said; cheap, unlike ``usage``, which may read a line again."""
        return self._usage

    @property
    def usage(self) -> Usage:
        """What is known. An answer that has no line ends (a single document) is read to where it is now."""
        return _read(self._usage, bytes(self._line))

    def _add(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > _MAX_ANSWER_LINE_BYTES:
            self._too_long = True
            self._line.clear()
        if not self._too_long:
            self._line += piece

    def _read_line(self) -> None:
        if not self._too_long:
            self._usage = _read(self._usage, bytes(self._line))
        self._too_long = False
        self._line.clear()


def _read(usage: Usage, line: bytes) -> Usage:
    field, _, value = line.partition(b":")
    line = value if field in (b"data", b"error") else line
    if not line.lstrip().startswith(b"{"):
        return usage
    try:
        piece = json.loads(line)
    except (ValueError, RecursionError):
        return usage
    if field == b"error":  # llama.cpp's own way (server.cpp)
        piece = {"error": piece}
    return with_piece(usage, piece) if isinstance(piece, dict) else usage


class AnswerHead:
    """Holds the first bytes of an answer of Ollama's for as long as they may say that the model runs elsewhere.

    That is until the time is written, which comes with the first bytes; an answer that begins otherwise is not held.
    """

    def __init__(self) -> None:
        self._held = b""
        self._over = False

    def feed(self, chunk: bytes) -> bytes | None:
        """What may be passed on now; None when the answer comes from another machine."""
        if self._over:
            return chunk
        held = self._held + chunk
        start = held.find(_BEFORE_TEXT)
        if _REMOTE.search(held, 0, start if start >= 0 else len(held)):
            return None
        ours = held.startswith(_OPENING) or _OPENING.startswith(held)
        if ours and start < 0 and b"\n" not in held and len(held) < _MAX_HEAD_BYTES:
            self._held = held
            return b""
        self._over, self._held = True, b""
        return held

    def rest(self) -> bytes:
        """What is held when the answer ends: it says nowhere that it comes from another machine."""
        held, self._held, self._over = self._held, b"", True
        return held


# Takes a stream's usage out again where the client did not ask for it: the door did.

_USAGE_ONLY: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DATA: Final = b"data:"
_MAX_USAGE_LINE_BYTES: Final = 1024 * 1024


class UsageFilter:
    """Passes server-sent events on line by line, but for the one that holds nothing but the usage.

    Servers write whole events, so no line is held for longer than its own bytes take.
    """

    def __init__(self) -> None:
        self._held = b""
        self._dropped = False

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for this piece; lines without an end are kept for the next."""
        *lines, self._held = (self._held + chunk).split(b"\n")
        passed = b"".join(line + b"\n" for line in lines if self._passes(line))
        if not _is_data(self._held) or len(self._held) > _MAX_USAGE_LINE_BYTES:
            passed, self._held = passed + self._held, b""
        return passed

    def rest(self) -> bytes:
        """What the client gets at the answer's end: a last line that has no end of its own."""
        held, self._held = self._held, b""
        return held if held and self._passes(held) else b""

    def _passes(self, line: bytes) -> bool:
        if self._dropped and not line.strip():  # the empty line that ended the event
            self._dropped = False
            return False
        self._dropped = _is_usage_only(line)
        return not self._dropped


def _is_data(line: bytes) -> bool:
    return line.startswith(_DATA) or _DATA.startswith(line)


def _is_usage_only(line: bytes) -> bool:
    if not line.startswith(_DATA) or not _USAGE_ONLY.search(line):
        return False
    try:
        event = json.loads(line[5:])
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))
