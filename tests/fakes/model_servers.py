"""Servers with OpenAI's protocol that load models on request, written from what each documents of itself.

``LM Studio``: its REST API v1 of 0.4.0 and v0 of 0.3.6 (lmstudio-ai/docs, 1_developer/2_rest), answers to unknown paths
and to prompts that are too large as users report them. ``llama-swap``: internal/server/api.go of August 2026, and what
a build of it answered over a real llama.cpp. ``llama.cpp's router``: tools/server/README.md, "Using multiple models".

A model is one word a token. A load ends when the test sets ``may_load``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from typing_extensions import Self

from fakes.answering import Answer, AnsweringServer, Json, Raw, Received

UNEXPECTED = "Unexpected endpoint or method. (GET /api/v1/models). Returning 200 anyway"
_CAP_SECONDS = 60.0


@dataclass
class Model:
    """One model of a server; ``window_tokens`` is what is loaded, or would be by its own settings."""

    name: str
    window_tokens: int = 4096
    loaded: bool = False
    sleeping: bool = False
    broken: bool = False
    aliases: tuple[str, ...] = ()
    peer: str = ""


@dataclass
class ModelServer:
    """The server; ``url`` is where it listens while it is entered. ``/v1`` is OpenAI's protocol."""

    models: list[Model]
    host: str = "127.0.0.1"
    port: int = 0
    received: list[Received] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    may_load: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Listen."""
        self._server = AnsweringServer(self)
        self.port = self._server.server_port
        self.url = f"http://{self.host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.may_load.set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; requests that wait are let go."""
        self.closing.set()
        self.may_load.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def gone(self, request: Received) -> None:
        """A client that went away is not of interest."""

    def answer(self, request: Received) -> Answer:
        """The answer to a request."""
        self.received.append(request)
        parts = urlsplit(request.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        body = request.body if isinstance(request.body, dict) else {}
        return self.reply(parts.path, query, body)

    def reply(self, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        """The answer of this kind of server."""
        raise NotImplementedError

    def asked(self, path: str) -> list[Any]:
        """The bodies of the requests to a path, in order."""
        return [one.body for one in self.received if urlsplit(one.path).path == path]

    def find(self, name: object) -> Model | None:
        """A model by any of its names."""
        return next((one for one in self.models if name == one.name or name in one.aliases), None)

    def wait_to_load(self) -> None:
        """Take the time of a load."""
        assert self.may_load.wait(_CAP_SECONDS)

    def talk(self, model: Model, body: Mapping[str, Any]) -> Answer:
        """An answer to a request for text, or that it is too large."""
        tokens = count(body)
        if tokens >= model.window_tokens:
            return self.too_large(tokens, model.window_tokens)
        usage = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
        if not body.get("stream"):
            choice = {
                "message": {"role": "assistant", "content": "It is."},
                "finish_reason": "stop",
            }
            return Json({"choices": [{"index": 0, **choice}], "usage": usage})
        pieces = [
            {"choices": [{"index": 0, "delta": {"content": "It is."}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ]
        events = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
        return Raw(
            f"{events}data: [DONE]\n\n".encode(), 200, (("Content-Type", "text/event-stream"),)
        )

    def too_large(self, tokens: int, window: int) -> Answer:
        """What this kind of server says of a prompt that does not fit."""
        words = f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it"
        return Json(
            {"error": {"code": 400, "message": words, "type": "exceed_context_size_error"}}, 400
        )


def count(body: Mapping[str, Any]) -> int:
    """The tokens of a prompt: its words, and four for each message."""
    messages = body.get("messages") or [{"content": str(body.get("prompt", ""))}]
    return sum(4 + len(str(message.get("content")).split()) for message in messages)


@dataclass
class LMStudio(ModelServer):
    """LM Studio: 0.4.0 and later has the API v1, one before only v0, and loads a model by its first request."""

    has_v1: bool = True

    def reply(self, path: str, _query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        """See the base class."""
        match path.removeprefix("/api/v1/models") if self.has_v1 else "":
            case "" if self.has_v1:
                return Json({"models": [self._entry(model) for model in self.models]})
            case "/load":
                return self._load(body)
            case "/unload":
                return self._unload(body)
        if path == "/api/v0/models":
            return Json({"object": "list", "data": [self._older(model) for model in self.models]})
        if path == "/v1/models":
            listed = [
                {"id": one.name, "object": "model", "owned_by": "organization_owner"}
                for one in self.models
            ]
            return Json({"object": "list", "data": listed})
        model = self.find(body.get("model"))
        if path in ("/v1/chat/completions", "/v1/completions") and model is not None:
            if not model.loaded:  # just in time
                self.wait_to_load()
                model.loaded = True
            return self.talk(model, body)
        return Json({"error": UNEXPECTED})

    def too_large(self, tokens: int, window: int) -> Answer:
        """See the base class."""
        words = (
            "The number of tokens to keep from the initial prompt is greater than the context length"
            f" (n_keep: {tokens - 1} >= n_ctx: {window}). Try to load the model with a larger context length,"
            " or provide a shorter input"
        )
        return Json({"error": words}, 400)

    def _entry(self, model: Model) -> dict[str, Any]:
        config = {"context_length": model.window_tokens, "eval_batch_size": 512, "parallel": 4}
        loaded = [{"id": model.name, "config": config}] if model.loaded else []
        kind = {"type": "llm", "publisher": "p", "key": model.name, "format": "gguf"}
        return {**kind, "loaded_instances": loaded, "max_context_length": 32768}

    def _older(self, model: Model) -> dict[str, Any]:
        loaded = {"loaded_context_length": model.window_tokens} if model.loaded else {}
        state = "loaded" if model.loaded else "not-loaded"
        return {
            "id": model.name,
            "type": "llm",
            "state": state,
            "max_context_length": 32768,
            **loaded,
        }

    def _load(self, body: Mapping[str, Any]) -> Answer:
        model = self.find(body.get("model"))
        if model is None:
            return Json({"error": {"message": f"Model '{body.get('model')}' not found"}}, 404)
        self.wait_to_load()
        if model.broken:
            words = "Failed to load model: insufficient system resources"
            return Json({"error": {"type": "model_load_failed", "message": words}}, 500)
        model.loaded = True
        model.window_tokens = int(body.get("context_length") or model.window_tokens)
        told = {"type": "llm", "instance_id": model.name, "load_time_seconds": 0.5}
        return Json({**told, "status": "loaded"})

    def _unload(self, body: Mapping[str, Any]) -> Answer:
        model = self.find(body.get("instance_id"))
        if model is None or not model.loaded:
            return Json({"error": {"message": "not loaded"}}, 404)
        model.loaded = False
        return Json({"instance_id": model.name})


@dataclass
class LlamaSwap(ModelServer):
    """llama-swap: at most one model runs; a request for another one waits until that is loaded in its place."""

    profiles: dict[str, Any] = field(default_factory=lambda: {"active": None, "profiles": []})
    has_counts: bool = True
    """Whether its llama.cpp counts whole requests, as one of 2026 does."""

    def reply(self, path: str, _query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        """See the base class."""
        if path == "/v1/models":
            return Json({"object": "list", "data": [self._entry(model) for model in self.models]})
        if path == "/running":
            return Json(
                {"running": [self._running(model) for model in self.models if model.loaded]}
            )
        if path == "/api/profiles":
            return Json(self.profiles)
        if path == "/api/version":
            return Json({"version": "0", "commit": "abcd1234", "build_date": "unknown"})
        name, rest = body.get("model"), path
        if path.startswith("/upstream/"):
            name, _, rest = unquote(path.removeprefix("/upstream/")).partition("/")
            rest = f"/{rest}"
        model = self.find(name)
        if model is None or not rest.startswith(
            ("/v1/", "/props", "/health", "/tokenize", "/apply")
        ):
            words = "no router for requested model"
            return Json(
                {"src": "llama-swap", "error": {"message": words, "code": "not_found"}}, 404
            )
        if not model.loaded:
            self.wait_to_load()
            if model.broken:
                words = "unspecific error: upstream command exited prematurely"
                return Json(
                    {"src": "llama-swap", "error": {"message": words, "type": "server_error"}}, 500
                )
            for other in self.models:
                other.loaded = other is model
        return self.process(model, rest, body)

    def process(self, model: Model, path: str, body: Mapping[str, Any]) -> Answer:
        """The answer of a model's llama-server."""
        match path:
            case "/health":
                return Json({"status": "ok"})
            case "/props":
                return Json({"default_generation_settings": {"n_ctx": model.window_tokens}})
            case "/v1/chat/completions/input_tokens" if self.has_counts:
                return Json({"input_tokens": count(body), "object": "response.input_tokens"})
            case "/apply-template":
                said = "".join(f"a b c d {one['content']} " for one in body["messages"])
                return Json({"prompt": said})
            case "/tokenize":
                return Json({"tokens": list(range(len(body["content"].split())))})
            case "/v1/chat/completions":
                return self.talk(model, body)
        return Json({"error": {"code": 404, "message": "File Not Found"}}, 404)

    def _entry(self, model: Model) -> dict[str, Any]:
        meta = {"type": "peer", "peerID": model.peer} if model.peer else {"type": "model"}
        if model.aliases:
            meta["aliases"] = list(model.aliases)  # type: ignore[assignment]
        status = {"value": "loaded" if model.loaded else "unloaded"}
        told = {"id": model.name, "object": "model", "owned_by": "llama-swap"}
        return {**told, "meta": {"llamaswap": meta}, "status": status}

    def _running(self, model: Model) -> dict[str, Any]:
        command = (
            f"/usr/bin/llama-server --model '/m/a b.gguf' --port 5800 -c {model.window_tokens}"
        )
        return {"model": model.name, "state": "ready", "cmd": command, "proxy": "", "ttl": 600}


@dataclass
class LlamaRouter(LlamaSwap):
    """llama.cpp's server without a model of its own: it starts a process for each model that is asked for."""

    def reply(self, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        """See the base class."""
        if path in ("/models", "/v1/models"):
            return Json({"object": "list", "data": [self._listed(model) for model in self.models]})
        if path == "/props" and "model" not in query:
            return Json({"role": "router", "default_generation_settings": {"n_ctx": 0}})
        model = self.find(query.get("model") or body.get("model"))
        if model is None:
            words = f"model '{body.get('model')}' not found"
            return Json(
                {"error": {"code": 400, "message": words, "type": "invalid_request_error"}}, 400
            )
        if path == "/models/load":
            return self._load(model)
        if not model.loaded and query.get("autoload") == "false":
            return Json({"error": {"code": 400, "message": "model is not loaded"}}, 400)
        model.loaded, model.sleeping = True, False
        return self.process(model, path, body)

    def _load(self, model: Model) -> Answer:
        if model.loaded:
            return Json({"error": {"code": 400, "message": "model is already running"}}, 400)
        if not model.broken:
            model.loaded = True
        self._failed = model.broken
        return Json({"success": True})

    _failed: bool = False

    def _listed(self, model: Model) -> dict[str, Any]:
        value = "sleeping" if model.sleeping else "loaded" if model.loaded else "unloaded"
        args = ["/usr/bin/llama-server", "--port", "0", "--ctx-size", str(model.window_tokens)]
        failed = {"failed": True, "exit_code": 1} if self._failed and model.broken else {}
        told = {"id": model.name, "aliases": list(model.aliases), "object": "model"}
        return {**told, "owned_by": "llamacpp", "status": {"value": value, "args": args, **failed}}
