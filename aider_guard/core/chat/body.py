"""Makes the bodies that the door sends to a server: the changed body of a request, and bodies of its own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aider_guard.core.chat.request import (
    ChatRequest,
    asks_for_nothing,
    prompt_blocks,
    summary_blocks,
    unanswered_places,
    visible_places,
    without_own_answers,
)
from aider_guard.core.chat.size import parts
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.ollama_versions import knows_truncate
from aider_guard.core.readings import Unavailable

KEEP_SECONDS: Final = 1800
KEEP_ALIVE: Final = "30m"


def forbids_truncation(
    request: ChatRequest, settings: DoorSettings, upstream: Upstream, version: str | Unavailable
) -> bool:
    """Whether the body that is sent tells Ollama to refuse a prompt rather than cut it."""
    return (
        upstream.kind == "ollama"
        and request.form in ("chat", "generate")
        and settings.on_overflow == "refuse"
        and knows_truncate(version)
        and not asks_for_nothing(request)
    )


def body_to_send(
    request: ChatRequest,
    body: bytes,
    settings: DoorSettings,
    upstream: Upstream,
    version: str | Unavailable,
) -> bytes:
    """Return the body for the server: with the pin, ``keep_alive`` and no truncation, without the door's own answers.

    All other fields keep their values and places, and a body in which nothing changes keeps its bytes. OpenAI's
    protocol has no field for a window; there the usage is requested where the client did not (``asks_for_usage``).
    """
    changed = dict(request.body)
    if upstream.kind == "ollama" and request.form in ("chat", "generate"):
        if _unloads(request):
            return body
        _pin(changed, request, settings, upstream, version)
    elif asks_for_usage(request):
        options = changed.get("stream_options")
        changed["stream_options"] = {
            **(options if isinstance(options, dict) else {}),
            "include_usage": True,
        }
    _remove_own(changed, request)
    return body if changed == request.body else encode_body(changed)


def without_thinking(request: ChatRequest) -> ChatRequest:
    """Return a request for a commit message or a summary as one without thinking, which Aider would throw away.

    A request that says itself whether to think is returned as it is, as are all others. ``think`` is Ollama's field,
    from 0.9.0 on; a server before that ignores it.
    """
    is_side_work = request.purpose in ("commit", "summary") and request.form in ("chat", "generate")
    if not is_side_work or request.body.get("think") is not None:
        return request
    return replace(request, body={**request.body, "think": False})


def rendering_body(
    request: ChatRequest, settings: DoorSettings, upstream: Upstream, version: str | Unavailable
) -> dict[str, Any]:
    """Return the body by which Ollama makes the text of a request's prompt and generates nothing.

    ``_debug_render_only`` is a field of api/types.go (0.11.5 and later). All that a model is loaded with is the
    request's own, or rendering would load it anew; ``truncate`` keeps messages that do not fit (0.12.6 and later). A
    server that takes itself for such an Ollama and does not know the field generates one token.
    """
    changed = dict(request.body)
    _pin(changed, request, settings, upstream, version)
    _remove_own(changed, request)
    options = {**(changed.get("options") or {}), "num_predict": 1}
    rendering = {"stream": False, "truncate": False, "_debug_render_only": True}
    return {**changed, **rendering, "options": options}


def count_unanswered(request: ChatRequest) -> int:
    """Return how many of the user's messages in the prompt only the door has answered."""
    messages, prompt = request.body.get("messages"), request.body.get("prompt")
    if request.form == "generate" and isinstance(prompt, str) and request.raw_prompt is None:
        blocks = [(block.role, block.content) for block in prompt_blocks(prompt)]
        return len(unanswered_places(blocks))
    if request.form not in ("chat", "openai_chat") or not isinstance(messages, list):
        return 0
    texts = [_role_and_text(message) for message in messages]
    if request.purpose != "summary":
        return len(unanswered_places(texts))
    return sum(len(unanswered_places(_summary_messages(text))) for _, text in texts)


def without_unanswered(request: ChatRequest, leave_out: int) -> dict[str, Any]:
    """Return the body without the door's own answers and the oldest ``leave_out`` messages that it answered."""
    changed = dict(request.body)
    _remove_own(changed, request, leave_out)
    return changed


