"""A fake Ollama: a real HTTP server whose answers are data, shaped as in Ollama's api/types.go.

    with FakeOllama(version="0.9.3", loaded=["qwen3:8b"]) as ollama:
        ollama.answers["/api/ps"] = Hang()

Without an entry in ``answers`` a path is answered as that version of Ollama would: the window in
/api/ps came with 0.10, stubs of models that run elsewhere with 0.12, /api/status with 0.16.2, and
from 0.18 on any name with a cloud's tag is sent to Ollama's cloud (``sent_out``).
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fakes.answering import Answer, AnsweringServer, Cut, Drip, Endless, Hang, Json, Raw, Received
from fakes.ollama_models import GIB, QWEN3_8B, FakeModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "ERAS",
    "GIB",
    "QWEN3_8B",
    "Answer",
    "Cut",
    "Drip",
    "Endless",
    "FakeModel",
    "FakeOllama",
    "Hang",
    "Json",
    "Raw",
]


ERAS = ("0.9.3", "0.11.10", "0.12.6", "0.16.2", "0.18.0", "0.24.0", "0.30.11", "0.33.0-rc2")
"""One version for each way of answering."""


@dataclass
class FakeOllama:
    """The server; ``url`` is where it listens while it is entered."""

    version: str = "0.15.5"
    models: tuple[FakeModel, ...] = (FakeModel("qwen3:8b"),)
    loaded: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    on_unload: Callable[[str], None] = lambda _name: None
    cloud_disabled: bool = False
    keeps_loaded: bool = False
    """Whether it agrees to unload and does not: a request is still running."""
    host: str = "127.0.0.1"
    received: list[Received] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._server = AnsweringServer(self)
        self.url = f"http://{self.host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection, the hanging ones too."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def paths(self) -> set[str]:
        """The paths that were asked for."""
        return {request.path for request in self.received}

    def answer(self, request: Received) -> Answer:
        """What this Ollama says to a request."""
        self.received.append(request)
        if request.path in self.answers:
            return self.answers[request.path]
        version = self.version_numbers
        if version >= (0, 18) and self._is_sent_out(request):
            return Json({"error": "unauthorized"}, 401)
        match request:
            case Received("GET", "/api/version"):
                return Json({"version": self.version})
            case Received("GET", "/api/tags"):
                return Json({"models": [model.listed(version) for model in self.models] or None})
            case Received("GET", "/api/status") if version >= (0, 16, 2):
                cloud = {"disabled": self.cloud_disabled, "source": "none"}
                return Json({"cloud": cloud})
            case Received("GET", "/api/ps"):
                return Json({"models": [model.entry(version) for model in self._shown()]})
            case Received("POST", "/api/show", {"model": str(name), **more}):
                return self._show(name, verbose=more.get("verbose") is True)
            case Received("POST", "/api/generate", {"model": str(name), "keep_alive": 0}):
                return self._unload(name)
        return Raw(b"404 page not found", 404, (("Content-Type", "text/plain"),))

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """The version, for comparing."""
        return tuple(int(part) for part in re.findall(r"[0-9]+", self.version)[:3])

    @property
    def sent_out(self) -> list[Received]:
        """The requests that this Ollama would have passed on to its cloud."""
        return list(filter(self._is_sent_out, self.received))

    def _is_sent_out(self, request: Received) -> bool:
        match request.body:
            case {"model": str(name)}:
                return name.lower().endswith((":cloud", "-cloud")) and ":" in name
        return False

    def _show(self, name: str, *, verbose: bool) -> Answer:
        if not name:
            return Json({"error": "model is required"}, 400)
        if not re.fullmatch(r"[\w.:/-]+", name) or name.count(":") > 1:
            old = self.version_numbers < (0, 12)
            words, status = ("invalid model path", 500) if old else ("invalid model name", 400)
            return Json({"error": words}, status)
        model = self._find(name)
        if model is None:
            return _not_found(name)
        return Json(model.show(self.version_numbers, verbose=verbose))

    def _shown(self) -> Iterable[FakeModel]:
        return filter(None, map(self._find, self.loaded))

    def _find(self, name: str) -> FakeModel | None:
        full = name if ":" in name else f"{name}:latest"
        return next((one for one in self.models if one.name.lower() == full.lower()), None)

    def _unload(self, name: str) -> Answer:
        """200 whether it was loaded or not."""
        model = self._find(name)
        if model is None:
            return _not_found(name)
        if not self.keeps_loaded:
            self.loaded[:] = [other for other in self.loaded if self._find(other) != model]
            self.on_unload(model.name)
        return Json({"model": name, "response": "", "done": True, "done_reason": "unload"})


def _not_found(name: str) -> Json:
    return Json({"error": f"model '{name}' not found"}, 404)
