"""How a stand-in writes its answers to requests for text: the fields of Ollama's api/types.go and openai/openai.go."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from standin.models import go_time

JSON, PLAIN_JSON = "application/json; charset=utf-8", "application/json"
CACHED_COUNT_SINCE = (0, 33, 3)
"""From this version on an answer says how much of its prompt came from the cache."""
WITHOUT_CACHED_SINCE = (0, 30, 1)
"""Before it, ``prompt_eval_count`` left out what came from the cache."""


@dataclass(frozen=True)
class Numbers:
    """What llama.cpp measured (``timings``), and how long the load took. Durations are in nanoseconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_ns: int = 0
    answer_tokens: int = 0
    answer_ns: int = 0
    load_ns: int = 0
    total_ns: int = 0

    @classmethod
    def of(cls, timings: dict[str, Any], load_ns: int) -> Numbers:
        """Read llama.cpp's."""
        return cls(
            int(timings["prompt_n"]) + int(timings["cache_n"]),
            int(timings["cache_n"]),
            int(timings["prompt_ms"] * 1000) * 1000,
            int(timings["predicted_n"]),
            int(timings["predicted_ms"] * 1000) * 1000,
            load_ns,
        )


@dataclass(frozen=True)
class Piece:
    """A part of an answer. ``done_reason`` is "" but in the last one."""

    content: str = ""
    thinking: str = ""
    done_reason: str = ""
    numbers: Numbers | None = None
    context: tuple[int, ...] = ()


@dataclass
class Shape:
    """The form of one answer."""

    path: str
    version: tuple[int, ...]
    model: str
    with_usage: bool = False
    """``stream_options: {"include_usage": true}`` of /v1."""
    created: int = field(default_factory=lambda: int(time.time()))
    _has_begun: bool = False

    @property
    def is_openai(self) -> bool:
        """Whether it is the other protocol."""
        return self.path.startswith("/v1/")

    @property
    def is_chat(self) -> bool:
        """Whether it has messages, not one text."""
        return self.path in ("/api/chat", "/v1/chat/completions")

    @property
    def content_type(self) -> str:
        """Of a stream."""
        return "text/event-stream" if self.is_openai else "application/x-ndjson"

    def stream(self, piece: Piece) -> bytes:
        """One piece of a stream; of the last one, all that ends it."""
        if not self.is_openai:
            return compact(self._own(piece)) + b"\n"
        parts = []
        if piece.content or not self._has_begun or not piece.done_reason:
            parts.append(self._chunk(piece.content, None))
            self._has_begun = True
        if piece.done_reason:
            parts.append(self._chunk("", piece.done_reason))
            if self.with_usage:
                parts.append({**parts[-1], "choices": [], "usage": self._usage(piece.numbers)})
        events = [b"data: " + compact(part) + b"\n\n" for part in parts]
        return b"".join([*events, b"data: [DONE]\n\n" if piece.done_reason else b""])

    def whole(self, piece: Piece) -> dict[str, Any]:
        """An answer that is not streamed."""
        if not self.is_openai:
            return self._own(piece)
        is_chat = self.path == "/v1/chat/completions"
        message = {"role": "assistant", "content": piece.content}
        said: dict[str, Any] = {"message": message} if is_chat else {"text": piece.content}
        answer = self._head("chat.completion" if is_chat else "text_completion")
        choice = {"index": 0, **said, "finish_reason": piece.done_reason or None}
        return {**answer, "choices": [choice], "usage": self._usage(piece.numbers)}

    def nothing(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """The answer to a request without a prompt."""
        return self._own(Piece(done_reason=reason))

    def rendered(self, prompt: str) -> dict[str, Any]:
        """The prompt instead of an answer (``_debug_render_only``)."""
        said = self._own(Piece(), role="")
        return {**said, "done": False, "_debug_info": {"rendered_template": prompt}}

    def error(self, words: str, status: int) -> dict[str, Any]:
        """What is wrong."""
        if not self.is_openai:
            return {"error": words}
        kinds = {400: "invalid_request_error", 404: "not_found_error"}
        kind = kinds.get(status, "api_error")
        return {"error": {"message": words, "type": kind, "param": None, "code": None}}

    def error_piece(self, words: str) -> bytes:
        """What went wrong in the middle of a stream."""
        error = compact(self.error(words, 500))
        return b"data: " + error + b"\n\n" if self.is_openai else error + b"\n"

    def _own(self, piece: Piece, role: str = "assistant") -> dict[str, Any]:
        thinking = {"thinking": piece.thinking} if piece.thinking else {}
        if self.path == "/api/chat":
            message = {"role": role, "content": piece.content, **thinking}
            said: dict[str, Any] = {"message": message}
        else:
            said = {"response": piece.content, **thinking}
        why = {"done_reason": piece.done_reason} if piece.done_reason else {}
        context = {"context": [*piece.context]} if piece.context else {}
        return {
            "model": self.model,
            "created_at": go_time(time.time()),
            **said,
            "done": bool(piece.done_reason),
            **why,
            **context,
            **self._metrics(piece.numbers),
        }

    def _metrics(self, numbers: Numbers | None) -> dict[str, int]:
        """What is 0 is left out (``omitempty``), but for the count of a pointer."""
        if numbers is None:
            return {}
        prompt = numbers.prompt_tokens
        if self.version < WITHOUT_CACHED_SINCE:
            prompt -= numbers.cached_tokens
        cached = {"prompt_eval_cached_count": numbers.cached_tokens}
        measured = {
            "total_duration": numbers.total_ns,
            "load_duration": numbers.load_ns,
            "prompt_eval_count": prompt,
            **(cached if self.version >= CACHED_COUNT_SINCE else {}),
            "prompt_eval_duration": numbers.prompt_ns,
            "eval_count": numbers.answer_tokens,
            "eval_duration": numbers.answer_ns,
        }
        return {name: it for name, it in measured.items() if it or name in cached}

    def _usage(self, numbers: Numbers | None) -> dict[str, Any]:
        found = numbers or Numbers()
        prompt, answer = found.prompt_tokens, found.answer_tokens
        cached = {"prompt_tokens_details": {"cached_tokens": found.cached_tokens}}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            **(cached if self.version >= CACHED_COUNT_SINCE else {}),
        }

    def _chunk(self, content: str, reason: str | None) -> dict[str, Any]:
        if self.path == "/v1/completions":
            choice: dict[str, Any] = {"text": content}
        else:
            role = {} if self._has_begun else {"role": "assistant"}
            choice = {"delta": {} if reason else {**role, "content": content}}
        is_chat = self.path == "/v1/chat/completions"
        head = self._head("chat.completion.chunk" if is_chat else "text_completion")
        return {**head, "choices": [{"index": 0, **choice, "finish_reason": reason}]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if kind.startswith('chat') else 'cmpl'}-{self.created % 1000}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
        }


def gathered(pieces: list[Piece]) -> Piece:
    """The pieces of an answer in one."""
    last = pieces[-1] if pieces else Piece()
    content = "".join(piece.content for piece in pieces)
    return replace(last, content=content, thinking="".join(piece.thinking for piece in pieces))


def compact(body: object) -> bytes:
    """JSON as Go writes it."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()
