"""Unloads models and reports how much memory that freed, by measuring before and after."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.events import ModelsUnloaded
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import LoadedModel, MemoryReading, ModelsReading, Unavailable
from aider_guard.ollama.survey import same_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aider_guard.core.actions import UnloadModels
    from aider_guard.ollama.client import OllamaClient

POLL_SECONDS: Final = 0.25
LEAST_CALL_SECONDS: Final = 1.0
NOT_MEASURED: Final = Unavailable("the memory was not measured")
# Ollama itself waits for 75 % of its estimate (server/sched.go). Its estimates are wrong at times, so it is also enough
# when some memory was freed and then did not change for a second.
ENOUGH: Final = 0.75
STEADY_SECONDS: Final = 1.0
STEADY_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Unloader:
    """Unloads models of one server. ``memory`` is None when Ollama runs on another machine."""

    client: OllamaClient
    memory: Callable[[], MemoryReading] | None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    release: Callable[[tuple[str, ...]], None] = lambda _names: None
    """Called first with the names, so that the door does not load these models ahead meanwhile."""

    def unload(self, request: UnloadModels) -> ModelsUnloaded:
        """Unload the models, then wait until Ollama no longer lists them and their memory is free.

        It waits as long as the request says, or until the present call has its answer. With no time to wait nothing is
        measured, and the first call is the one that unloads. Never raises: what went wrong is the event's ``problem``,
        and ``names`` has only the models that are gone.
        """
        started_at = self.clock()
        deadline = started_at + request.wait_seconds
        self.release(request.names)
        listed: ModelsReading | Unavailable = self.client.last_list
        before: MemoryReading | None = None
        if request.wait_seconds > 0:
            listed = self.client.loaded_models(self._left(deadline))
            before = self.memory() if self.memory else None
        refusals = self._unload_all(request.names, listed, deadline)
        agreed = tuple(name for name, refusal in refusals.items() if refusal is None)
        after = self._wait_until_gone(agreed, deadline)
        gone = _gone(listed, after) if request.wait_seconds > 0 else NOT_MEASURED
        freed = self._wait_until_free(before, gone, deadline)
        return ModelsUnloaded(
            names=tuple(name for name in agreed if not _is_listed(after, name)),
            freed_bytes=freed,
            seconds=self.clock() - started_at,
            problem="; ".join(_problems(refusals, after)),
        )

    def _unload_all(
        self, names: Sequence[str], listed: ModelsReading | Unavailable, deadline: float
    ) -> dict[str, Unavailable | None]:
        """The reason why each model is not unloaded; None where Ollama agreed.

        All calls are made at the same time, so that a slow answer for one model keeps no other in memory. Models that
        are not in the list are checked first.
        """
        known = isinstance(listed, ModelsReading)
        sure = [name for name in names if known and _is_listed(listed, name)]
        rest = [name for name in names if name not in sure]
        with ThreadPoolExecutor(max(1, len(names))) as pool:

            def start(name: str) -> Future[Unavailable | None]:
                return pool.submit(self.client.unload, name, self._left(deadline))

            calls = {name: start(name) for name in sure}
            kept = self._used_by_others(rest, names, deadline) if rest else {}
            calls |= {name: start(name) for name in rest if name not in kept}
            return {name: kept.get(name) or calls[name].result() for name in names}

    def _used_by_others(
        self, unlisted: Sequence[str], ours: Sequence[str], deadline: float
    ) -> dict[str, Unavailable]:
        """The models among those in no list that must stay, each with the reason: their runner may belong to another
        program, which has loaded the same file under another name.
        """
        reading = self.client.loaded_models(self._left(deadline))
        if isinstance(reading, Unavailable):
            return dict.fromkeys(unlisted, reading)
        loaded = [model.name for model in reading.models]
        others = [other for other in loaded if not any(same_model(other, name) for name in ours)]
        kept = {}
        for name in unlisted if others else ():
            left = self._left(deadline)
            same = () if _is_listed(reading, name) else same_file(self.client, name, others, left)
            if isinstance(same, Unavailable):
                kept[name] = same
            elif same:
                kept[name] = Unavailable(f"{name} runs as {same[0]}, which another program loaded")
        return kept

    def _left(self, deadline: float) -> float:
        """The seconds for one call; never so few that it could not succeed on a busy machine."""
        return max(LEAST_CALL_SECONDS, deadline - self.clock())

    def _wait_until_gone(
        self, names: tuple[str, ...], deadline: float
    ) -> ModelsReading | Unavailable:
        while True:
            reading = self.client.loaded_models(self._left(deadline))
            gone = not any(_is_listed(reading, name) for name in names)
            if gone or self.clock() + POLL_SECONDS >= deadline:
                return reading
            self.sleep(POLL_SECONDS)

    def _wait_until_free(
        self,
        before: MemoryReading | None,
        gone: tuple[LoadedModel, ...] | Unavailable,
        deadline: float,
    ) -> int | Unavailable:
        """The freed bytes; the driver may need some seconds after Ollama has removed the runner from its list."""
        if isinstance(gone, Unavailable):
            return gone
        if not gone:
            return 0
        if before is None or self.memory is None:
            return Unavailable("Ollama runs on another machine")
        on_gpu = any(model.vram_bytes for model in gone)
        expected = sum(model.vram_bytes if on_gpu else model.size_bytes for model in gone)
        start = used_bytes(before, on_gpu)
        if isinstance(start, Unavailable):
            return start
        steady, steady_since = 0, self.clock()
        while True:
            used = used_bytes(self.memory(), on_gpu)
            now = self.clock()
            if isinstance(used, int):
                freed = start - used
                if abs(freed - steady) > STEADY_BYTES:
                    steady, steady_since = freed, now
                is_steady = steady > 0 and now - steady_since >= STEADY_SECONDS
                if freed >= expected * ENOUGH or is_steady:
                    return freed
            if now + POLL_SECONDS >= deadline:
                return _difference(start, used)
            self.sleep(POLL_SECONDS)


def used_bytes(reading: MemoryReading, on_gpu: bool) -> int | Unavailable:
    """The used memory of all GPUs together, or the resident memory of Ollama's processes."""
    if on_gpu:
        if isinstance(reading.gpus, Unavailable):
            return reading.gpus
        untold = (gpu.vram_used_bytes for gpu in reading.gpus)
        return next(
            (used for used in untold if isinstance(used, Unavailable)),
            sum(gpu.least_used_bytes for gpu in reading.gpus),
        )
    return reading.ram if isinstance(reading.ram, Unavailable) else reading.ram.ollama_bytes


