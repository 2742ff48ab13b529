"""The Ollama of a box: what it would pass on to another machine is counted by the witness."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from e2e.chatting import ChattingOllama
from fakes.answering import Json, Raw

if TYPE_CHECKING:
    from fakes.answering import Answer, Received

_LEAVING = ("/api/pull", "/api/push", "/api/create", "/api/web_search", "/api/web_fetch", "/api/signin", "/api/me",
            "/api/experimental/")  # fmt: skip
_NAMES = ("model", "name", "from", "source", "destination")


class Counts(Protocol):
    """Counts bytes by the words in them."""

    def saw_bytes(self, data: bytes, what: str) -> None:
        """See ``Witness``."""


@dataclass
class WatchedOllama(ChattingOllama):
    """Reads names as Ollama does (internal/modelref, ParseRef), paths as Go's router, fields in any case."""

    version: str = "0.33.0-rc2"
    witness: Counts = field(kw_only=True)

    def answer(self, request: Received) -> Answer:
        """Count what would leave; the answer to a request with ``redirect`` in it leads to another machine."""
        path = posixpath.normpath(unquote(urlsplit(request.path).path))
        said = request.path.encode() + b"\n" + request.content
        names = _names(request.body)
        if path.startswith(_LEAVING) or any(map(_is_of_a_cloud, names)):
            self.witness.saw_bytes(said + json.dumps(names).encode(), f"Ollama {path}")
        if b"redirect=" in said:
            to = unquote(request.path).rpartition("redirect=")[2]
            return Raw(b"", 307, (("Location", f"http://{to}"),))
        if path.startswith(_LEAVING):
            return Json({"status": "success"})
        return super().answer(request)


def _names(body: Any) -> list[str]:
    fields = body.items() if isinstance(body, dict) else ()
    return [value for key, value in fields if key.lower() in _NAMES and isinstance(value, str)]


def _is_of_a_cloud(name: str) -> bool:
    ending = name.strip().rpartition(":")[2].strip().lower()
    return ":" in name and (ending == "cloud" or ending.endswith("-cloud"))
