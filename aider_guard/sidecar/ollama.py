"""Ollama over HTTP: what is loaded, its version, facts of a model, unloading. Never raises."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import httpx

from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.sidecar.names import canonical_name, connectable_base, display_base, is_cloud_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OllamaClient", "canonical_name", "connectable_base", "is_cloud_name"]

CONNECT_SECONDS: Final = 2.0
# /api/ps takes locks that Ollama holds for up to 10 s while it talks to a runner (0.32.4 and
# later).
ANSWER_SECONDS: Final = 12.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
NO_WINDOW: Final = Unavailable("this Ollama does not tell the window (0.10 and later do)")


class OllamaClient:
    """One server. Safe to use from several threads; each call ends, however the server behaves."""

    def __init__(
        self,
        base_url: str,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown = display_base(base_url)
        self._base = base_url.rstrip("/")
        self._answer_seconds = answer_seconds
        self._clock = clock
        # trust_env: HTTP_PROXY would catch even 127.0.0.1. No redirect is followed, so a plain http
        # address never needs certificates, which take 70 ms and a megabyte to load.
        self._http = httpx.Client(
            trust_env=False, verify=base_url.startswith("https"), follow_redirects=False
        )

    def close(self) -> None:
        """Close the connections that are kept open between the polls."""
        self._http.close()

    def version(self) -> str | Unavailable:
        """What ``/api/version`` says, for example ``0.9.3``."""
        match self._ask("GET", "/api/version"):
            case {"version": str(version)} if version:
                return version
            case Unavailable() as unavailable:
                return unavailable
        return self._strange("/api/version")

    def loaded_models(self, timeout_seconds: float | None = None) -> ModelsReading | Unavailable:
        """What ``/api/ps`` lists, taken when the answer is complete."""
        match self._ask("GET", "/api/ps", timeout_seconds=timeout_seconds):
            case {"models": list(entries)}:
                models = tuple(map(_loaded_model, entries))
            case {"models": None}:  # a nil slice of Go
                models = ()
            case Unavailable() as unavailable:
                return unavailable
            case _:
                return self._strange("/api/ps")
        known = tuple(model for model in models if model is not None)
        if len(known) < len(models):
            return self._strange("/api/ps")
        return ModelsReading(known, self._clock())

    def trained_tokens(self, name: str) -> int | Unavailable:
        """The longest context that a model was trained for, from ``/api/show``."""
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        match self._ask("POST", "/api/show", {"model": name}):
            case {"remote_host": str(host)} if host:
                return Unavailable(f"{name} is a cloud model")
            case {"model_info": {"general.architecture": str(architecture), **facts}}:
                tokens = facts.get(f"{architecture}.context_length")
                if tokens and _is_count(tokens):
                    return tokens
                return Unavailable(f"Ollama does not know what context {name} was trained for")
            case Unavailable() as unavailable:
                return unavailable
        return self._strange("/api/show")

    def unload(self, name: str, timeout_seconds: float | None = None) -> Unavailable | None:
        """Ask Ollama to unload a model: None when it agreed. Its process goes a little later.

        It also agrees when the model is not loaded; a model it does not have is refused (404).
        """
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        body = {"model": name, "keep_alive": 0}
        answer = self._ask("POST", "/api/generate", body, timeout_seconds)
        return answer if isinstance(answer, Unavailable) else None

    def _ask(
        self, method: str, path: str, body: Any = None, timeout_seconds: float | None = None
    ) -> dict[str, Any] | Unavailable:
        """The JSON object that Ollama answers with."""
        seconds = min(self._answer_seconds, timeout_seconds or self._answer_seconds)
        try:
            status, content = self._fetch(method, path, body, seconds)
        except (httpx.TimeoutException, TimeoutError) as error:
            return Unavailable(self._silence(error, seconds))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return Unavailable(f"Ollama cannot be reached at {self._shown} ({_cause(error)})")
        if status != httpx.codes.OK:
            return Unavailable(_refusal(status, content, path))
        answer = _json_object(content)
        return self._strange(path) if answer is None else answer

    def _fetch(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        """Status and body. The limit holds for the whole answer, also when it comes in drips."""
        deadline = self._clock() + seconds
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        content = bytearray()
        with self._http.stream(method, self._base + path, json=body, timeout=timeout) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise ValueError("an endless answer")
                if self._clock() > deadline:
                    raise TimeoutError
        return response.status_code, bytes(content)

    def _silence(self, error: Exception, seconds: float) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return f"Ollama cannot be reached at {self._shown} (no connection in time)"
        return f"Ollama at {self._shown} did not answer within {seconds:.2g} s"

    def _strange(self, path: str) -> Unavailable:
        return Unavailable(f"{self._shown}{path} answered in a form that is not Ollama's")


def _loaded_model(entry: object) -> LoadedModel | None:
    """One entry of ``/api/ps``, or None when it is none (api/types.go, ProcessModelResponse)."""
    match entry:
        case {"name": str(name), "size": size, "size_vram": vram, **more} if name:
            if not (_is_count(size) and _is_count(vram)):
                return None
            digest, tokens = more.get("digest"), more.get("context_length")
            return LoadedModel(
                name=name,
                digest=digest if isinstance(digest, str) else "",
                size_bytes=size,
                vram_bytes=vram,
                window_tokens=tokens if tokens and _is_count(tokens) else NO_WINDOW,
            )
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0  # not isinstance: true is no count


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(status: int, content: bytes, path: str) -> str:
    """A sentence for an answer other than 200; Ollama's own words where it has some, cut short."""
    match _json_object(content):
        case {"error": str(words)} if words:
            return f"Ollama refused {path}: {words[:200]} ({status})"
    return f"Ollama answered {path} with status {status}"


def _cause(error: Exception) -> str:
    """Why a connection failed, in the system's words where it has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
