"""What a server says of its own answer: tokens, times, why it ended. Ollama's api/types.go, OpenAI's and llama.cpp's.

Ollama leaves out what is 0, and counts time in nanoseconds; llama.cpp's ``timings`` are in milliseconds, and its
``prompt_n`` is without what it had in its cache (``cache_n``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.events import NOT_TOLD


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


def heard(usage: Usage, said: Mapping[str, Any]) -> Usage:
    """What is known after one more piece of an answer, decoded."""
    usage = replace(usage, pieces=usage.pieces + 1, texts=usage.texts + _says_something(said))
    if "error" in said:
        return replace(usage, error=error_words(said["error"]))
    if "choices" in said or "usage" in said or "timings" in said:
        return _of_openai(usage, said)
    return _of_ollama(usage, said)


def error_words(error: object) -> str:
    """The words of an ``error`` field: a text in Ollama's protocol, an object with a message in OpenAI's."""
    match error:
        case {"message": str(words)} | str(words):
            return words
        case _:
            return str(error)


def _of_ollama(usage: Usage, said: Mapping[str, Any]) -> Usage:
    remote = said.get("remote_host") or said.get("remote_model")
    if remote:
        usage = replace(usage, remote=str(remote))
    if said.get("done") is not True:
        return usage
    return replace(
        usage,
        ended=True,
        done_reason=_word(said.get("done_reason")),
        prompt_tokens=_count(said.get("prompt_eval_count")),
        answer_tokens=_count(said.get("eval_count", 0)),
        load_seconds=_seconds(said.get("load_duration"), 1e9),
        prefill_seconds=_seconds(said.get("prompt_eval_duration"), 1e9),
        generation_seconds=_seconds(said.get("eval_duration"), 1e9),
    )


def _of_openai(usage: Usage, said: Mapping[str, Any]) -> Usage:
    match said.get("choices"):
        case [{"finish_reason": str(reason)}, *_]:
            usage = replace(usage, done_reason=reason, ended=True)
    match said.get("timings"):
        case {} as timings:
            usage = _timed(usage, timings)
    match said.get("usage"):
        case {} as told:
            details = told.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else None
            usage = replace(
                usage,
                prompt_tokens=_count(told.get("prompt_tokens"), usage.prompt_tokens),
                answer_tokens=_count(told.get("completion_tokens"), usage.answer_tokens),
                cached_tokens=_count(cached, usage.cached_tokens),
            )
    return usage


def _timed(usage: Usage, timings: Mapping[str, Any]) -> Usage:
    match _count(timings.get("prompt_n")), _count(timings.get("cache_n")):
        case int(evaluated), int(cached):
            usage = replace(usage, prompt_tokens=evaluated + cached, cached_tokens=cached)
    return replace(
        usage,
        answer_tokens=_count(timings.get("predicted_n"), usage.answer_tokens),
        prefill_seconds=_seconds(timings.get("prompt_ms"), 1e3),
        generation_seconds=_seconds(timings.get("predicted_ms"), 1e3),
    )


def _says_something(said: Mapping[str, Any]) -> bool:
    match said:
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
