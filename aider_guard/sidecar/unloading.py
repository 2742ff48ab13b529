"""Unloads models and says what came back, by two measurements."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aider_guard.core.events import ModelsUnloaded
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import LoadedModel, MemoryReading, ModelsReading, Unavailable
from aider_guard.ollama.survey import same_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aider_guard.core.requests import UnloadModels
    from aider_guard.ollama.client import OllamaClient

POLL_SECONDS: Final = 0.25
LEAST_CALL_SECONDS: Final = 1.0
NOBODY_WAITS: Final = Unavailable("nobody waited for the memory")
# 75 % of the estimate is what Ollama itself waits for (server/sched.go). Its estimates are off at
# times, so memory that came back and then stayed the same for a second is enough as well.
ENOUGH: Final = 0.75
STEADY_SECONDS: Final = 1.0
STEADY_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Unloader:
    """``memory`` is None when Ollama runs on another machine, whose memory is not read here."""

    client: OllamaClient
    memory: Callable[[], MemoryReading] | None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    release: Callable[[tuple[str, ...]], None] = lambda _names: None
    """Told first, so that nothing loads them ahead meanwhile."""

    def unload(self, request: UnloadModels) -> ModelsUnloaded:
        """Unload, then wait until Ollama no longer lists the models and their memory is back.

        Waits as long as the request says, or for the answer under way; where nobody waits nothing
        is measured, and nothing comes before the models are told to go. Never raises: what went
        wrong is the event's ``problem``, and ``names`` are only those that are gone.
        """
        started_at = self.clock()
        deadline = started_at + request.wait_seconds
        self.release(request.names)
        listed, before = self._measured(request, deadline)
        answers = self._told_to_go(request.names, listed, deadline)
        agreed = tuple(name for name, refusal in answers.items() if refusal is None)
        after = self._wait_until_gone(agreed, deadline)
        gone = _gone(listed, after) if request.wait_seconds > 0 else NOBODY_WAITS
        freed = self._wait_until_free(before, gone, deadline)
        return ModelsUnloaded(
            names=tuple(name for name in agreed if not _lists(after, name)),
            freed_bytes=freed,
            seconds=self.clock() - started_at,
            problem="; ".join(_problems(answers, after)),
        )

    def _measured(
        self, request: UnloadModels, deadline: float
    ) -> tuple[ModelsReading | Unavailable, MemoryReading | None]:
        """What is loaded, and the memory; where nobody waits for it the list that was read last."""
        if request.wait_seconds <= 0:
            return self.client.last_list, None
        listed = self.client.loaded_models(self._left(deadline))
        return listed, self.memory() if self.memory else None

    def _told_to_go(
        self, names: Sequence[str], listed: ModelsReading | Unavailable, deadline: float
    ) -> dict[str, Unavailable | None]:
        """Why each model is not unloaded, None where Ollama agreed.

        All are told at the same time: a slow answer for one keeps no other in memory. What the list
        does not have is looked for first.
        """
        known = isinstance(listed, ModelsReading)
        sure = [name for name in names if known and _lists(listed, name)]
        rest = [name for name in names if name not in sure]
        with ThreadPoolExecutor(max(1, len(names))) as calls:
            told = {name: calls.submit(self._unload, name, deadline) for name in sure}
            kept = self._not_ours(rest, names, deadline) if rest else {}
            rest = [name for name in rest if name not in kept]
            told |= {name: calls.submit(self._unload, name, deadline) for name in rest}
            return {name: kept.get(name) or told[name].result() for name in names}

    def _unload(self, name: str, deadline: float) -> Unavailable | None:
        return self.client.unload(name, self._left(deadline))

    def _not_ours(
        self, unlisted: Sequence[str], ours: Sequence[str], deadline: float
    ) -> dict[str, Unavailable]:
        """Which of the models that no list has told of are not unloaded, and why: their runner may be another
        program's, that has loaded the same file under another name.
        """
        reading = self.client.loaded_models(self._left(deadline))
        if isinstance(reading, Unavailable):
            return dict.fromkeys(unlisted, reading)
        others = [
            model.name
            for model in reading.models
            if not any(same_model(model.name, name) for name in ours)
        ]
        kept = {}
        for name in [] if not others else unlisted:
            same = () if _lists(reading, name) else self._same_file(name, others, deadline)
            if isinstance(same, Unavailable):
                kept[name] = same
            elif same:
                kept[name] = Unavailable(f"{name} runs as {same[0]}, which another program loaded")
        return kept

    def _same_file(
        self, name: str, others: Sequence[str], deadline: float
    ) -> tuple[str, ...] | Unavailable:
        return same_file(self.client, name, others, self._left(deadline))

    def _left(self, deadline: float) -> float:
        """The time left for one call; never so little that it could not succeed on a busy machine."""
        return max(LEAST_CALL_SECONDS, deadline - self.clock())

    def _wait_until_gone(
        self, names: tuple[str, ...], deadline: float
    ) -> ModelsReading | Unavailable:
        while True:
            reading = self.client.loaded_models(self._left(deadline))
            gone = not any(_lists(reading, name) for name in names)
            if gone or self.clock() + POLL_SECONDS >= deadline:
                return reading
            self.sleep(POLL_SECONDS)

    def _wait_until_free(
        self,
        before: MemoryReading | None,
        gone: tuple[LoadedModel, ...] | Unavailable,
        deadline: float,
    ) -> int | Unavailable:
        """What came back; the driver may need some seconds after Ollama forgot the runner."""
        if isinstance(gone, Unavailable):
            return gone
        if not gone:
            return 0
        if before is None or self.memory is None:
            return Unavailable("Ollama runs on another machine")
        on_gpu = any(model.vram_bytes for model in gone)
        expected = sum(model.vram_bytes if on_gpu else model.size_bytes for model in gone)
        return self._watch(self.memory, on_gpu, used_bytes(before, on_gpu), expected, deadline)

    def _watch(
        self,
        memory: Callable[[], MemoryReading],
        on_gpu: bool,
        start: int | Unavailable,
        expected_bytes: int,
        deadline: float,
    ) -> int | Unavailable:
        steady, steady_since = 0, self.clock()
        while True:
            used = used_bytes(memory(), on_gpu)
            if isinstance(start, Unavailable):
                return start
            now = self.clock()
            if isinstance(used, int):
                freed = start - used
                if abs(freed - steady) > STEADY_BYTES:
                    steady, steady_since = freed, now
                if freed >= expected_bytes * ENOUGH:
                    return freed
                if steady > 0 and now - steady_since >= STEADY_SECONDS:
                    return freed
            if now + POLL_SECONDS >= deadline:
                return _difference(start, used)
            self.sleep(POLL_SECONDS)


def used_bytes(reading: MemoryReading, on_gpu: bool) -> int | Unavailable:
    """What is used of all GPUs, or what Ollama's own processes keep resident."""
    if on_gpu:
        if isinstance(reading.gpus, Unavailable):
            return reading.gpus
        return sum(gpu.vram_used_bytes for gpu in reading.gpus)
    return reading.ram if isinstance(reading.ram, Unavailable) else reading.ram.ollama_bytes


