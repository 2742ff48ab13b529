"""Surveys an Ollama server for the checks, and other servers of this machine for their models, in bounded time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTimeError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer, Question, help_for
from aider_guard.core.server_report import ServerReport
from aider_guard.ollama.names import display_base, is_this_machine, public_base
from aider_guard.ollama.other_server import describe_model
from aider_guard.ollama.server_process import is_wsl, server_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aider_guard.core.server_report import ServedModel, ServerProcess
    from aider_guard.ollama.client import OllamaClient

# In WSL's usual network a program on Windows is another machine (Microsoft, "Accessing network applications with WSL").
_OF_WINDOWS: Final = (
    "   # one on Windows: networkingMode=mirrored in .wslconfig, or its address in OLLAMA_API_BASE"
)

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
    """Ask a server about itself and about models by name, and other servers of this machine about the models
    *others*. Never raises.

    It returns within the time given; every answer that has not come by then is ``Unavailable``. A server that does not
    report its version is asked nothing more, and every entry has that one reason. Names of cloud models are not sent.
    """
    base, wanted = client.base_url, tuple(dict.fromkeys(names))
    calls = _ParallelCalls(base, within_seconds, clock)
    described = {model.model: calls.start(partial(describe_model, model)) for model in others}
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
        others={name: calls.result(model) for name, model in described.items()},
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
