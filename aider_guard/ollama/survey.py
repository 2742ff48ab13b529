"""Surveys an Ollama server for the checks, and other servers of this machine for their windows, in bounded time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTimeError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

import httpx

from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer, Question, help_for
from aider_guard.core.server_report import ServerReport
from aider_guard.ollama.client import is_count
from aider_guard.ollama.http import fetch, json_object, verification
from aider_guard.ollama.names import (
    connectable_base,
    display_base,
    is_this_machine,
    public_base,
)
from aider_guard.ollama.server_process import is_wsl, server_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from aider_guard.core.server_report import ServedModel, ServerProcess
    from aider_guard.ollama.client import OllamaClient

# The window of a model on a local server with OpenAI's protocol.
#
# The protocol has no field for it, so that each server has one of its own:
# vLLM and SGLang ``max_model_len`` in ``/v1/models``; llama.cpp's server ``meta.n_ctx`` there, for each slot (older
# ones only ``default_generation_settings.n_ctx`` in ``/props``); LM Studio ``loaded_context_length`` in
# ``/api/v0/models``. The context that a model was trained for (``n_ctx_train``, ``max_context_length``) is not used: it
# is not the one that is loaded.

ANSWER_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 1.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_LEAST_TOKENS: Final = 16
# In WSL's usual network a program on Windows is another machine (Microsoft, "Accessing network applications with WSL").
_OF_WINDOWS: Final = (
    "   # one on Windows: networkingMode=mirrored in .wslconfig, or its address in OLLAMA_API_BASE"
)


def window_of(
    model: ServedModel,
    within_seconds: float = ANSWER_SECONDS,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> int | Unavailable:
    """The window in tokens that this model's server has for it, or why it is not known. Never raises.

    It takes at most the time given. Which servers may be asked is for the caller to decide (launch/places.py).
    """
    base = connectable_base(model.base)
    # As in client.py: no proxy from the environment, no redirect, certificates only for https.
    with httpx.Client(headers=model.headers, trust_env=False, verify=verification(base)) as http:
        return _OpenAIServer(http, base, clock() + within_seconds, clock).window(model.name)


class _OpenAIServer:
    """A server with OpenAI's protocol, and one deadline for all requests to it."""

    def __init__(
        self, http: httpx.Client, base: str, deadline: float, clock: Callable[[], float]
    ) -> None:
        self._http = http
        self._base = base
        self._deadline = deadline
        self._clock = clock

    def window(self, name: str) -> int | Unavailable:
        """The window of a model, from whichever call of this kind of server has it."""
        listed = self._get(f"{self._base}/models")
        if isinstance(listed, Unavailable):
            return listed
        entry = _entry(listed, name)
        if entry is None:
            return Unavailable(f"{display_base(self._base)} does not list {name}")
        if tokens := next(_windows_in(entry), None):
            return tokens
        # The calls that only one kind of server has.
        root = self._base.removesuffix("/v1")
        match self._get(f"{root}/props"):
            case {"default_generation_settings": {"n_ctx": tokens}} if _is_window(tokens):
                return tokens
        listed = self._get(f"{root}/api/v0/models")
        entry = None if isinstance(listed, Unavailable) else _entry(listed, name)
        unknown = Unavailable(f"{display_base(self._base)} does not report the window")
        return next(_windows_in(entry or {}), unknown)

    def _get(self, url: str) -> dict[str, Any] | Unavailable:
        """The JSON object at this address."""
        shown = display_base(self._base)
        try:
            status, content, _location = fetch(
                partial(self._http.stream, "GET", url),
                seconds=max(0.001, self._deadline - self._clock()),
                connect_seconds=CONNECT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
                clock=self._clock,
            )
        except (httpx.TimeoutException, TimeoutError):
            return Unavailable(f"{shown} did not answer in time")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return Unavailable(f"{shown} cannot be reached ({str(error) or type(error).__name__})")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return Unavailable(f"{shown} reports its window only with a key ({status})")
        decoded = json_object(content) if status == httpx.codes.OK else None
        if decoded is None:
            return Unavailable(f"{shown} answered in an unknown form ({status})")
        return decoded


