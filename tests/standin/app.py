"""The HTTP side of a stand-in: its routes, as an ASGI application (server/routes.go of Ollama)."""

from __future__ import annotations

import asyncio
import json
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fakes.answering import Received
from fakes.ollama_troubles import has_cloud_name, is_allowed

from standin.log import gin
from standin.models import InvalidNameError, ModelStore, StoredModel, go_time
from standin.shapes import JSON, PLAIN_JSON, Shape, compact
from standin.talk import Talk

if TYPE_CHECKING:
    from standin.scheduler import Runner, Scheduler

TEXT: Final = "text/plain"
FOR_TEXT: Final = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions")
ASKED_WITH_POST: Final = (*FOR_TEXT, "/api/show", "/api/create", "/api/copy")
NO_CLOUD: Final = "ollama cloud is disabled: remote model is unavailable"
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class HttpReply:
    """The answer to one request, sent as it comes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._is_stream = False

    @property
    def has_begun(self) -> bool:
        """Whether its head was sent."""
        return self.status > 0

    async def json(self, body: object, status: int = 200, content_type: str = JSON) -> None:
        """Send a whole answer."""
        await self.whole(compact(body), status, content_type)

    async def whole(self, content: bytes, status: int = 200, content_type: str = TEXT) -> None:
        """Send any whole answer."""
        length = (b"content-length", str(len(content)).encode())
        await self._head(status, [(b"content-type", content_type.encode()), length])
        await self._send({"type": "http.response.body", "body": content})

    async def piece(self, content: bytes, content_type: str) -> None:
        """Send a piece of a stream; the first begins it."""
        if not self.has_begun:
            self._is_stream = True
            await self._head(200, [(b"content-type", content_type.encode())])
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self) -> None:
        """End the answer, if it is a stream."""
        if self._is_stream:
            await self._send({"type": "http.response.body", "body": b""})

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


class StandinApp:
    """Serves the API of an Ollama of ``version``."""

    def __init__(self, version: str, store: ModelStore, scheduler: Scheduler) -> None:
        self._version, self._store, self._scheduler = version, store, scheduler
        self._numbers = tuple(int(part) for part in version.partition("-")[0].split("."))

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; what it needed stops when its client goes away."""
        assert scope["type"] == "http"
        since, reply = time.monotonic(), HttpReply(send)
        content = await _content(receive)
        headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
        request = Received(scope["method"], scope["path"], _parsed(content), headers, content)
        answering = asyncio.ensure_future(self._answer(request, reply))
        leaving = asyncio.ensure_future(_client_leaves(receive))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        answering.cancel()  # does nothing when it is done
        try:
            await answering
        except asyncio.CancelledError:
            pass
        except Exception:  # noqa: BLE001  # whatever it is, the log must tell
            traceback.print_exc()
            if not reply.has_begun:
                await reply.json({"error": "a fault of the stand-in; its log has it"}, 500)
        gin(reply.status or 499, time.monotonic() - since, request.method, request.path)

    async def _answer(self, request: Received, reply: HttpReply) -> None:
        if not is_allowed(request.headers.get("host", "")):
            await reply.whole(b"", 403)
        elif has_cloud_name(request):
            await self._refuse_cloud(reply)
        elif request.path in FOR_TEXT and request.method == "POST":
            await self._talk(request, reply)
        elif request.path in ASKED_WITH_POST and request.method == "GET":
            await reply.whole(b"405 method not allowed", 405)
        else:
            await self._other(request, reply)

    async def _other(self, request: Received, reply: HttpReply) -> None:
        match request:
            case Received("GET" | "HEAD", "/"):
                await reply.whole(b"Ollama is running")
            case Received("GET", "/api/version"):
                await reply.json({"version": self._version})
            case Received("GET", "/api/status"):
                off = _cloud_is_off()
                cloud = {"disabled": off, "source": "env" if off else "none"}
                await reply.json({"cloud": cloud})
            case Received("GET", "/api/tags"):
                await reply.json({"models": [model.entry for model in self._store.all()]})
            case Received("GET", "/api/ps"):
                await reply.json({"models": [_loaded(one) for one in self._scheduler.runners()]})
            case Received("GET", "/v1/models"):
                models = [_openai(model) for model in self._store.all()]
                await reply.json({"object": "list", "data": models}, content_type=PLAIN_JSON)
            case Received("POST", "/api/show", dict(body)):
                await self._show(body, reply)
            case Received("POST", "/api/create", dict(body)):
                await self._create(body, reply)
            case Received("DELETE", "/api/delete", dict(body)):
                await self._delete(str(body.get("model") or body.get("name")), reply)
            case Received("POST" | "HEAD", path) if path.startswith("/api/blobs/"):
                await self._blob(request, path.rpartition("/")[2], reply)
            case Received("POST", path) if path in ASKED_WITH_POST:
                await reply.json({"error": _unreadable(request)}, 400)
            case _:
                await reply.whole(b"404 page not found", 404)

    async def _refuse_cloud(self, reply: HttpReply) -> None:
        """A real one would pass it on to its cloud; this one reaches nothing."""
        if _cloud_is_off():
            await reply.json({"error": NO_CLOUD}, 403)
        else:
            url = "https://ollama.com/connect?name=standin&key=none"
            await reply.json({"error": "unauthorized", "signin_url": url}, 401)

    async def _talk(self, request: Received, reply: HttpReply) -> None:
        if not isinstance(request.body, dict):
            await reply.json({"error": _unreadable(request)}, 400)
            return
        body = _lowered(request.body)
        name = str(body.get("model") or "")
        shape = Shape(request.path, self._numbers, name, _wants_usage(body))
        model, words, status = self._found(name)
        if model is None:
            kind = PLAIN_JSON if shape.is_openai else JSON
            await reply.json(shape.error(words, status), status, kind)
            return
        if shape.is_openai:
            body = _from_openai(body)
        await Talk(self._scheduler, self._numbers, model, shape, body, reply).answer()
        await reply.end()

    def _found(self, name: str) -> tuple[StoredModel | None, str, int]:
        """The model; else what is wrong, and the status."""
        if not name:
            return None, "model is required", 400
        try:
            model = self._store.find(name)
        except InvalidNameError:
            return None, "invalid model name", 400
        return model, f"model '{name}' not found", 404

    async def _show(self, body: Mapping[str, Any], reply: HttpReply) -> None:
        model, words, status = self._found(str(body.get("model") or body.get("name") or ""))
        if model is None:
            await reply.json({"error": words}, status)
        else:
            await reply.json(model.description(verbose=body.get("verbose") is True))

    async def _create(self, body: Mapping[str, Any], reply: HttpReply) -> None:
        name = str(body.get("model") or body.get("name") or "")
        try:
            self._store.create(name, body)
        except InvalidNameError:
            await reply.json({"error": "invalid model name"}, 400)
        except (LookupError, OSError, ValueError) as error:
            await reply.json({"error": str(error)}, 400)
        else:
            await reply.json({"status": "success"})

    async def _delete(self, name: str, reply: HttpReply) -> None:
        model, words, status = self._found(name)
        if model is None:
            await reply.json({"error": words}, status)
        else:
            self._store.remove(model)
            await self._scheduler.expire(model)
            await reply.whole(b"")

    async def _blob(self, request: Received, digest: str, reply: HttpReply) -> None:
        if request.method == "HEAD":
            await reply.whole(b"", 200 if self._store.blob(digest).exists() else 404)
        elif self._store.add_blob(request.content) == digest:
            await reply.whole(b"", 201)
        else:
            await reply.json({"error": "digest mismatch"}, 400)


