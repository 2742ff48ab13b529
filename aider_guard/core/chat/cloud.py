"""What may be asked of an Ollama without anything leaving the machine, and the words with which the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aider_guard.core.chat.request import PREFIX

_NAMES: Final = frozenset({"model", "name", "from", "source", "destination"})
"""The fields that name a model (Ollama's api/types.go), in any case: its decoder reads them so."""
_TRANSFERS: Final = {"/api/pull": ("fetched", "pull"), "/api/push": ("sent away", "push")}
"""What contacts the host that the name of a model begins with: how that is said, and the command."""
_LEAVING: Final = (
    *_TRANSFERS,
    "/api/create",
    "/api/signin",
    "/api/signout",
    "/api/me",
    "/api/user/",
    "/api/web_search",
    "/api/web_fetch",
    "/api/experimental/",
)
"""What Ollama itself can carry out of the machine, whoever the model is."""
_STAYING: Final = frozenset(
    {
        *(f"/api/{name}" for name in ("version", "status", "tags", "ps", "show", "copy", "delete")),
        *(f"/api/{name}" for name in ("chat", "generate", "embed", "embeddings", "create")),
        *(f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings")),
        *(f"/v1/{name}" for name in ("models", "responses", "messages")),
    }
)
"""What Ollama answers without leaving the machine, if the models run here (server/routes.go)."""
_BY_DIGEST: Final = "/api/blobs/"
_LISTED: Final = "/v1/models/"
_BUILDING: Final = frozenset(
    {
        *("model", "name", "from", "files", "adapters", "stream", "quantize", "quantization"),
        *("template", "system", "license", "parameters", "messages"),
        *("renderer", "parser", "requires", "info"),
    }
)
"""The fields with which a model is made of what is here (api/types.go, CreateRequest)."""
_WEB: Final = ("web_search", "web_fetch")
"""How the types of tools begin that Ollama itself works with."""
_MAX_SHOWN: Final = 253
"""As much of a name as is told: it may be a text that somebody wants to send away."""
_OPEN: Final = "aider-guard --network open allows it"


def named_models(path: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Every model that a request names, in its body or in its path."""
    named = [
        value for key, value in body.items() if key.casefold() in _NAMES and isinstance(value, str)
    ]
    listed = [path[len(_LISTED) :]] if path.startswith(_LISTED) else []
    return (*named, *(name for name in listed if name))


def bases_of(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a new one is made from; what is not there would be fetched."""
    found = (value for key, value in body.items() if key.casefold() == "from")
    return tuple(value for value in found if isinstance(value, str) and value)


def leaves(path: str) -> bool:
    """Whether Ollama may carry such a request out of the machine by itself."""
    return path.startswith(_LEAVING)


def is_content(path: str) -> bool:
    """Whether the body of such a request is a file and names nothing."""
    return path.startswith(_BY_DIGEST)


def unsafe(path: str, body: Mapping[str, Any]) -> str:
    """One line: why a request must not be made, whatever runs where; "" for one that may stay here."""
    if path in _TRANSFERS:
        done, command = _TRANSFERS[path]
        name = next(iter(named_models(path, body)), "NAME")
        return not_transferred(name, done, command)
    if path not in _STAYING and not is_content(path) and not path.startswith(_LISTED):
        return f"{PREFIX}{shown(path)} is not known to stay on this machine; {_OPEN}"
    if path == "/api/create":
        strange = next((key for key in body if key.casefold() not in _BUILDING), None)
        if strange is not None:
            return (
                f"{PREFIX}{shown(strange)} in {path} is not known to stay on this machine; {_OPEN}"
            )
    return refused_words("a search of the web") if _searches(body) else ""


def _searches(body: Mapping[str, Any]) -> bool:
    """Whether Ollama shall search the web for the model (/v1/messages and /v1/responses, 0.18 and later)."""
    lists = [value for key, value in body.items() if key.casefold() == "tools"]
    tools = [tool for found in lists if isinstance(found, list) for tool in found]
    kinds = [
        value
        for tool in tools
        if isinstance(tool, dict)
        for key, value in tool.items()
        if key.casefold() == "type" and isinstance(value, str)
    ]
    return any(kind.strip().lower().startswith(_WEB) for kind in kinds)


def not_transferred(name: str, done: str = "fetched", command: str = "pull") -> str:
    """One line for a model that would come from another machine, or go to one."""
    told = shown(name)
    return (
        f"{PREFIX}{told} is not {done} from inside a session;"
        f" run `ollama {command} {told}` in another terminal"
    )


def still_needed(name: str) -> str:
    """One line for a model that is not deleted: a moment later Ollama would fetch it for one that is made from it."""
    told = shown(name)
    return (
        f"{PREFIX}{told} is not deleted: a model was made from it in this session;"
        f" run `ollama rm {told}` in another terminal"
    )


def refusal(model: str, host: str = "") -> tuple[str, str]:
    """Two lines: why a model is not asked, and what to do."""
    where = f"at {host}" if host else "in Ollama's cloud"
    return (
        f"not sent: {model} runs {where}, and this session stays on this machine",
        f"/model ollama_chat/NAME takes a local one (ollama list); {_OPEN}",
    )


def refused_words(what: str) -> str:
    """One line for a request that is not for text."""
    return f"{PREFIX}{shown(what)} would leave this machine; {_OPEN}"


def shown(text: str) -> str:
    """Somebody's words as they may be told: without what a terminal would act on, and not more than a name's length."""
    return "".join(one if one.isprintable() else "?" for one in text[:_MAX_SHOWN])