def _entry(listed: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The entry of a model in a list. The only entry of a list is taken for any name: llama.cpp ignores names."""
    match listed:
        case {"data": list(items)}:
            entries = [item for item in items if isinstance(item, dict)]
            for entry in entries:
                aliases = entry.get("aliases")
                is_alias = isinstance(aliases, list) and name in aliases
                if is_alias or entry.get("id") == name or len(entries) == 1:
                    return entry
    return None


def _windows_in(entry: Mapping[str, Any]) -> Iterator[int]:
    """The windows in an entry: vLLM's and SGLang's, llama.cpp's, LM Studio's."""
    meta = entry.get("meta")
    slot = meta.get("n_ctx") if isinstance(meta, dict) else None
    fields = (entry.get("max_model_len"), slot, entry.get("loaded_context_length"))
    return (tokens for tokens in fields if _is_window(tokens))


def _is_window(tokens: object) -> TypeGuard[int]:
    return is_count(tokens) and tokens >= _LEAST_TOKENS


# The survey of an Ollama server.

WITHIN_SECONDS: Final = 3.0
# A call that takes all of its time has the better reason, so it may be a little late.
_GRACE_SECONDS: Final = 0.05

T = TypeVar("T")


def survey(
    client: OllamaClient,
    names: Iterable[str],
    *,
    others: Iterable[ServedModel] = (),
    within_seconds: float = WITHIN_SECONDS,
    find_process: Callable[[str], ServerProcess | Unavailable] = server_process,
    clock: Callable[[], float] = time.monotonic,
) -> ServerReport:
    """Ask a server about itself and about models by name, and other servers of this machine for the windows of
    *others*. Never raises.

    It returns within the time given; every answer that has not come by then is ``Unavailable``. A server that does not
    report its version is asked nothing more, and every entry has that one reason. Names of cloud models are not sent.
    """
    base, wanted = client.base_url, tuple(dict.fromkeys(names))
    calls = _ParallelCalls(base, within_seconds, clock)
    windows = {model.model: calls.start(partial(window_of, model)) for model in others}
    process = calls.start(lambda _left: find_process(base))
    version, helps = calls.result(calls.start(client.reach)), ""
    if isinstance(version, Unavailable):
        helps = what_helps_reaching(version, base)
        version = Unavailable(version.reason)
        calls.give_up(version)
    loaded, cloud = calls.start(client.loaded_models), calls.start(client.cloud_disabled)
    installed = calls.result(calls.start(client.installed))
    models = {name: calls.start(partial(client.model_facts, name, installed)) for name in wanted}
    return ServerReport(
        base=display_base(base),
        is_local=is_this_machine(base),
        version=version,
        helps=helps,
        installed=installed,
        loaded=calls.result(loaded),
        cloud_disabled=calls.result(cloud),
        process=calls.result(process),
        models={name: calls.result(facts) for name, facts in models.items()},
        others={name: calls.result(window) for name, window in windows.items()},
    )


def what_helps_reaching(why: Unavailable, base: str, root: Path = Path("/")) -> str:
    """What helps where a server did not tell its version. ``ollama serve`` helps only where nothing listens.

    *root* is where the files of the operating system are looked for.
    """
    local, shown = is_this_machine(base), display_base(base)
    there = "ollama serve" if local else f"start Ollama on the machine of {public_base(base)}"
    if local and is_wsl(root):
        there += _OF_WINDOWS
    question = Question("Ollama", shown, "/api/version")
    return help_for(why, question, start=there) if isinstance(why, NoAnswer) else "ollama ps"


class _ParallelCalls:
    """Calls that run side by side, each in its own thread, with one deadline for all results."""

    def __init__(self, base: str, within_seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = clock() + within_seconds
        self._reason: Unavailable | None = None
        self._late = Unavailable(
            f"Ollama at {display_base(base)} did not answer within {within_seconds:.2g} s"
        )

    def give_up(self, reason: Unavailable) -> None:
        """Make no more calls: all results of later ones are this reason."""
        self._reason = reason

    def start(self, call: Callable[[float], T]) -> Future[T]:
        """Make a call in a thread of its own, with the seconds that are left as its argument."""
        future: Future[T] = Future()
        if self._reason is not None:
            future.cancel()
            return future
        seconds = self._left()

        def run() -> None:
            try:
                future.set_result(call(seconds))
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits for the result
                future.set_exception(error)

        threading.Thread(target=run, name="survey", daemon=True).start()
        return future

    def result(self, future: Future[T]) -> T | Unavailable:
        """The result of a call, or the reason why there is none: it did not come in time, or was not made."""
        try:
            return future.result(self._left() + _GRACE_SECONDS)
        except NotInTimeError:
            return self._late
        except CancelledError:
            return self._reason or self._late

    def _left(self) -> float:
        return max(0.001, self._deadline - self._clock())


# Models with several names. Ollama has one runner for a file of weights, and lists it by the name that loaded it
# (server/sched.go).


def same_file(
    client: OllamaClient, name: str, others: Iterable[str], timeout_seconds: float | None = None
) -> tuple[str, ...] | Unavailable:
    """Which of the other models run from the same file as this one, under another name."""
    different = [other for other in others if not same_model(other, name)]
    wanted = client.blob(name, timeout_seconds) if different else ""
    if isinstance(wanted, Unavailable) or not wanted:
        return wanted or ()
    same = []
    for other in different:
        blob = client.blob(other, timeout_seconds)
        if isinstance(blob, Unavailable):
            return blob
        if blob == wanted:
            same.append(other)
    return tuple(same)