def _difference(start: int, used: int | Unavailable) -> int | Unavailable:
    if isinstance(used, Unavailable):
        return used
    if used > start:
        return Unavailable("something else took memory meanwhile")
    return start - used


def _is_listed(reading: ModelsReading | Unavailable, name: str) -> bool:
    """Whether a model may still be loaded; without an answer it may be."""
    if isinstance(reading, Unavailable):
        return True
    return any(same_model(model.name, name) for model in reading.models)


def _gone(
    before: ModelsReading | Unavailable, after: ModelsReading | Unavailable
) -> tuple[LoadedModel, ...] | Unavailable:
    """The models that are no longer listed; two names of one file share a runner and are unloaded together."""
    if isinstance(before, Unavailable):
        return before
    if isinstance(after, Unavailable):
        return after
    return tuple(model for model in before.models if not _is_listed(after, model.name))


def _problems(
    refusals: dict[str, Unavailable | None], after: ModelsReading | Unavailable
) -> dict[str, None]:
    """The sentences about what went wrong, each once."""
    problems = [refusal.reason for refusal in refusals.values() if refusal is not None]
    if isinstance(after, Unavailable):
        problems.append(after.reason)
    else:
        agreed = [name for name, refusal in refusals.items() if refusal is None]
        problems += [f"Ollama still lists {name}" for name in agreed if _is_listed(after, name)]
    return dict.fromkeys(problems)
