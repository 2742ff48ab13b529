"""How an Ollama of each version writes its answers to requests for text (api/types.go, openai/openai.go).

The orders of the fields and the streams' pieces are those of a real 0.9.3; ``done`` before ``done_reason``, and the
fields of remote models, are of 0.12 and later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

Path = Literal["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions"]
PATHS: tuple[Path, ...] = (
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
)


@dataclass(frozen=True)
class Final:
    """What the last piece of an answer tells. Durations are in nanoseconds; what is 0 is left out (``omitempty``)."""

    done_reason: str = "stop"
    load_ns: int = 0
    prompt_tokens: int = 0
    prefill_ns: int = 0
    answer_tokens: int = 0
    generation_ns: int = 0

    def metrics(self) -> dict[str, int]:
        """The numbers, in the order in which Ollama writes them."""
        total = self.load_ns + self.prefill_ns + self.generation_ns
        numbers = {
            "total_duration": total,
            "load_duration": self.load_ns,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": self.prefill_ns,
            "eval_count": self.answer_tokens,
            "eval_duration": self.generation_ns,
        }
        return {name: number for name, number in numbers.items() if number}


@dataclass(frozen=True)
class Form:
    """One answer's form: that of the path that was asked, in a version, for a model."""

    path: str
    version: tuple[int, ...]
    model: str
    remote: Mapping[str, str] = field(default_factory=dict)
    """``remote_model`` and ``remote_host``, where the answer came from a cloud."""
    with_usage: bool = False
    """``stream_options: {"include_usage": true}`` of /v1."""

    @property
    def content_type(self) -> str:
        """Of the stream."""
        return "text/event-stream" if self._is_openai else "application/x-ndjson"

    def piece(self, text: str, *, thinking: bool = False) -> bytes:
        """One piece of a stream."""
        if self._is_openai:
            return self._event(self._choice(text, None))
        return self._line(self._body(text, thinking=thinking, done=False))

    def end(self, final: Final) -> list[bytes]:
        """The last pieces of a stream."""
        if not self._is_openai:
            return [self._line({**self._body("", reason=final.done_reason), **final.metrics()})]
        pieces = [self._event(self._choice("", self._finish(final)))]
        if self.with_usage:
            pieces.append(self._event({**self._choice("", None), "choices": [], **usage(final)}))
        return [*pieces, b"data: [DONE]\n\n"]

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        """An answer that is not streamed."""
        if not self._is_openai:
            return {**self._body(text, reason=final.done_reason), **final.metrics()}
        answer = {**self._choice(text, self._finish(final)), **usage(final)}
        if self.path == "/v1/chat/completions":
            answer["object"] = "chat.completion"
            choice = answer["choices"][0]
            finish = choice["finish_reason"]
            answer["choices"] = [{"index": 0, "message": choice["delta"], "finish_reason": finish}]
        return answer

    def error(self, words: str) -> dict[str, Any]:
        """The body of an error."""
        if self._is_openai:
            told = {"message": words, "type": "api_error", "param": None, "code": None}
            return {"error": told}
        return {"error": words}

    def error_piece(self, words: str) -> bytes:
        """An error in the middle of a stream: a line of its own, with status 200 long sent."""
        return self._event(self.error(words)) if self._is_openai else self._line(self.error(words))

    def nothing(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """The answer to a request without a prompt."""
        return self._body("", reason=reason)

    @property
    def _is_openai(self) -> bool:
        return self.path.startswith("/v1/")

    def _body(
        self, text: str, *, reason: str = "", thinking: bool = False, done: bool = True
    ) -> dict[str, Any]:
        if self.path == "/api/chat":
            message = {"role": "assistant", "content": "" if thinking else text}
            said: dict[str, Any] = {"message": message | ({"thinking": text} if thinking else {})}
        else:
            said = {"response": "", "thinking": text} if thinking else {"response": text}
        why = {"done_reason": reason} if reason else {}
        reason_first = self.path == "/api/chat" and self.version < (0, 12)
        ended = {**why, "done": done} if reason_first else {"done": done, **why}
        return {"model": self.model, **self.remote, "created_at": now(), **said, **ended}

    def _choice(self, text: str, finish: str | None) -> dict[str, Any]:
        chat = self.path == "/v1/chat/completions"
        said = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": "chatcmpl-604" if chat else "cmpl-604",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": [{"index": 0, **said, "finish_reason": finish}],
        }

    def _finish(self, final: Final) -> str:
        return final.done_reason if final.done_reason in ("stop", "length") else "stop"

    def _line(self, body: Mapping[str, Any]) -> bytes:
        return compact(body) + b"\n"

    def _event(self, body: Mapping[str, Any]) -> bytes:
        return b"data: " + compact(body) + b"\n\n"


def usage(final: Final) -> dict[str, Any]:
    """The numbers of /v1."""
    prompt, answer = final.prompt_tokens, final.answer_tokens
    counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {"usage": counts}


def compact(body: Mapping[str, Any]) -> bytes:
    """As Go writes JSON."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def now() -> str:
    """The time as Go writes it: RFC 3339 with nanoseconds."""
    moment = time.time_ns()
    seconds = datetime.fromtimestamp(moment // 10**9, tz=timezone.utc)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{moment % 10**9:09}Z"
