"""Everything that the checks need to know of one Ollama server, asked at once, in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

import httpx

from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.ollama.client import OllamaClient, is_count, json_object, verification
from aider_guard.ollama.fetching import fetch
from aider_guard.ollama.names import connectable_base, display_base, is_this_machine
from aider_guard.ollama.server_process import server_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from aider_guard.core.server_report import ServedModel, ServerProcess
    from aider_guard.ollama.client import OllamaClient

# The window of a model on a local server that speaks OpenAI's protocol, in the server's own words. Never raises.
#
# The protocol has no field for it, so that each server has one of its own:
# vLLM and SGLang ``max_model_len`` in ``/v1/models``; llama.cpp's server ``meta.n_ctx`` there, for each slot (older
# ones only ``default_generation_settings.n_ctx`` in ``/props``); LM Studio ``loaded_context_length`` in
# ``/api/v0/models``. What a model was trained for (``n_ctx_train``, ``max_context_length``) is not what is loaded, and
# not taken.

ANSWER_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 1.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_LEAST_TOKENS: Final = 16


def window_of(
    model: ServedModel,
    within_seconds: float = ANSWER_SECONDS,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> int | Unavailable:
    """The window in tokens that this model's server has for it, or why it is not known.

    It takes at most the time given. Only servers of this machine are asked.
    """
    base = connectable_base(model.base)
    if not is_this_machine(base):
        return Unavailable(f"{display_base(base)} is on another machine and is not asked")
    # As sidecar/ollama.py: no proxy of the environment's, no redirect, certificates only where they matter.
    with httpx.Client(trust_env=False, verify=verification(base)) as http:
        return _Asked(http, base, clock() + within_seconds, clock).window(model.name)


class _Asked:
    """One server, asked with one deadline."""

    def __init__(
        self, http: httpx.Client, base: str, deadline: float, clock: Callable[[], float]
    ) -> None:
        self._http = http
        self._base = base
        self._root = base.removesuffix("/v1")
        self._deadline = deadline
        self._clock = clock

    def window(self, name: str) -> int | Unavailable:
        """The window, from wherever the server tells it."""
        listed = self._get(f"{self._base}/models")
        if isinstance(listed, Unavailable):
            return listed
        entry = _entry(listed, name)
        if entry is None:
            return Unavailable(f"{display_base(self._base)} does not list {name}")
        found = next(_windows_in(entry), None) or self._elsewhere(name)
        return found or Unavailable(f"{display_base(self._base)} does not tell the window")

    def _elsewhere(self, name: str) -> int | None:
        """From the calls that only one kind of server has."""
        match self._get(f"{self._root}/props"):
            case {"default_generation_settings": {"n_ctx": tokens}} if _is_window(tokens):
                return tokens
        listed = self._get(f"{self._root}/api/v0/models")
        entry = None if isinstance(listed, Unavailable) else _entry(listed, name)
        return next(_windows_in(entry or {}), None)

    def _get(self, url: str) -> dict[str, Any] | Unavailable:
        """The JSON object at this address."""
        shown = display_base(self._base)
        try:
            status, content = self._fetch(url)
        except (httpx.TimeoutException, TimeoutError):
            return Unavailable(f"{shown} did not answer in time")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return Unavailable(f"{shown} cannot be reached ({str(error) or type(error).__name__})")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return Unavailable(f"{shown} tells its window only with a key ({status})")
        decoded = json_object(content) if status == httpx.codes.OK else None
        return Unavailable(f"{shown} answered strangely ({status})") if decoded is None else decoded

    def _fetch(self, url: str) -> tuple[int, bytes]:
        return fetch(
            partial(self._http.stream, "GET", url),
            seconds=max(0.001, self._deadline - self._clock()),
            connect_seconds=CONNECT_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            clock=self._clock,
        )


def _entry(listed: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The entry of a model in a list of models. One model alone is meant by any name: llama.cpp ignores names."""
    match listed:
        case {"data": list(items)}:
            entries = [item for item in items if isinstance(item, dict)]
            if len(entries) == 1:
                return entries[0]
            return next((one for one in entries if name in _names(one)), None)
    return None


