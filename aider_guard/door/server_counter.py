"""Has Ollama itself say how many tokens a prompt has: it makes the text, and the process of its model counts it.

That is exact for every template and vocabulary. From 0.12.6 on Ollama makes the text of a prompt on request and drops
nothing of it; from 0.30 on the process of a loaded model is llama.cpp's server, which tokenises any text
(``/tokenize``) beside its other work. Nothing is asked that could load a model: it must be there, with the request's
window. The calls block, each for a bounded time; the door makes them in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import httpx

from aider_guard.core.chat.body import rendering_body
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import Sizes
from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.model_names import canonical_name
from aider_guard.core.ollama_versions import era_of
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import RequestTarget
from aider_guard.ollama.access import Headers
from aider_guard.ollama.client import MAX_ANSWER_BYTES, NOT_RENDERED, OllamaClient
from aider_guard.ollama.http import fetch, json_object
from aider_guard.ollama.model_process import (
    NO_PROCESS,
    STARTING,
    ModelProcess,
    find_model_process,
)
from aider_guard.ollama.names import is_this_machine

ANSWER_SECONDS: Final = 1.0
"""How long one question may take: 100,000 tokens are made and counted in half of it."""
CONNECT_SECONDS: Final = 0.2
AGAIN_SECONDS: Final = 15.0
"""How long a server is left alone that did not answer in time, or not as it should."""
FOR_EVER: Final = float("inf")
KNOWN_SECONDS: Final = 30.0
"""How long the file of a model is taken to be the same: ``ollama create`` may put another under its name."""
_PATHS: Final = {"chat": "/api/chat", "generate": "/api/generate"}
LOADING: Final = Unavailable("the model is being loaded")
_NOT_LOADED: Final = Unavailable("the model is not loaded as the request needs it")


@dataclass(frozen=True)
class RenderedPrompt:
    """The text of a prompt as the server makes it, and its tokens where its process was there to count them.

    ``is_partial`` is whether the text of a system message or of the user's is not in it as it was sent.
    """

    text: str = field(repr=False)
    tokens: int | Unavailable
    is_partial: bool = False
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class _LoadedModel:
    """A process that has answered: its model is loaded. ``first_token`` begins each prompt, "" where none does."""

    process: ModelProcess
    first_token: str


class ServerCounter:
    """Asks each Ollama about its own prompts. Safe to use from several threads."""

    def __init__(
        self,
        *,
        find: Callable[[str, str], ModelProcess | Unavailable] = find_model_process,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._answer_seconds, self._clock = find, answer_seconds, clock
        # No proxy of the environment, no redirect, and plain http: the processes listen on this machine.
        self._http = httpx.Client(trust_env=False, verify=False, follow_redirects=False)  # noqa: S501
        self._clients: dict[str, OllamaClient] = {}
        self._digests: dict[tuple[str, str], tuple[float, str]] = {}
        self._loaded: dict[tuple[str, str], _LoadedModel] = {}
        self._left_alone_until: dict[str, float] = {}
        self._unseen: dict[str, tuple[float, Unavailable]] = {}
        self._versions: dict[str, str | Unavailable] = {}
        self._sizes = Sizes()

    def render(
        self, request: ChatRequest, target: RequestTarget, settings: DoorSettings
    ) -> RenderedPrompt | Unavailable:
        """Return the text of a prompt, with its tokens where the process of its model is there to count them."""
        upstream, path = target.upstream, _PATHS.get(request.form)
        if upstream.kind != "ollama" or path is None:
            return Unavailable("only Ollama's own protocol makes the text of a prompt")
        if settings.window_tokens <= 0 or _has_images(request):
            return Unavailable("a prompt with images, or without a fixed window, is not made ahead")
        if self._is_left_alone(upstream.base):
            return Unavailable("Ollama did not answer a moment ago")
        self._versions[upstream.base] = target.version
        client = self._client(upstream.base, upstream.headers or None)
        loaded = self.loaded_model(upstream.base, request.model)
        if isinstance(loaded, _LoadedModel):
            if loaded.process.window_tokens != target.window_tokens:
                return _NOT_LOADED
        elif not _may_render(loaded, target, settings):
            return loaded
        body = rendering_body(request, settings, upstream, target.version)
        text = client.render(path, body, self._answer_seconds)
        if isinstance(text, Unavailable):
            self._leave_alone(upstream.base, FOR_EVER if text is NOT_RENDERED else AGAIN_SECONDS)
            return text
        ids = self._token_ids(loaded, text) if isinstance(loaded, _LoadedModel) else loaded
        is_partial = _leaves_out(text, request)
        if isinstance(ids, Unavailable):
            return RenderedPrompt(text, ids, is_partial)
        return RenderedPrompt(text, len(ids), is_partial, ids)

    def count_texts(
        self, base: str, model: str, texts: Sequence[str]
    ) -> tuple[int, ...] | Unavailable:
        """Return the tokens of single texts, without any that the model puts before a prompt."""
        loaded = self.loaded_model(base, model)
        if isinstance(loaded, Unavailable):
            return loaded
        known, counted = loaded.process.digest, []
        for text in texts:
            tokens: int | Unavailable | None = self._sizes.noted(known, text)
            if tokens is None:
                answer = self._tokenize(loaded, text, add_special=False)
                tokens = answer if isinstance(answer, Unavailable) else len(answer)
            if isinstance(tokens, Unavailable):
                return tokens
            self._sizes.note_counts(known, (text,), (tokens,), 0.0)
            counted.append(tokens)
        return tuple(counted)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        for client in self._clients.values():
            client.close()

    def process_of(self, base: str, model: str) -> ModelProcess | Unavailable:
        """Return the process that has this model loaded, if it answers."""
        loaded = self.loaded_model(base, model)
        return loaded.process if isinstance(loaded, _LoadedModel) else loaded

    def loaded_model(self, base: str, model: str) -> _LoadedModel | Unavailable:
        """Return the process that has this model loaded, below the Ollama at this address."""
        if not is_this_machine(base):
            return Unavailable("Ollama runs on another machine")
        if era_of(self._versions.get(base, NO_PROCESS)).engine != "C":
            return NO_PROCESS  # its models run in processes that count nothing
        key = (base, canonical_name(model))
        digest = self._digest(*key)
        if isinstance(digest, Unavailable):
            return digest
        known = self._loaded.pop(key, None)
        if known is None or known.process.digest != digest or not known.process.still_runs:
            process = self._look_for(base, digest)
            loaded = process if isinstance(process, Unavailable) else self._greet(process)
            if isinstance(loaded, Unavailable):
                return loaded
            known = loaded
        self._loaded[key] = known
        return known

    def _look_for(self, base: str, digest: str) -> ModelProcess | Unavailable:
        """Find a process. What hides all of them, as a container does, is taken to last for a while."""
        until, reason = self._unseen.get(base, (float("-inf"), NO_PROCESS))
        if self._clock() < until:
            return reason
        found = self._find(base, digest)
        if isinstance(found, Unavailable) and found not in (NO_PROCESS, STARTING):
            self._unseen[base] = (self._clock() + AGAIN_SECONDS, found)
        return found

    def _digest(self, base: str, model: str) -> str | Unavailable:
        now = self._clock()
        known_at, digest = self._digests.get((base, model), (float("-inf"), ""))
        if now - known_at < KNOWN_SECONDS:
            return digest
        answer = self._client(base).blob(model, self._answer_seconds)
        if isinstance(answer, str):
            self._digests[base, model] = (now, answer)
        elif self._clock() - now >= self._answer_seconds:
            self._leave_alone(base)
        return answer

    def _greet(self, process: ModelProcess) -> _LoadedModel | Unavailable:
        """Ask a process for its properties: one that still loads its model has none to tell (503)."""
        answer = self._ask(process, "GET", "/props", None)
        if isinstance(answer, Unavailable):
            return answer
        first = answer.get("bos_token")
        return _LoadedModel(process, first if isinstance(first, str) else "")

    def _token_ids(self, loaded: _LoadedModel, text: str) -> tuple[int, ...] | Unavailable:
        tokens = self._tokenize(loaded, text, add_special=True)
        if isinstance(tokens, Unavailable):
            return tokens
        # A first token that the template has written and the tokeniser has added is left out by Ollama.
        is_doubled = bool(loaded.first_token) and text.startswith(loaded.first_token)
        return tuple(tokens[1:] if is_doubled and tokens[:1] == tokens[1:2] else tokens)

    def _tokenize(
        self, loaded: _LoadedModel, text: str, *, add_special: bool
    ) -> list[Any] | Unavailable:
        question = {"content": text, "add_special": add_special, "parse_special": True}
        match self._ask(loaded.process, "POST", "/tokenize", question):
            case {"tokens": list(tokens)}:
                return tokens
            case Unavailable() as unavailable:
                return unavailable
        return Unavailable("the model's process did not say how many tokens a text has")

    def _ask(
        self, process: ModelProcess, method: str, path: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any] | Unavailable:
        if self._is_left_alone(process.base):
            return Unavailable("the model's process did not answer a moment ago")
        try:
            answered = fetch(
                partial(self._http.stream, method, process.base + path, json=body),
                seconds=self._answer_seconds,
                connect_seconds=CONNECT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
                clock=self._clock,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            self._leave_alone(process.base)
            return Unavailable(f"the model's process did not answer ({type(error).__name__})")
        if answered.status == httpx.codes.SERVICE_UNAVAILABLE:
            return LOADING
        if answered.status == httpx.codes.OK and (answer := json_object(answered.content)):
            return answer
        return Unavailable(f"the model's process answered {answered.status}")

    def _client(self, base: str, headers: Headers | None = None) -> OllamaClient:
        """The client for an Ollama; the first call for each says what it gets with every question."""
        if base not in self._clients:
            self._clients[base] = OllamaClient(base, headers=headers)
        return self._clients[base]

    def _leave_alone(self, base: str, seconds: float = AGAIN_SECONDS) -> None:
        self._left_alone_until[base] = self._clock() + seconds

    def _is_left_alone(self, base: str) -> bool:
        return self._clock() < self._left_alone_until.get(base, float("-inf"))


def _may_render(reason: Unavailable, target: RequestTarget, settings: DoorSettings) -> bool:
    """Whether an Ollama whose process of the model is not seen makes a text without loading anything.

    From 0.30 on a process that loads, or is missing below an Ollama of this machine, shows that nothing is loaded.
    """
    era = era_of(target.version)
    if reason in (LOADING, STARTING) or (reason is NO_PROCESS and era.engine == "C"):
        return False
    return era.knows_truncate and target.loaded_tokens in (
        target.window_tokens,
        settings.window_tokens,
    )


def _has_images(request: ChatRequest) -> bool:
    messages = request.body.get("messages")
    entries = [request.body, *(messages if isinstance(messages, list) else ())]
    return any(isinstance(entry, dict) and entry.get("images") for entry in entries)


def _leaves_out(text: str, request: ChatRequest) -> bool:
    """Whether a text lacks a message; answers are not looked for, as templates take the thoughts out of them."""
    asked = (one.content.strip() for one in request.messages if one.role in ("system", "user"))
    return not all(content in text for content in asked)
