"""Which models of a stand-in are in memory: loading, loading anew, keeping, unloading (server/sched.go)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from standin.child import Child, ChildError, ChildProgram, Launch
from standin.log import slog

if TYPE_CHECKING:
    from standin.models import StoredModel

FOREVER_SECONDS: Final = 292.0 * 365.25 * 86400
"""The longest duration that Go knows, about: what a negative ``keep_alive`` means."""
BUSY: Final = "server busy, please try again.  maximum pending requests exceeded"
LEAST_WINDOW_TOKENS: Final = 4
_UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class ServerSettings:
    """What Ollama takes from its environment."""

    window_tokens: int = 4096
    parallel: int = 1
    most_loaded: int = 3
    keep_seconds: float = 300.0
    most_waiting: int = 512


@dataclass(frozen=True)
class Wish:
    """What a request wants of a runner. The options of a launch are compared only where it is explicit."""

    launch: Launch
    auto_window: bool
    auto_batch: bool


@dataclass
class Runner:
    """A model in memory."""

    model: StoredModel
    wish: Wish
    child: Child
    keep_seconds: float
    expires_at: float
    """Unix time in seconds."""
    users: int = 0
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """As many requests as it has slots compute at a time."""

    @property
    def window_tokens(self) -> int:
        """The tokens that it can hold for one request."""
        return self.wish.launch.window_tokens

    def suits(self, wish: Wish) -> bool:
        """Whether a request can use it as it is (``needsReload``)."""
        wanted, has = wish.launch, self.wish.launch
        if wish.auto_window and self.wish.auto_window:
            wanted = replace(wanted, window_tokens=has.window_tokens)
        if wish.auto_batch and self.wish.auto_batch:
            wanted = replace(wanted, batch=has.batch)
        return replace(wanted, keep=has.keep) == has and not self.child.has_ended


class Scheduler:
    """The runners of a stand-in."""

    def __init__(self, program: ChildProgram, settings: ServerSettings, *, quiet: bool) -> None:
        self._program, self._settings = program, settings
        self._logs_templates = not quiet
        self._runners: dict[str, Runner] = {}
        self._waiting = 0
        self._changing = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._news = asyncio.Event()
        self._expiry = asyncio.create_task(self._expire())

    def runners(self) -> list[Runner]:
        """Those in memory, the one that stays longest first."""
        return sorted(self._runners.values(), key=lambda one: one.expires_at, reverse=True)

    def wish(self, model: StoredModel, body: Mapping[str, Any]) -> Wish:
        """What a request wants: its own options, else the model's, else the server's."""
        options = {**model.options, **(body.get("options") or {})}
        window = int(options.get("num_ctx") or self._settings.window_tokens)
        trained = model.head.trained_tokens
        window = max(window, LEAST_WINDOW_TOKENS)
        window = min(window, trained) if trained else window
        keep = int(options.get("num_keep", 4))
        shift = body.get("shift")
        shifts = model.details["family"] != "deepseek2" if shift is None else bool(shift)
        launch = Launch(
            window,
            int(options.get("num_batch") or _batch(window * self._settings.parallel)),
            int(options.get("num_thread") or 0),
            shifts,
            keep,
            self._settings.parallel,
            model.is_native,
        )
        return Wish(launch, "num_ctx" not in options, "num_batch" not in options)

    @asynccontextmanager
    async def held(
        self, model: StoredModel, wish: Wish, keep_alive: object
    ) -> AsyncIterator[Runner]:
        """A runner for a request, loaded if need be, and kept while it is used. Raises ``ChildError``."""
        if self._waiting >= self._settings.most_waiting:
            raise ChildError(BUSY, 503)
        self._waiting += 1
        try:
            async with self._changing:
                runner = await self._runner(model, wish)
                runner.users += 1
        finally:
            self._waiting -= 1
        if keep_alive is not None:
            runner.keep_seconds = seconds(keep_alive)
        runner.expires_at = time.time() + runner.keep_seconds
        try:
            yield runner
        finally:
            runner.users -= 1
            runner.expires_at = time.time() + runner.keep_seconds
            await self._notify()

    async def expire(self, model: StoredModel) -> None:
        """Let a model go as soon as nothing uses it."""
        if runner := self._runners.get(str(model.file)):
            runner.keep_seconds, runner.expires_at = 0.0, time.time()
            await self._notify()

    async def close(self) -> None:
        """End every child."""
        self._expiry.cancel()
        with suppress(asyncio.CancelledError):
            await self._expiry
        for runner in list(self._runners.values()):
            await runner.child.stop()

    async def _runner(self, model: StoredModel, wish: Wish) -> Runner:
        key = str(model.file)
        if runner := self._runners.get(key):
            if runner.suits(wish) and await runner.child.answers():
                return runner
            await self._unload(runner)
        while len(self._runners) >= self._settings.most_loaded:
            idle = [one for one in self._runners.values() if not one.users]
            await self._unload(
                min(idle or self._runners.values(), key=lambda one: one.keep_seconds)
            )
        return await self._load(model, wish)

    async def _load(self, model: StoredModel, wish: Wish) -> Runner:
        path = {"model": str(model.file)}
        words = "disabling mmap for llama-server load by default"
        slog("INFO", "sched.go:1147", words, **path, reason="cpu")
        slog("INFO", "server.go:109", "using llama-server for model", **path)
        child = await Child.start(self._program, wish.launch, model.file)
        if self._logs_templates:
            _log_template(model)
        kept = self._settings.keep_seconds
        runner = Runner(model, wish, child, kept, time.time() + kept)
        runner.turn = asyncio.Semaphore(self._settings.parallel)
        self._runners[str(model.file)] = runner
        slog("INFO", "sched.go:728", "loaded runners", count=len(self._runners))
        return runner

    async def _unload(self, runner: Runner) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not runner.users)
        if self._runners.get(str(runner.model.file)) is runner:
            del self._runners[str(runner.model.file)]
        await runner.child.stop()

    async def _notify(self) -> None:
        self._news.set()
        async with self._changed:
            self._changed.notify_all()

    async def _expire(self) -> None:
        """Unload what has been kept long enough."""
        while True:
            self._news.clear()
            idle = [one for one in self._runners.values() if not one.users]
            for runner in [one for one in idle if one.expires_at <= time.time()]:
                async with self._changing:
                    if not runner.users and runner.expires_at <= time.time():
                        await self._unload(runner)
            left = [one.expires_at - time.time() for one in self._runners.values() if not one.users]
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, min([*left, 3600.0])))


def seconds(keep_alive: object) -> float:
    """A duration as Ollama takes it: seconds, or Go's ``1h30m``; negative is for ever."""
    if isinstance(keep_alive, str) and not re.fullmatch(r"-?[\d.]+", keep_alive):
        parts = re.findall(r"([\d.]+)(ms|s|m|h)", keep_alive)
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
        return FOREVER_SECONDS if keep_alive.startswith("-") else total
    number = float(str(keep_alive))
    return number if number >= 0 else FOREVER_SECONDS


def _batch(window_tokens: int) -> int:
    """How many tokens are read at once (``generationBatchForContext``)."""
    if window_tokens > 32768:
        return 2048
    return 1024 if window_tokens > 4096 else 512


def _log_template(model: StoredModel) -> None:
    """The line that says who makes a model's prompts (``logTemplateSelection``)."""
    sources: dict[str, tuple[object, Literal["go", "chat", "parser"]]] = {
        "go_template": (model.go_template is not None, "go"),
        "chat_template": (model.head.chat_template, "chat"),
        "harmony": (None, "parser"),
        "renderer_parser": (model.renderer or model.parser, "parser"),
    }
    abilities = {
        key: f"[{' '.join(model.abilities(source))}]" if has else "null"
        for key, (has, source) in sources.items()
    }
    name = f"{model.name.host}/{model.name.namespace}/{model.name.model}:{model.name.tag}"
    used = {
        "selected": model.template_kind,
        "renderer": model.renderer,
        "parser": model.parser,
    }
    slog("INFO", "images.go:381", "template selection", model=name, **used, **abilities)
