"""Decides which requests to Ollama stay on this machine, and words the refusal of the others."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aider_guard.core.chat.replies import WireReply
from aider_guard.core.chat.request import PREFIX
from aider_guard.core.model_names import is_valid_name
from aider_guard.core.printable import printable

_NAMES: Final = frozenset({"model", "name", "from", "source", "destination"})
"""The fields that name a model (Ollama's api/types.go), in any case, as Go's decoder reads them."""
_TRANSFERS: Final = {"/api/pull": ("fetched", "pull"), "/api/push": ("sent away", "push")}
"""The paths that contact the host in a model's name: the participle for it, and the command."""
_LEAVING: Final = (
    *_TRANSFERS,
    *(f"/api/{name}" for name in ("create", "signin", "signout", "me", "user/")),
    *(f"/api/{name}" for name in ("web_search", "web_fetch", "experimental/")),
)
"""The paths by which Ollama itself can send something out of the machine, whatever the model."""
_STAYING: Final = frozenset(
    {
        *(f"/api/{name}" for name in ("version", "status", "tags", "ps", "show", "copy", "delete")),
        *(f"/api/{name}" for name in ("chat", "generate", "embed", "embeddings", "create")),
        *(f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings")),
        *(f"/v1/{name}" for name in ("models", "responses", "messages")),
    }
)
"""The paths that Ollama answers on this machine if the models run here (server/routes.go)."""
_LISTED: Final = "/v1/models/"
_NAMING: Final = frozenset({"/api/show", "/api/delete", "/api/copy", "/api/create"})
"""The paths on which Ollama reads more than one field for the name of a model (api/types.go)."""
_BUILDING: Final = frozenset(
    {
        *("model", "name", "from", "files", "adapters", "stream", "quantize", "quantization"),
        *("template", "system", "license", "parameters", "messages"),
        *("renderer", "parser", "requires", "info"),
    }
)
"""The fields that make a model of local files and models (api/types.go, CreateRequest)."""
_WEB: Final = ("web_search", "web_fetch")
"""The first characters of the types of tools that Ollama runs itself."""
_MAX_SHOWN: Final = 253
"""The most characters of a name that are shown: it may be a text to be smuggled out."""
_OPEN: Final = "aider-guard --network open allows it"


def named_models(path: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return every model that a request names, in its body or in its path."""
    named = [
        value for key, value in body.items() if key.casefold() in _NAMES and isinstance(value, str)
    ]
    listed = path.removeprefix(_LISTED).rstrip("/") if path.startswith(_LISTED) else ""
    return (*named, *([listed] if listed else []))


def invalid_name(path: str, body: Mapping[str, Any]) -> str | None:
    """Return the first name in a request that Ollama accepts for no model; None for a request without one.

    On other paths than `_NAMING` only ``model`` is a name: a client may send more fields, which Ollama does not read.
    """
    fields = body if path in _NAMING else {k: v for k, v in body.items() if k.casefold() == "model"}
    names = (name for name in named_models(path, fields) if name)
    return next((name for name in names if not is_valid_name(name)), None)


def bases_of(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models that a new one is made from; Ollama would fetch one that is not installed."""
    bases = (value for key, value in body.items() if key.casefold() == "from")
    return tuple(base for base in bases if isinstance(base, str) and base)


def leaves(path: str) -> bool:
    """Whether Ollama may send such a request out of the machine by itself."""
    return path.startswith(_LEAVING)


def is_content(path: str) -> bool:
    """Whether the body of such a request is a file, which names no model."""
    return path.startswith("/api/blobs/")


def unsafe(path: str, body: Mapping[str, Any]) -> str:
    """Return one line that says why a request may leave the machine, whatever the model; "" for one that stays."""
    if path in _TRANSFERS:
        done, command = _TRANSFERS[path]
        name = next(iter(named_models(path, body)), "NAME")
        return not_transferred(name, done, command)
    if path not in _STAYING and not is_content(path) and not path.startswith(_LISTED):
        return f"{PREFIX}{shown(path)} is not known to stay on this machine; {_OPEN}"
    if path == "/api/create":
        strange = next((key for key in body if key.casefold() not in _BUILDING), None)
        if strange is not None:
            what = f"{shown(strange)} in {path}"
            return f"{PREFIX}{what} is not known to stay on this machine; {_OPEN}"
    return refused_words("a search of the web") if _searches(body) else ""


def _searches(body: Mapping[str, Any]) -> bool:
    """Whether a request lets Ollama search the web (/v1/messages and /v1/responses, 0.18 and later)."""
    lists = [value for key, value in body.items() if key.casefold() == "tools"]
    tools = [tool for tools in lists if isinstance(tools, list) for tool in tools]
    fields = [field for tool in tools if isinstance(tool, dict) for field in tool.items()]
    kinds = [kind for key, kind in fields if key.casefold() == "type" and isinstance(kind, str)]
    return any(kind.strip().lower().startswith(_WEB) for kind in kinds)


def not_transferred(name: str, done: str = "fetched", command: str = "pull") -> str:
    """Return one line for a model that would be fetched from another machine or sent to one."""
    model = shown(name)
    where = f"run `ollama {command} {model}` in another terminal"
    return f"{PREFIX}{model} is not {done} from inside a session; {where}"


def still_needed(name: str) -> str:
    """Return one line for a model that is not deleted, as Ollama would fetch it again for a model made from it."""
    model = shown(name)
    return (
        f"{PREFIX}{model} is not deleted: a model was made from it in this session;"
        f" run `ollama rm {model}` in another terminal"
    )


def refusal(model: str, host: str = "") -> tuple[str, str]:
    """Return two lines for a model of a cloud: why the request is not sent, and what to do."""
    where = f"at {host}" if host else "in Ollama's cloud"
    return (
        f"not sent: {shown(model)} runs {where}, and this session stays on this machine",
        f"/model ollama_chat/NAME takes a local one (ollama list); {_OPEN}",
    )


def invalid_lines(model: str) -> tuple[str, str]:
    """Return two lines for a name that Ollama accepts for no model: why it is not sent, and what to do."""
    return (
        f"not sent: {shown(model)!r} is not a name that Ollama accepts for a model",
        "/model ollama_chat/NAME takes one that is installed (ollama list)",
    )


def refused_words(what: str) -> str:
    """Return one line for a request of another kind that would leave this machine."""
    return f"{PREFIX}{shown(what)} would leave this machine; {_OPEN}"


# What a provider's client is told, in a session that stays on this machine.

_MODEL_IN_PATH: Final = re.compile(r"/(?:models|deployments)/([^/:]+)")
"""How Google's and Azure's protocols name the model."""


def answer_offline(host: str, path: str, body: Mapping[str, Any]) -> WireReply:
    """Return an answer to a request for a provider's host: one line, which Aider shows and does not try again after.

    Tried with Aider 0.86.2 and litellm 1.81.10. Of status 400 litellm makes an error that Aider does not retry
    (exceptions.py), for nearly every provider, and all of the body is shown: a plain text is read best. With OpenAI's
    newer protocol, /responses, any error breaks litellm itself (utils.py expects ``metadata``), and Aider retries that.
    So there it is an answer that reports a failure, or the text of one that is streamed: summaries and commit
    messages, in which such a text would be kept, are not streamed.
    """
    words = _offline_words(host, path, body)
    if not path.endswith("/responses"):
        return WireReply(words.encode(), "text/plain; charset=utf-8", 400)
    if body.get("stream"):
        place = {"item_id": "aider-guard", "output_index": 0, "content_index": 0}
        event = {"type": "response.output_text.delta", **place, "delta": words}
        return WireReply(
            f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream"
        )
    error = {"code": "invalid_request_error", "message": words}
    head = {"id": "aider-guard", "object": "response", "created_at": 0, "output": []}
    return WireReply(json.dumps({**head, "status": "failed", "error": error}).encode())


def _offline_words(host: str, path: str, body: Mapping[str, Any]) -> str:
    in_path = _MODEL_IN_PATH.search(path)
    model = body.get("model") or (in_path[1] if in_path else None)
    what = shown(model) if isinstance(model, str) else "this model"
    back = "/model NAME goes back to a local model"
    return f"{PREFIX}this session is offline: {what} would run at {host}; {back}"


def shown(text: str) -> str:
    """Return a text of a request as it may be shown: without control characters, and no longer than a name."""
    return printable(text[:_MAX_SHOWN], replacement="?")