def asks_for_usage(request: ChatRequest) -> bool:
    """Whether the door requests the usage of a stream, because the client did not."""
    if request.form not in ("openai_chat", "openai_text") or not request.stream:
        return False
    options = request.body.get("stream_options")
    return not (isinstance(options, dict) and options.get("include_usage") is True)


def _unloads(request: ChatRequest) -> bool:
    """Whether a request unloads a model: ``keep_alive`` of 0, in any of Ollama's spellings, and no prompt."""
    value = request.body.get("keep_alive")
    zero = value == 0 or (isinstance(value, str) and re.fullmatch(r"-?0+(ns|us|ms|s|m|h)?", value))
    return bool(zero) and not isinstance(value, bool) and asks_for_nothing(request)


def _pin(
    changed: dict[str, Any],
    request: ChatRequest,
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
    if forbids_truncation(request, settings, upstream, version):
        changed["truncate"] = False


def _remove_own(changed: dict[str, Any], request: ChatRequest, leave_out: int = 0) -> None:
    prompt, messages = changed.get("prompt"), changed.get("messages")
    if request.form == "generate" and isinstance(prompt, str) and request.raw_prompt is None:
        changed["prompt"] = without_own_answers(prompt, leave_out)
    if request.form not in ("chat", "openai_chat") or not isinstance(messages, list):
        return
    texts = [_role_and_text(message) for message in messages]
    is_summary = request.purpose == "summary"
    places = visible_places(texts, leave_out)
    visible = [messages[place] for place in places]
    changed["messages"] = (
        [_cleaned_summary(message, leave_out) for message in visible] if is_summary else visible
    )


def _role_and_text(message: object) -> tuple[str, str]:
    match message:
        case {"role": str(role), "content": str(content)}:
            return role, content
        case {"role": str(role), "content": [{"type": "text", "text": str(content)}]}:
            return role, content
        case _:
            return "", ""


def _cleaned_summary(message: Any, leave_out: int) -> Any:
    """Return a conversation to summarise without the door's own answers."""
    match message:
        case {"role": "user", "content": str(content)}:
            blocks = summary_blocks(content)
            places = visible_places(_summary_messages(content), leave_out)
            left = "".join(blocks[place].whole for place in places)
            return {**message, "content": left or content}
        case _:
            return message


def _summary_messages(text: str) -> list[tuple[str, str]]:
    """Return the messages of a conversation to summarise, by role and content."""
    return [(block.role, block.content.rstrip("\n")) for block in summary_blocks(text)]


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a body."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, only an escape
        return json.dumps(body, separators=(",", ":")).encode("ascii")


# The head of a prompt, which the next prompt will begin with too, and the requests that evaluate it ahead of time.
#
# Aider's order (coders/chat_chunks.py, 0.86): system text, examples, read-only files, map of the repository; then the
# history, the files that may be edited, and the question. A new Aider has another history, so the head ends before it.
#
# Ollama does not stop in the middle of a prompt whose client went away (0.9.3: the runner looks for that only when it
# has an answer to send), so a head is evaluated in pieces, each the beginning of the next: only one is wasted.

RUNNER_OPTIONS: Final = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock"),
    *("num_thread", "numa", "low_vram", "draft_num_predict"),
)
"""The options that a runner is started with (api/types.go, Runner): other values load the model again."""
SHIFT: Final = "shift"
_ANSWERS: Final = ("num_predict", "stop", "seed", "temperature")
_QUESTION: Final = {"role": "user", "content": "."}
"""Stands at the end, as the user's message will: templates treat an answer at the end as one to be continued, leave out
thoughts before the last question, or refuse a conversation without one."""


@dataclass(frozen=True)
class PromptHead:
    """The beginning of a prompt, ready to be sent. Kept in memory only."""

    path: str
    body: Mapping[str, Any] = field(repr=False)
    """The request without its prompt."""
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    """For ``/api/chat``."""
    prompt: str = field(repr=False)
    """For ``/api/generate``."""

    @property
    def characters(self) -> int:
        """The number of characters in it."""
        return len(self.prompt) + sum(len(message["content"]) for message in self.messages)

    def beginning(self, characters: int) -> dict[str, Any]:
        """Return the body that evaluates so many characters of the head, with the shortest answer."""
        if self.prompt:
            return {**self.body, "prompt": self.prompt[:characters]}
        messages = _cut(self.messages, characters)
        if not messages or messages[-1]["role"] != "user":
            messages.append(_QUESTION)
        return {**self.body, "messages": messages}