def _names(entry: Mapping[str, Any]) -> list[Any]:
    aliases = entry.get("aliases")
    return [entry.get("id"), *(aliases if isinstance(aliases, list) else ())]


def _windows_in(entry: Mapping[str, Any]) -> Iterator[int]:
    """The windows that an entry tells, its own words first."""
    meta = entry.get("meta")
    more = meta.get("n_ctx") if isinstance(meta, dict) else None
    told = (entry.get("max_model_len"), more, entry.get("loaded_context_length"))
    return (tokens for tokens in told if _is_window(tokens))


def _is_window(tokens: object) -> TypeGuard[int]:
    return is_count(tokens) and tokens >= _LEAST_TOKENS


WITHIN_SECONDS: Final = 3.0
# A call that takes all of its time says better than we could what went wrong.
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

    It is back within the time given; what has not come by then is ``Unavailable``. A server that
    does not tell its version is asked nothing more, and every entry has that one reason. Names of
    cloud models are not sent.
    """
    base, wanted = client.base_url, tuple(dict.fromkeys(names))
    answers = _Round(base, within_seconds, clock)
    windows = {one.model: answers.begin(partial(window_of, one)) for one in others}
    process = answers.begin(lambda _left: find_process(base))
    version = answers.got(answers.begin(client.version))
    if isinstance(version, Unavailable):
        silent = _silent(base, version, wanted, answers.got(process))
        return replace(
            silent, others={name: answers.got(window) for name, window in windows.items()}
        )
    loaded, cloud = answers.begin(client.loaded_models), answers.begin(client.cloud_disabled)
    installed = answers.got(answers.begin(client.installed))
    models = {name: answers.begin(partial(client.model_facts, name, installed)) for name in wanted}
    return ServerReport(
        base=display_base(base),
        is_local=is_this_machine(base),
        version=version,
        installed=installed,
        loaded=answers.got(loaded),
        cloud_disabled=answers.got(cloud),
        process=answers.got(process),
        models={name: answers.got(facts) for name, facts in models.items()},
        others={name: answers.got(window) for name, window in windows.items()},
    )


def _silent(
    base: str, why: Unavailable, names: Iterable[str], process: ServerProcess | Unavailable
) -> ServerReport:
    """The report on a server that does not answer: one reason for all of it."""
    return ServerReport(
        base=display_base(base),
        is_local=is_this_machine(base),
        version=why,
        installed=why,
        loaded=why,
        cloud_disabled=why,
        process=process,
        models=dict.fromkeys(names, why),
    )


class _Round:
    """Questions asked side by side, with one deadline for all answers."""

    def __init__(self, base: str, within_seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = clock() + within_seconds
        self._late = Unavailable(
            f"Ollama at {display_base(base)} did not answer within {within_seconds:.2g} s"
        )

    def begin(self, ask: Callable[[float], T]) -> Future[T]:
        """Ask in a thread of its own, with the seconds that are left."""
        answer: Future[T] = Future()
        seconds = self._left()

        def run() -> None:
            try:
                answer.set_result(ask(seconds))
            except BaseException as error:  # noqa: BLE001  # a bug is raised where it is waited for
                answer.set_exception(error)

        threading.Thread(target=run, name="survey", daemon=True).start()
        return answer

    def got(self, answer: Future[T]) -> T | Unavailable:
        """The answer, or why it was not waited for any longer."""
        try:
            return answer.result(self._left() + _GRACE_SECONDS)
        except NotInTimeError:
            return self._late

    def _left(self) -> float:
        return max(0.001, self._deadline - self._clock())


# Models under several names: Ollama has one runner for a file of weights, and lists it by the name that loaded it
# (server/sched.go).


def same_file(
    client: OllamaClient, name: str, others: Iterable[str], timeout_seconds: float | None = None
) -> tuple[str, ...] | Unavailable:
    """Which of the other models run from the same file as this one, under another name."""
    different = [other for other in others if not same_model(other, name)]
    wanted = client.blob(name, timeout_seconds) if different else ""
    if isinstance(wanted, Unavailable) or not wanted:
        return wanted or ()
    found = []
    for other in different:
        blob = client.blob(other, timeout_seconds)
        if isinstance(blob, Unavailable):
            return blob
        if blob == wanted:
            found.append(other)
    return tuple(found)
