"""Everything that the checks need to know of one Ollama server, asked at once, in bounded time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.sidecar.here import is_this_machine
from aider_guard.sidecar.names import display_base
from aider_guard.sidecar.openai_server import window_of
from aider_guard.sidecar.server_process import server_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aider_guard.core.server_report import ServedModel, ServerProcess
    from aider_guard.sidecar.ollama import OllamaClient

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