def head_of(
    request: ChatRequest, settings: DoorSettings, upstream: Upstream, version: str | Unavailable
) -> PromptHead | None:
    """Return the head of a main request to Ollama as the door would send it; None when none is recognised."""
    if not may_have_head(request) or upstream.kind != "ollama":
        return None
    body = json.loads(
        body_to_send(request, json.dumps(request.body).encode("ascii"), settings, upstream, version)
    )
    # What the next Aider will send again.
    fixed = itertools.takewhile(
        lambda part: part.kind in ("system", "map") or (part.kind == "file" and part.read_only),
        parts(request),
    )
    length = sum(len(part.text) for part in fixed)
    if request.form == "generate":
        return _flattened_head(body, length)
    listed = body.get("messages")
    plain = itertools.takewhile(is_plain_message, listed if isinstance(listed, list) else ())
    messages = tuple(_cut(plain, length))
    if not messages:
        return None
    return PromptHead("/api/chat", shortest_answer(body, "messages"), messages, "")


def may_have_head(request: ChatRequest) -> bool:
    """Whether a request is the main model's and of a form whose head can be found."""
    of_the_user = request.role == "main" and request.purpose in ("chat", "other")
    return of_the_user and request.form in ("chat", "generate") and request.raw_prompt is None


def loading_body(
    model: str, options: Mapping[str, Any], settings: DoorSettings, keep_alive: object
) -> dict[str, Any]:
    """Return the body for ``/api/generate`` that loads a model without a prompt (Ollama's routes.go).

    It has the runner's options of the last request and the pin: with any other option the model would be loaded again.
    """
    pin = {"num_ctx": settings.window_tokens} if settings.window_tokens > 0 else {}
    shift = {SHIFT: options[SHIFT]} if SHIFT in options else {}
    merged = {name: value for name, value in {**options, **pin}.items() if name != SHIFT}
    body: dict[str, Any] = {"model": model, "stream": False, **shift, "options": merged}
    return body if keep_alive is None else {**body, "keep_alive": keep_alive}


def runner_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a request that a runner is started with, and ``shift``, which is beside them, if it is off.

    From 0.30 on that is a flag of llama-server's (llm/llama_server.go), and needsReload compares it (server/sched.go).
    """
    options = body.get("options")
    options = options if isinstance(options, dict) else {}
    found = {name: options[name] for name in RUNNER_OPTIONS if options.get(name) is not None}
    return {**found, SHIFT: False} if body.get(SHIFT) is False else found


def _flattened_head(body: dict[str, Any], length: int) -> PromptHead | None:
    prompt = body.get("prompt")
    if body.get("system") or not isinstance(prompt, str):
        return None
    end, left = 0, length
    for block in prompt_blocks(prompt):
        if left < len(block.content):
            end += block.whole.index("\n") + 1 + left if left else 0
            break
        end, left = end + len(block.whole), left - len(block.content)
    if not end:
        return None
    return PromptHead("/api/generate", shortest_answer(body, "prompt"), (), prompt[:end])


def is_plain_message(message: object) -> bool:
    """Whether a message holds nothing but text."""
    match message:
        case {"role": str(), "content": str(), **more}:
            return not any(more.values())
    return False


def _cut(messages: Iterable[Mapping[str, Any]], characters: int) -> list[Mapping[str, Any]]:
    """Return the messages that hold the first ``characters`` characters, the last one cut."""
    beginning: list[Mapping[str, Any]] = []
    for message in messages:
        if characters <= 0:
            break
        beginning.append({**message, "content": message["content"][:characters]})
        characters -= len(message["content"])
    return beginning


def shortest_answer(body: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    """Return a request without its prompt (the field of this name), asking for one token in any format."""
    options = {name: value for name, value in body["options"].items() if name not in _ANSWERS}
    rest = {name: value for name, value in body.items() if name not in (prompt, "format")}
    return {**rest, "stream": False, "options": {**options, "num_predict": 1}}
