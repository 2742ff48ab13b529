"""What a fake Ollama has in memory: one runner a file of weights, loaded again whenever its options change.

Sources: server/sched.go (needsReload, eviction, expiry), api/types.go (Runner options).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakes.ollama_models import FakeModel

RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
FOREVER_SECONDS = 292 * 365 * 86400.0
"""What a negative ``keep_alive`` becomes: about the year 2318."""
_KEEP_ALIVE_SECONDS = 300.0
_GO_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Speed:
    """How long things take, as the answers tell it. ``share`` of that time really passes."""

    load_seconds: float = 1.5
    prompt_tokens_per_second: float = 1000.0
    answer_tokens_per_second: float = 50.0
    share: float = 0.0


@dataclass
class Runner:
    """A model in memory."""

    model: FakeModel
    window_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    """What its cache holds: the last prompt and answer."""
    until: float = float("inf")
    """Seconds since 1970."""
    stay_seconds: float = _KEEP_ALIVE_SECONDS
    leaving: bool = False
    """Whether it goes when its request is over."""
    used: int = 0
    """Counts up: the smallest was not used for the longest time."""
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def needed_bytes(self) -> int:
        """What it takes."""
        return self.model.needed_bytes(self.window_tokens)


@dataclass(frozen=True)
class TooLarge:
    """A model does not fit in memory even alone."""

    needed_bytes: int
    memory_bytes: int


@dataclass
class Runners:
    """All that is loaded; ``listed`` gives the list of names that tests write to as well."""

    listed: Callable[[], list[str]]
    find: Callable[[str], FakeModel | None]
    memory_bytes: int | None
    on_unload: Callable[[str], None]
    clock: Callable[[], float] = time.time
    lock: threading.RLock = field(default_factory=threading.RLock)
    _runners: dict[str, Runner] = field(default_factory=dict)
    _uses: int = 0

    def get(self, model: FakeModel) -> Runner | None:
        """The runner of this model's weights, whichever request loaded it."""
        with self.lock:
            for name in self.listed():
                other = self.find(name)
                if other is not None and other.weights == model.weights:
                    default = Runner(other, other.window_tokens)
                    return self._runners.setdefault(model.weights, default)
            self._runners.pop(model.weights, None)
            return None

    def take(
        self, model: FakeModel, options: Mapping[str, Any], *, auto_differs: bool
    ) -> tuple[Runner, bool] | TooLarge:
        """The runner for a request, and whether it had to be loaded. ``auto_differs``: a default window
        differs from the same number in a request (0.30 and later).
        """
        with self.lock:
            asked = {name: options[name] for name in RUNNER_OPTIONS if options.get(name)}
            window = self._window(model, asked)
            runner = self.get(model)
            self._uses += 1
            if runner is not None and not _differs(runner, asked, window, auto_differs):
                runner.used = self._uses
                return runner, False
            needed = model.needed_bytes(window)
            if self.memory_bytes is not None and needed > self.memory_bytes:
                self._drop(runner)
                return TooLarge(needed, self.memory_bytes)
            self._make_room(needed, runner)
            fresh = Runner(model, window, asked, used=self._uses)
            self._runners[model.weights] = fresh
            self.listed().append(model.name)
            return fresh, True

    def keep(self, runner: Runner, keep_alive: object) -> None:
        """Let a runner stay for as long as the last request says that says something (sched.go, useLoadedRunner)."""
        if keep_alive is not None:
            runner.stay_seconds = seconds_of(keep_alive)
        runner.until = self.clock() + runner.stay_seconds
        if runner.stay_seconds == 0 or runner.leaving:
            self.unload(runner)

    def unload(self, runner: Runner) -> None:
        """Take it out of memory."""
        with self.lock:
            self._drop(runner)

    @property
    def idle(self) -> bool:
        """Whether no request runs. Its last one may still hold a runner when its client has the whole answer."""
        with self.lock:
            return not any(runner.busy.locked() for runner in self._runners.values())

    def expire(self) -> None:
        """Unload what has been idle for long enough."""
        with self.lock:
            for runner in list(self._runners.values()):
                if runner.until <= self.clock() and not runner.busy.locked():
                    self._drop(runner)

    def _window(self, model: FakeModel, asked: Mapping[str, Any]) -> int:
        window = int(asked.get("num_ctx") or model.num_ctx or model.window_tokens)
        return min(window, model.trained_tokens or window)

    def _make_room(self, needed: int, own: Runner | None) -> None:
        """Push out whatever was not used for the longest time, until this fits; its own old runner in any case."""
        self._drop(own)
        if self.memory_bytes is None:
            return
        others = [runner for name in self.listed() if (runner := self._named(name)) is not None]
        for runner in sorted(others, key=lambda one: one.used):
            if needed + sum(one.needed_bytes for one in others) <= self.memory_bytes:
                return
            with runner.busy:
                self._drop(runner)
            others.remove(runner)

    def _named(self, name: str) -> Runner | None:
        model = self.find(name)
        return None if model is None else self.get(model)

    def _drop(self, runner: Runner | None) -> None:
        if runner is None:
            return
        if self._runners.get(runner.model.weights) is not runner:
            return
        gone = [name for name in self.listed() if self._is(name, runner)]
        self.listed()[:] = [name for name in self.listed() if name not in gone]
        del self._runners[runner.model.weights]
        for name in gone:
            self.on_unload(name)

    def _is(self, name: str, runner: Runner) -> bool:
        model = self.find(name)
        return model is not None and model.weights == runner.model.weights


def _differs(runner: Runner, asked: Mapping[str, Any], window: int, auto_differs: bool) -> bool:
    if auto_differs and ("num_ctx" in asked) != ("num_ctx" in runner.options):
        return True
    others = [name for name in RUNNER_OPTIONS if name != "num_ctx"]
    same = all(asked.get(name) == runner.options.get(name) for name in others)
    return not same or runner.window_tokens != window


def seconds_of(keep_alive: object) -> float:
    """A duration as Ollama takes it: seconds, or Go's ``1h30m``; negative is for ever."""
    match keep_alive:
        case int(number) | float(number):
            return float(number) if number >= 0 else FOREVER_SECONDS
        case str(text) if text.startswith("-"):
            return FOREVER_SECONDS
        case str(text):
            parts = re.findall(r"([\d.]+)(ms|s|m|h|$)", text)
            return sum(float(number) * _GO_UNITS.get(unit, 1.0) for number, unit in parts)
    raise TypeError(f"not a duration: {keep_alive!r}")


def common(one: list[str], other: list[str]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    same = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    return min(len(one), len(other)) if same is None else same