def _difference(start: int, used: int | Unavailable) -> int | Unavailable:
    if isinstance(used, Unavailable):
        return used
    if used > start:
        return Unavailable("something else took memory meanwhile")
    return start - used


def _lists(reading: ModelsReading | Unavailable, name: str) -> bool:
    """Whether a model may still be loaded; an answer that did not come proves nothing."""
    if isinstance(reading, Unavailable):
        return True
    return any(same_model(model.name, name) for model in reading.models)


def _gone(
    before: ModelsReading | Unavailable, after: ModelsReading | Unavailable
) -> tuple[LoadedModel, ...] | Unavailable:
    """Models no longer listed; two names of one file share a runner and go together."""
    if isinstance(before, Unavailable):
        return before
    if isinstance(after, Unavailable):
        return after
    return tuple(model for model in before.models if not _lists(after, model.name))


def _problems(
    answers: dict[str, Unavailable | None], after: ModelsReading | Unavailable
) -> dict[str, None]:
    """What went wrong, each sentence once."""
    refusals = [refusal.reason for refusal in answers.values() if refusal is not None]
    agreed = [name for name, refusal in answers.items() if refusal is None]
    if isinstance(after, Unavailable):
        refusals.append(after.reason)
    else:
        refusals += [f"Ollama still lists {name}" for name in agreed if _lists(after, name)]
    return dict.fromkeys(refusals)
