"""Names of models in requests that are not for text, and the words with which the door refuses what would leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_NAMES: Final = frozenset({"model", "name", "from", "source", "destination"})
"""The fields that name a model (Ollama's api/types.go), in any case: its decoder reads them so."""
_LEAVING: Final = (
    "/api/push",
    "/api/signin",
    "/api/signout",
    "/api/me",
    "/api/web_search",
    "/api/web_fetch",
    "/api/experimental/",
)
"""What Ollama itself carries out of the machine, whatever is asked."""
_BY_DIGEST: Final = "/api/blobs/"
_LISTED: Final = "/v1/models/"


def named_models(path: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Every model that a request names, in its body or in its path."""
    named = [
        value for key, value in body.items() if key.casefold() in _NAMES and isinstance(value, str)
    ]
    listed = [path[len(_LISTED) :]] if path.startswith(_LISTED) else []
    return (*named, *(name for name in listed if name))


def leaves(path: str) -> bool:
    """Whether Ollama carries such a request out of the machine by itself."""
    return path.startswith(_LEAVING)


def is_content(path: str) -> bool:
    """Whether the body of such a request is a file and names nothing."""
    return path.startswith(_BY_DIGEST)


def refusal(model: str, host: str = "") -> tuple[str, str]:
    """Two lines: why a model is not asked, and what to do."""
    where = f"at {host}" if host else "in Ollama's cloud"
    return (
        f"not sent: {model} runs {where}, and this session stays on this machine",
        "/model ollama_chat/NAME takes a local one (ollama list); aider-guard --network open allows it",
    )


def refused_words(what: str) -> str:
    """One line for a request that is not for text."""
    return f"aider-guard: {what} would leave this machine; aider-guard --network open allows it"