async def _content(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _unreadable(request: Received) -> str:
    return "unexpected EOF" if request.content else "missing request body"


def _lowered(body: Mapping[str, Any]) -> dict[str, Any]:
    """Go's decoder takes names of fields in any case."""
    return {key.lower(): value for key, value in body.items()}


def _cloud_is_off() -> bool:
    return os.environ.get("OLLAMA_NO_CLOUD", "0") not in ("", "0", "false")


def _wants_usage(body: Mapping[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _loaded(runner: Runner) -> dict[str, Any]:
    """As ``/api/ps`` has it."""
    model = runner.model
    size, on_card = runner.child.memory_bytes()
    return {
        "name": model.name.shown,
        "model": model.name.shown,
        "size": size,
        "digest": model.digest,
        "details": model.details,
        "expires_at": go_time(runner.expires_at),
        "size_vram": on_card,
        "context_length": runner.window_tokens,
    }


def _openai(model: StoredModel) -> dict[str, Any]:
    owner = {"created": int(model.modified), "owned_by": model.name.namespace}
    return {"id": model.name.shown, "object": "model", **owner}


def _from_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request of the other protocol as one of Ollama's own (``FromChatRequest``); it cannot name a window."""
    same = ("seed", "frequency_penalty", "presence_penalty")
    options = {key: body[key] for key in same if body.get(key) is not None}
    for key in ("temperature", "top_p"):
        options[key] = 1.0 if body.get(key) is None else body[key]
    if body.get("max_tokens") is not None:
        options["num_predict"] = body["max_tokens"]
    if body.get("stop"):
        options["stop"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    kept = {key: body[key] for key in ("model", "prompt", "_debug_render_only") if key in body}
    messages = [part for one in body.get("messages") or [] for part in _parts(one)]
    return {**kept, "messages": messages, "options": options, "stream": body.get("stream") is True}


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message whose content is a list is one message a part."""
    content = message.get("content")
    texts = [one.get("text", "") for one in content] if isinstance(content, list) else [content]
    return [{"role": message.get("role", "user"), "content": text or ""} for text in texts]
