"""Has models of other servers loaded before their prompts are judged, and knows their windows and who loaded them.

llama.cpp's router, llama-swap, LM Studio and Ollama's own ``/v1`` load a model at its first request, in silence: a
request would wait without a word, for a window that is not known yet. So the door asks such a server at each request
what it has loaded, has it load what is missing, says so meanwhile, and judges the prompt by what is loaded then.

Everything runs on the door's event loop, but for ``count`` and ``count_texts``, and for ``close``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from aider_guard.core.chat.body import without_unanswered
from aider_guard.core.chat.errors import Failure, failure_of_answer
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.other_servers import NOT_TOLD, OtherModel, loading_words, window_to_load
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.door.interfaces import ModelLoading
from aider_guard.line_process import start_thread
from aider_guard.ollama.other_server import Loaded, OtherServer

ANSWER_SECONDS: Final = 1.0
"""How long a request waits for what its server tells of the model."""
KNOWN_SECONDS: Final = 60.0
"""How long a server that runs one model is taken to have the same window."""
END_SECONDS: Final = 0.6
"""How long the end of a session waits for LM Studio: it has the request by then, and carries it out."""
RECENT_SECONDS: Final = 0.2
AGAIN_SECONDS: Final = 15.0
"""How long a server is left alone that told nothing of a model: requests do not wait for it each time."""
FRESH_SECONDS: Final = 5.0
"""How long the outcome of a load is told to a request: after that the server is asked to load the model again."""
_NOT_COUNTED: Final = Unavailable("this server does not count prompts")
_STUDIO: Final = "LM Studio"


@dataclass
class _KnownModel:
    """What is known of one model: as its server told last, and a load that this session has asked for."""

    model: OtherModel | None = None
    asked_at: float = float("-inf")
    left_alone_until: float = float("-inf")
    load: Future[Loaded | NoAnswer] | None = None
    loaded_at: float = float("-inf")
    """When the last load ended, well or not."""


@dataclass
class _KnownServer:
    """One server, with its client and its models by name."""

    client: OtherServer
    models: dict[str, _KnownModel] = field(default_factory=dict)
    instances: dict[str, None] = field(default_factory=dict)
    """The copies of models that LM Studio made for this session."""
    turn: int | None = None
    """The request that LM Studio is answering: it answers one at a time."""


class OtherServerModels:
    """Knows the models of each server with OpenAI's protocol (``interfaces.OtherModels``)."""

    def __init__(
        self,
        *,
        connect: Callable[..., OtherServer] = OtherServer,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._answer_seconds, self._clock = connect, answer_seconds, clock
        self._servers: dict[str, _KnownServer] = {}
        self._settings = DoorSettings("", (), (), 0)
        self._lock = threading.Lock()

    def serve(self, settings: DoorSettings) -> None:
        """Take the session's models, and have the main one loaded while the user types."""
        self._settings = settings
        paths = {up.path: up for up in settings.upstreams if up.kind == "openai"}
        main = next((role for role in settings.roles if role.role == "main"), None)
        if main is not None and (upstream := paths.get(main.path)) is not None:
            start_thread("load-ahead", partial(self._load_ahead, upstream, main.model))

    async def describe(self, upstream: Upstream, model: str) -> OtherModel | None:
        """Return what a model's server tells of it now; None where it tells nothing in time."""
        server = self._server(upstream)
        known = server.models.setdefault(model, _KnownModel())
        is_fixed = known.model is not None and known.model.server in ("", "llama.cpp")
        now = self._clock()
        if now - known.asked_at < (KNOWN_SECONDS if is_fixed else RECENT_SECONDS):
            return known.model
        if now < known.left_alone_until:
            return known.model
        ask = partial(self._ask, server, known, model)
        try:
            await asyncio.wait_for(asyncio.to_thread(ask), self._answer_seconds)
        except asyncio.TimeoutError:
            known.left_alone_until = now + AGAIN_SECONDS
        except RuntimeError:  # httpx's, of a client that is closed
            pass
        return known.model

    async def prepare(
        self, number: int, request: ChatRequest, upstream: Upstream
    ) -> ModelLoading | Failure | None:
        """See ``interfaces.OtherModels``."""
        if not _concerns(request, upstream):
            return None
        server = self._server(upstream)
        known = server.models.setdefault(request.model, _KnownModel())
        if known.load is not None and not known.load.done():
            return ModelLoading(loading_words(known.model or OtherModel(""), request.model))
        finished, known.load = known.load, None
        is_fresh = self._clock() - known.loaded_at < FRESH_SECONDS
        result = finished.result() if finished is not None and is_fresh else None
        if isinstance(result, NoAnswer):
            return _failure_of(result)
        began = self._clock()
        model = await self.describe(upstream, request.model)
        if model is None:
            return None
        if model.loads_first and result is None:
            window = self._window_for(upstream, request.model)
            self._load_once(server, known, model, window, began)
            return ModelLoading(loading_words(model, request.model))
        if model.server == _STUDIO:
            if server.turn not in (None, number):
                return ModelLoading(f"{_STUDIO} answers one request at a time, and has another")
            server.turn = number
        return None

    def end(self, number: int) -> None:
        """Note that a request is over, answered or not."""
        for server in self._servers.values():
            if server.turn == number:
                server.turn = None

    def window(self, request: ChatRequest, upstream: Upstream) -> int | Unavailable:
        """Return the window of a request's model, as its server told it last."""
        known = self._server(upstream).models.get(request.model)
        return known.model.window_tokens if known and known.model else NOT_TOLD

    def known(self, upstream: Upstream, model: str) -> OtherModel | None:
        """Return what the server told of a model last; None where it was not asked."""
        known = self._server(upstream).models.get(model)
        return known.model if known else None

    def count(self, request: ChatRequest, upstream: Upstream) -> int | Unavailable:
        """Return the tokens of a prompt, by the process of its model; blocks for a second at most."""
        model = self.known(upstream, request.model)
        if model is None or not model.counts or not all(one.plain for one in request.messages):
            return _NOT_COUNTED
        client = self._server(upstream).client
        return client.count(model, without_unanswered(request, 0), self._answer_seconds)

    def count_texts(
        self, upstream: Upstream, model: str, texts: Sequence[str]
    ) -> tuple[int, ...] | Unavailable:
        """Return the tokens of single texts, in the same way."""
        found = self.known(upstream, model)
        if found is None or not found.counts:
            return _NOT_COUNTED
        return self._server(upstream).client.count_texts(found, texts, self._answer_seconds)

    def close(self) -> None:
        """Have LM Studio unload what it loaded for this session, within a moment, and close the connections."""
        for server in self._servers.values():
            for known in server.models.values():
                self._note(server, known.load)
            for instance in server.instances:
                with suppress(RuntimeError):  # closed already
                    server.client.unload(instance, END_SECONDS)
            server.instances.clear()
            server.client.close()

    def _server(self, upstream: Upstream) -> _KnownServer:
        base = upstream.base if upstream.kind == "openai" else f"{upstream.base}/v1"
        with self._lock:
            if base not in self._servers:
                self._servers[base] = _KnownServer(self._connect(base, upstream.headers))
            return self._servers[base]

    def _ask(self, server: _KnownServer, known: _KnownModel, model: str) -> None:
        began = self._clock()
        described = server.client.describe(model, self._answer_seconds)
        if known.loaded_at >= began:  # what was told may be of before
            return
        if isinstance(described, OtherModel):
            known.model, known.asked_at = described, self._clock()
        else:
            known.left_alone_until = self._clock() + AGAIN_SECONDS

    def _load_ahead(self, upstream: Upstream, name: str) -> None:
        server = self._server(upstream)
        known = server.models.setdefault(name, _KnownModel())
        with suppress(RuntimeError):  # the session has ended
            began = self._clock()
            self._ask(server, known, name)
            if known.model is not None and known.model.loads_first:
                window = self._window_for(upstream, name)
                self._load_once(server, known, known.model, window, began)

    def _window_for(self, upstream: Upstream, name: str) -> int:
        """The window that the session wants for a model; 0 where it has none for it."""
        roles = (role for role in self._settings.roles if role.path == upstream.path)
        return next((role.window_tokens for role in roles if role.model == name), 0)

    def _load_once(
        self,
        server: _KnownServer,
        known: _KnownModel,
        model: OtherModel,
        window_tokens: int,
        asked_at: float,
    ) -> None:
        """Have a model loaded that was not in memory when its server was asked at that time, in a thread of its own.

        It is not loaded if it was loaded since, or is being loaded: LM Studio would make a second copy of it.
        """
        future: Future[Loaded | NoAnswer] = Future()
        with self._lock:
            if known.load is not None or known.loaded_at >= asked_at:
                return
            known.load = future

        def load() -> None:
            try:
                result = server.client.load(model, window_to_load(model, window_tokens))
            except RuntimeError:  # httpx's, of a client that is closed
                result = NoAnswer("the session has ended")
            known.loaded_at, known.asked_at = self._clock(), float("-inf")
            future.set_result(result)
            self._note(server, future)

        known.asked_at = float("-inf")
        start_thread("load", load)

    def _note(self, server: _KnownServer, load: Future[Loaded | NoAnswer] | None) -> None:
        """Remember the copy of a model that a load made, to have it unloaded at the end."""
        result = load.result() if load is not None and load.done() else None
        if isinstance(result, Loaded) and result.instance:
            server.instances[result.instance] = None


def _concerns(request: ChatRequest, upstream: Upstream) -> bool:
    """Whether a request is of OpenAI's protocol: Ollama's own has all that is needed in its fields."""
    return upstream.kind == "openai" or request.form in ("openai_chat", "openai_text")


def _failure_of(why: NoAnswer) -> Failure:
    if why.status:
        return failure_of_answer(why.status, why.content, why.location)
    return Failure("down", why.cause or why.reason)
