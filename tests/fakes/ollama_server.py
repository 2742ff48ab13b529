"""A fake Ollama: a real HTTP server whose answers are data, shaped as in Ollama's api/types.go.

    with FakeOllama(version="0.9.3", loaded=["qwen3:8b"]) as ollama:
        ollama.answers["/api/ps"] = Hang()
        ollama.script["/api/chat"] = [busy(), None]  # the first is told so, from the second on all is well
        ollama.talking.breaks = [Break("crash", after_pieces=2)]

Without an entry in ``answers`` or ``script`` a path is answered as that version of Ollama would: the window in
/api/ps came with 0.10, stubs of models that run elsewhere with 0.12, /api/status with 0.16.2, and
from 0.18 on any name with a cloud's tag is sent to Ollama's cloud (``sent_out``).
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fakes.answering import (
    Answer,
    AnsweringServer,
    Cut,
    Drip,
    Endless,
    Hang,
    Json,
    Live,
    Raw,
    Received,
)
from fakes.ollama_chat import Conversation, Talking, converse
from fakes.ollama_forms import PATHS, Form
from fakes.ollama_log import Log
from fakes.ollama_models import GIB, QWEN3_8B, FakeModel
from fakes.ollama_prompts import is_unload, rendered
from fakes.ollama_runners import Runners
from fakes.ollama_troubles import has_cloud_name, is_allowed, not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
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
    "Live",
    "Raw",
    "Talking",
]


ERAS = (
    *("0.9.3", "0.11.10", "0.12.5", "0.12.6", "0.16.2", "0.18.0", "0.24.0"),
    *("0.30.0", "0.30.1", "0.30.11", "0.33.0-rc2"),
)
"""One version for each way of answering."""


@dataclass
class FakeOllama:
    """The server; ``url`` is where it listens while it is entered."""

    version: str = "0.15.5"
    models: tuple[FakeModel, ...] = (FakeModel("qwen3:8b"),)
    loaded: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """What is always said to a path, whatever is asked."""
    script: dict[str, list[Answer | None]] = field(default_factory=dict)
    """What is said to the next requests to a path, one after the other; None is the version's own answer."""
    talking: Talking = field(default_factory=Talking)
    """How requests for text are answered."""
    memory_bytes: int | None = None
    """All that models may take together; without, everything fits."""
    log_path: Path | None = None
    """Where its log goes."""
    on_unload: Callable[[str], None] = lambda _name: None
    cloud_disabled: bool = False
    keeps_loaded: bool = False
    """Whether it agrees to unload and does not: a request is still running."""
    host: str = "127.0.0.1"
    port: int = 0
    """Where it listens; 0 for a free port."""
    received: list[Received] = field(default_factory=list)
    cancelled: list[Received] = field(default_factory=list)
    """Requests whose clients went away before the end of the answer."""
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Nothing is in memory but what ``loaded`` lists."""
        self.runners = Runners(lambda: self.loaded, self._find, self.memory_bytes, self.on_unload)
        self.log = Log(self.log_path, self.version_numbers)
        self._waiting, self._lock = 0, threading.Lock()

    def __enter__(self) -> Self:
        """Listen."""
        self._server = AnsweringServer(self)
        self.port = self._server.server_port
        self.url = f"http://{self.host}:{self.port}"
        self.log.listening(f"{self.host}:{self.port}", self.version)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        self.stop()

    def stop(self) -> None:
        """Close every connection, the hanging ones too; a second time does nothing."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def gone(self, request: Received) -> None:
        """A client went away."""
        self.cancelled.append(request)

    def paths(self) -> set[str]:
        """The paths that were asked for."""
        return {request.path for request in self.received}

    def answer(self, request: Received) -> Answer:
        """What this Ollama says to a request; a model may be called ``name`` (api/types.go: ShowRequest)."""
        if isinstance(request.body, dict) and "name" in request.body:
            request = replace(request, body={"model": request.body["name"], **request.body})
        self.received.append(request)
        if request.path in self.answers:
            return self.answers[request.path]
        body = request.body if isinstance(request.body, dict) else {}
        renders = body.get("_debug_render_only") is True
        scripted = None if renders else self.script.get(request.path)
        if scripted and (answer := scripted.pop(0)) is not None:
            return answer
        if not is_allowed(request.headers.get("host", "")):
            return Raw(b"", 403, ())
        version = self.version_numbers
        if version >= (0, 18) and has_cloud_name(request):
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
                self.runners.expire()
                return Json({"models": [self._entry(model) for model in self._shown()]})
            case Received("GET", "/v1/models"):
                return Json({"object": "list", "data": [model.openai() for model in self.models]})
            case Received("GET" | "HEAD", "/"):
                return Raw(b"Ollama is running", 200, (("Content-Type", "text/plain"),))
            case Received("POST", "/api/show", {"model": str(name), **more}):
                return self._show(name, verbose=more.get("verbose") is True)
            case Received("POST", path, {"model": str(name)}) if path in PATHS:
                return self._unload(request) if is_unload(request) else self._talk(request)
            case Received("GET", path) if path in PATHS:
                return Raw(b"405 method not allowed", 405, (("Content-Type", "text/plain"),))
            case Received("POST", path) if path in PATHS:
                words = "missing request body" if not request.content else "unexpected EOF"
                return Json({"error": words}, 400)
        return Raw(b"404 page not found", 404, (("Content-Type", "text/plain"),))

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """The version, for comparing."""
        return tuple(int(part) for part in re.findall(r"[0-9]+", self.version)[:3])

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the requests for text, without those that only load, unload or render."""
        bodies = [request.body for request in self.received if request.path in PATHS]
        asking = [body for body in bodies if body.get("messages") or body.get("prompt")]
        return [body for body in asking if not body.get("_debug_render_only")]

    @property
    def sent_out(self) -> list[Received]:
        """The requests that this Ollama would have passed on to its cloud."""
        return list(filter(self._is_sent_out, self.received))

    def _is_sent_out(self, request: Received) -> bool:
        if request.path in PATHS and request.body:
            model = self._find(request.body.get("model", ""))
            if model is not None and model.remote_host:
                return True
        return has_cloud_name(request)

    def _show(self, name: str, *, verbose: bool) -> Answer:
        if not name:
            return Json({"error": "model is required"}, 400)
        if not re.fullmatch(r"[\w.:/-]+", name) or name.count(":") > 1:
            old = self.version_numbers < (0, 12)
            words, status = ("invalid model path", 500) if old else ("invalid model name", 400)
            return Json({"error": words}, status)
        model = self._find(name)
        if model is None:
            return not_found(name)
        return Json(model.show(self.version_numbers, verbose=verbose))

    def _shown(self) -> Iterable[FakeModel]:
        return filter(None, map(self._find, self.loaded))

    def _find(self, name: str) -> FakeModel | None:
        short = re.sub(r"^(registry\.ollama\.ai/)?library/", "", name, flags=re.IGNORECASE)
        full = short if ":" in short else f"{short}:latest"
        return next((one for one in self.models if one.name.lower() == full.lower()), None)

    def _entry(self, model: FakeModel) -> dict[str, Any]:
        """The entry in /api/ps: what its runner has, when a request has loaded it."""
        runner = self.runners.get(model)
        if runner is None or runner.until == float("inf"):
            return model.entry(self.version_numbers)
        until = datetime.fromtimestamp(runner.until, tz=timezone.utc)
        stamp = f"{until:%Y-%m-%dT%H:%M:%S.%f}123Z"
        return model.entry(self.version_numbers, runner.window_tokens, stamp)

    def _render(self, request: Received) -> Answer:
        """The text of a prompt, of which nothing is dropped (``truncate`` is false)."""
        name, text = request.body["model"], "".join(rendered(request) or ())
        if self._find(name) is None:
            return not_found(name)
        return Json({"model": name, "_debug_info": {"rendered_template": text}})

    def _talk(self, request: Received) -> Answer:
        self.runners.expire()
        is_rendered = request.body.get("_debug_render_only") and self.version_numbers >= (0, 11, 5)
        if is_rendered and request.path.startswith("/api/"):
            return self._render(request)
        self.runners.memory_bytes = self.memory_bytes

        def conversation(model: FakeModel, form: Form) -> Conversation:
            parts = (self.talking, self.runners, self.log, self.version, self.version_numbers)
            return Conversation(*parts, model, request, form)

        return converse(conversation, request, self._find, self.version_numbers, self._wait)

    def _wait(self, change: int) -> int:
        with self._lock:
            self._waiting += change
            return self._waiting

    def _unload(self, request: Received) -> Answer:
        """200 whether it was loaded or not."""
        name = request.body["model"]
        model = self._find(name)
        if model is None:
            return not_found(name)
        runner = self.runners.get(model)
        if runner is not None and not self.keeps_loaded:
            runner.leaving = True
            if not runner.busy.locked():
                self.runners.unload(runner)
        return Json(Form(request.path, self.version_numbers, name).nothing("unload"))
