"""Ollama over HTTP: what is loaded, its version, facts of a model, unloading. Never raises."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx

from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing
from aider_guard.sidecar import answers
from aider_guard.sidecar.certificates import verification
from aider_guard.sidecar.fetching import fetch
from aider_guard.sidecar.installed import Installed, find_installed, nearest_names
from aider_guard.sidecar.names import (
    canonical_name,
    connectable_base,
    display_base,
    is_cloud_base,
    is_cloud_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OllamaClient", "canonical_name", "connectable_base", "is_cloud_name"]

CONNECT_SECONDS: Final = 2.0
# /api/ps takes locks that Ollama holds for up to 10 s while it talks to a runner (0.32.4 and
# later).
ANSWER_SECONDS: Final = 12.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
NOT_LISTED: Final = Unavailable("Ollama has not been asked yet what it has loaded")
NO_SWITCH: Final = Unavailable("this Ollama has no cloud switch to ask for (0.16.2 and later do)")


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
        self._last_list: ModelsReading | Unavailable = NOT_LISTED
        # trust_env: HTTP_PROXY would catch even 127.0.0.1. No redirect is followed, so a plain http
        # address never needs certificates.
        self._http = httpx.Client(
            trust_env=False, verify=verification(base_url), follow_redirects=False
        )

    def close(self) -> None:
        """Close the connections that are kept open between the polls."""
        self._http.close()

    @property
    def base_url(self) -> str:
        """The server's address. It may hold a password: show ``names.display_base`` of it."""
        return self._base

    def version(self, timeout_seconds: float | None = None) -> str | Unavailable:
        """What ``/api/version`` says, for example ``0.9.3``."""
        match self._ask("GET", "/api/version", timeout_seconds=timeout_seconds):
            case {"version": str(version)} if version and version.isprintable():
                return version
            case Unavailable() as unavailable:
                return unavailable
        return self._strange("/api/version")

    def loaded_models(self, timeout_seconds: float | None = None) -> ModelsReading | Unavailable:
        """What ``/api/ps`` lists, taken when the answer is complete."""
        answer = self._ask("GET", "/api/ps", timeout_seconds=timeout_seconds)
        if isinstance(answer, Unavailable):
            return answer
        models = answers.entries(answer, answers.loaded_model)
        if models is None:
            return self._strange("/api/ps")
        self._last_list = reading = ModelsReading(models, self._clock())
        return reading

    @property
    def last_list(self) -> ModelsReading | Unavailable:
        """What ``loaded_models`` told last, to any thread, without asking again."""
        return self._last_list

    def installed(self, timeout_seconds: float | None = None) -> Installed:
        """What ``/api/tags`` lists: the models on disk, and stubs of models that run elsewhere."""
        answer = self._ask("GET", "/api/tags", timeout_seconds=timeout_seconds)
        if isinstance(answer, Unavailable):
            return answer
        models = answers.entries(answer, answers.installed_model)
        return self._strange("/api/tags") if models is None else models

    def model_facts(
        self,
        name: str,
        installed: Installed,
        timeout_seconds: float | None = None,
    ) -> ModelFacts | ModelMissing | Unavailable:
        """What ``/api/show`` says of a model, completed by what is ``installed``.

        A cloud model is not asked about: not by its name, nor as a stub among the installed ones.
        """
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        listed = find_installed(name, installed)
        if listed is not None and listed.remote_host:
            return answers.stub_facts(name, listed.name, listed.remote_host)
        body = {"model": name}
        answer = self._exchange("POST", "/api/show", body, timeout_seconds)
        if isinstance(answer, tuple) and answers.says_missing(*answer):
            return ModelMissing(name, nearest_names(name, installed))
        shown = self._decoded("/api/show", answer)
        if isinstance(shown, Unavailable):
            return shown
        if answers.hides_layers(shown):
            # Megabytes, with every token of the vocabulary: only where nothing less will do.
            verbose = self._ask("POST", "/api/show", {**body, "verbose": True}, timeout_seconds)
            shown = shown if isinstance(verbose, Unavailable) else verbose
        return answers.model_facts(name, shown, installed) or self._strange("/api/show")

    def blob(self, name: str, timeout_seconds: float | None = None) -> str | Unavailable:
        """The digest of the file with a model's weights, "" where its model file names none."""
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        shown = self._ask("POST", "/api/show", {"model": name}, timeout_seconds)
        return shown if isinstance(shown, Unavailable) else answers.blob(shown.get("modelfile"))

    def whereabouts(
        self, name: str, timeout_seconds: float | None = None
    ) -> str | Unavailable | None:
        """Where ``/api/show`` says that a model runs: "" for here; None where there is no such model."""
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        answer = self._exchange("POST", "/api/show", {"model": name}, timeout_seconds)
        if isinstance(answer, tuple) and answers.says_missing(*answer):
            return None
        shown = self._decoded("/api/show", answer)
        return shown if isinstance(shown, Unavailable) else answers.remote_host(shown)

    def trained_tokens(self, name: str, timeout_seconds: float | None = None) -> int | Unavailable:
        """The longest context of an installed model, which Ollama loads at most whatever it is asked for."""
        if is_cloud_name(name):
            return Unavailable(f"{name} is a cloud model: its name is not sent")
        shown = self._ask("POST", "/api/show", {"model": name}, timeout_seconds)
        if isinstance(shown, Unavailable):
            return shown
        return answers.trained_tokens(name, shown.get("model_info"))

    def cloud_disabled(self, timeout_seconds: float | None = None) -> bool | Unavailable:
        """Whether the server's cloud switch is off (``/api/status``, 0.16.2 and later)."""
        answer = self._exchange("GET", "/api/status", None, timeout_seconds)
        if isinstance(answer, tuple) and answer[0] == httpx.codes.NOT_FOUND:
            return NO_SWITCH
        match self._decoded("/api/status", answer):
            case {"cloud": {"disabled": bool(disabled)}}:
                return disabled
            case Unavailable() as unavailable:
                return unavailable
        return self._strange("/api/status")

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
        return self._decoded(path, self._exchange(method, path, body, timeout_seconds))

    def _exchange(
        self, method: str, path: str, body: Any, timeout_seconds: float | None
    ) -> tuple[int, bytes] | Unavailable:
        """Status and body of an answer, or why there is none."""
        if is_cloud_base(self._base):
            return Unavailable(f"{self._shown} is Ollama's cloud: nothing is sent there")
        seconds = min(self._answer_seconds, timeout_seconds or self._answer_seconds)
        try:
            return self._fetch(method, path, body, seconds)
        except (httpx.TimeoutException, TimeoutError) as error:
            return Unavailable(self._silence(error, seconds))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return Unavailable(f"Ollama cannot be reached at {self._shown} ({_cause(error)})")

    def _decoded(
        self, path: str, answer: tuple[int, bytes] | Unavailable
    ) -> dict[str, Any] | Unavailable:
        if isinstance(answer, Unavailable):
            return answer
        status, content = answer
        if status != httpx.codes.OK:
            return Unavailable(answers.refusal(status, content, path))
        decoded = answers.json_object(content)
        return self._strange(path) if decoded is None else decoded

    def _fetch(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        return fetch(
            partial(self._http.stream, method, self._base + path, json=body),
            seconds=seconds,
            connect_seconds=CONNECT_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            clock=self._clock,
        )

    def _silence(self, error: Exception, seconds: float) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return f"Ollama cannot be reached at {self._shown} (no connection in time)"
        return f"Ollama at {self._shown} did not answer within {seconds:.2g} s"

    def _strange(self, path: str) -> Unavailable:
        return Unavailable(f"{self._shown}{path} answered in a form that is not Ollama's")


def _cause(error: Exception) -> str:
    """Why a connection failed, in the system's words where it has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
