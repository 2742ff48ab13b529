"""What Ollama says when it cannot answer, version by version (llm/server.go, llm/llama_server.go, server/sched.go)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from fakes.answering import Json, Received

Version = tuple[int, ...]
BUSY = "server busy, please try again.  maximum pending requests exceeded"
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_GIB = 1024**3


@dataclass(frozen=True)
class Break:
    """How an answer breaks off: with an error's line, with its runner dead, by its connection, into silence, or at an
    end in order that lacks the last piece.

    After 0 pieces, and where nothing is streamed, an error is a status 500.
    """

    kind: Literal["error", "crash", "cut", "hang", "end"]
    after_pieces: int = 1


def busy() -> Json:
    """Too many requests are waiting."""
    return Json({"error": BUSY}, 503)


def loading() -> Json:
    """llama.cpp's own server while it reads the model (server.cpp)."""
    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    return Json({"error": error}, 503)


def missing(name: str, path: str, version: Version) -> str:
    """A model is not there."""
    if version < (0, 12) and path != "/api/generate":
        return f'model "{name}" not found, try pulling it first'
    return f"model '{name}' not found"


def crashed(version: Version) -> str:
    """The runner ended while it was loading or answering."""
    process = "llama-server" if version >= (0, 30) else "llama runner"
    return f"{process} process has terminated: exit status 2"


def out_of_memory(version: Version, needed_bytes: int, memory_bytes: int) -> str:
    """A model does not fit."""
    if version >= (0, 30):
        return (
            "llama-server reported out-of-memory during startup: cudaMalloc failed: out of memory"
        )
    needed, available = (f"{size / _GIB:.1f} GiB" for size in (needed_bytes, memory_bytes))
    return f"model requires more system memory ({needed}) than is available ({available})"


def not_found(name: str) -> Json:
    """A model is not there, as /api/show and an unload tell it."""
    return Json({"error": f"model '{name}' not found"}, 404)


def is_allowed(host: str) -> bool:
    """Whether a server on loopback takes a request with this Host (server/routes.go: allowedHostsMiddleware)."""
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("", "localhost") or name.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private


def has_cloud_name(request: Received) -> bool:
    """Whether the name alone says that the model runs in Ollama's cloud (internal/modelref, 0.18 and later)."""
    match request.body:
        case {"model": str(name)}:
            ending = name.rpartition(":")[2].strip().lower()
            return ":" in name and (ending == "cloud" or ending.endswith("-cloud"))
    return False
